package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"

	"ntrack/announce/wire"
)

// An attackPlan is what one process of the attackers does.
type attackPlan struct {
	Attack string        `json:"attack"`
	Server string        `json:"server"`
	Port   int           `json:"port"`
	Conns  int           `json:"conns"`  // of this process
	Total  int           `json:"total"`  // requests of this process; 0 is no limit
	Time   time.Duration `json:"time"`   // after which it ends
	Number int           `json:"number"` // of this process, from 0
	Of     int           `json:"of"`     // how many there are
}

// Connections per second that all attackers together begin, at most.
const (
	maxOpens     = 5000   // of those that stay
	maxReconnect = 40_000 // of those that end at once
)

// changesPerSecond is how many joins and leaves there are for streams.
const changesPerSecond = 200

// A gain is what attackers got.
type gain struct {
	Opened   int   `json:"opened"` // connections
	Peak     int   `json:"peak"`   // the most at a time
	Requests int   `json:"requests"`
	Answered int   `json:"answered"` // with status 200 and no failure
	Refused  int   `json:"refused"`  // with another status or a failure
	Cut      int   `json:"cut"`      // connections that the server ended
	Bytes    int64 `json:"bytes"`    // received
}

func (g *gain) add(o gain) {
	g.Opened += o.Opened
	g.Peak += o.Peak
	g.Requests += o.Requests
	g.Answered += o.Answered
	g.Refused += o.Refused
	g.Cut += o.Cut
	g.Bytes += o.Bytes
}

// An attacker is a process that attacks.
type attacker struct {
	attackPlan
	attack *attack
	loop   *loop
	gain   gain
	next   int // the number of the next script
	made   map[string][]byte
	free   int // connections that may begin
	drips  []*assault
	random *rand.Rand
}

// An assault is a connection of an attacker.
type assault struct {
	a      *attacker
	script script
	got    int // replies
	reader replyReader
	conn   *conn
	next   time.Time // of the next byte of drip
}

func runAttacker(p attackPlan) error {
	began := time.Now()
	if p.Attack == hogAttack {
		for time.Since(began) < p.Time {
		}
		return json.NewEncoder(os.Stdout).Encode(gain{})
	}
	l, err := newLoop(p.Port)
	if err != nil {
		return err
	}
	defer l.close()
	a := &attacker{attackPlan: p, attack: attackNamed(p.Attack), loop: l, free: p.Conns, made: make(map[string][]byte),
		random: rand.New(rand.NewPCG(uint64(p.Number), uint64(began.UnixNano())))}
	changes := &changer{a: a}
	for opened := 0; ; {
		since := time.Since(began)
		if since >= p.Time {
			break
		}
		limit := maxOpens
		if p.Conns < 1000 {
			limit = maxReconnect
		}
		for allowed := int(since.Seconds()*float64(limit))/p.Of + 1; a.free > 0 && opened < allowed && !a.sentAll(); opened++ {
			if a.open() != nil {
				break // the next step tries again
			}
		}
		if p.Attack == "streams" && p.Number == 0 {
			changes.until(int(since.Seconds() * changesPerSecond))
		}
		if err := l.step(time.Millisecond); err != nil {
			return err
		}
		a.drip(time.Now())
		if a.sentAll() && a.free == p.Conns {
			time.Sleep(time.Millisecond)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(a.gain)
}

func (a *attacker) sentAll() bool { return a.Total > 0 && a.gain.Requests >= a.Total }

// index is the number of a script among those of all attackers.
func (a *attacker) index(n int) int { return n*a.Of + a.Number }

// address returns one of 10,000 addresses.
func (a *attacker) address(n int) [4]byte {
	i := a.index(n) % 10_000
	return [4]byte{127, 2, byte(i / 250), byte(1 + i%250)}
}

// once returns what create returned the first time.
func (a *attacker) once(name string, create func() []byte) []byte {
	b, ok := a.made[name]
	if !ok {
		b = create()
		a.made[name] = b
	}
	return b
}

// freshKeys announces at random keys, 16 in a pipeline. client, unless empty, is the address that a proxy names.
func (a *attacker) freshKeys(number int, client string) script {
	const n = 16
	s := script{dialing: dialing{from: a.address(number)}, replies: n, end: sendAgain}
	if a.Server == openServer { // it answers one request of a connection
		var hash [20]byte
		for i := range hash {
			hash[i] = byte(a.random.Uint32())
		}
		s.out = wire.AppendEscaped([]byte("GET /announce?info_hash="), hash[:])
		s.out = append(s.out, "&peer_id=-XX0000-xxxxxxxxxxxx&left=1&port=1000&numwant=0&compact=1 HTTP/1.0\r\n\r\n"...)
		s.replies, s.end = 1, closeIt
		return s
	}
	header := ""
	if client != "" {
		i := a.index(number)
		s.from, s.end = [4]byte{127, 9, byte(i / 250 % 4), byte(1 + i%250)}, closeIt
		if a.Server == ntrackServer {
			s.out = fmt.Appendf(s.out, "PROXY TCP6 %s 2001:db8:ffff::1 1000 80\r\n", client)
		} else {
			header = "X-Forwarded-For: " + client + "\r\n"
		}
	}
	for range n {
		s.out = append(s.out, "GET /ntrk/"...)
		s.out = strconv.AppendUint(s.out, a.random.Uint64(), 16)
		s.out = append(s.out, "?port=1000&numwant=0 HTTP/1.1\r\nHost: t\r\n"...)
		s.out = append(append(s.out, header...), "\r\n"...)
	}
	return s
}

// open begins a connection.
func (a *attacker) open() (err error) {
	o := &assault{a: a, script: a.attack.script(a, a.next)}
	a.next++
	if o.conn, err = a.loop.dial(o.script.dialing, o.script.out, o); err != nil {
		return err
	}
	a.free--
	a.gain.Opened++
	a.gain.Peak = max(a.gain.Peak, len(a.loop.conns))
	a.gain.Requests += max(o.script.replies, 1)
	switch {
	case o.script.end == resetAtOnce:
		o.done(true)
	case o.script.drip != nil:
		o.next = time.Now().Add(time.Second)
		a.drips = append(a.drips, o)
	}
	return nil
}

// drip sends bytes that are due.
func (a *attacker) drip(now time.Time) {
	for len(a.drips) > 0 && a.drips[0].next.Before(now) {
		o := a.drips[0]
		a.drips = a.drips[1:]
		if o.conn.fd < 0 || len(o.script.drip) == 0 {
			continue
		}
		o.conn.send(o.script.drip[:1])
		o.script.drip = o.script.drip[1:]
		o.next = o.next.Add(time.Second) // and not from now, so that they do not gather after a delay
		a.drips = append(a.drips, o)
	}
}

// done ends a connection on purpose.
func (o *assault) done(reset bool) {
	o.conn.close(reset)
	o.a.free++
}

func (o *assault) receive(c *conn, b []byte) {
	a := o.a
	a.gain.Bytes += int64(len(b))
	switch o.script.end {
	case resetIt, leaveAtOnce:
		a.gain.Answered++
		o.done(o.script.end == resetIt)
		return
	}
	o.reader.read(b, func(status int, failed bool) bool {
		if status == 200 && !failed {
			a.gain.Answered++
		} else {
			a.gain.Refused++
		}
		if o.got++; o.got < o.script.replies || o.script.end == keepOpen || o.script.end == keepAfterward {
			return true
		}
		if o.script.end == closeIt || a.sentAll() {
			o.done(false)
			return false
		}
		o.script, o.got = a.attack.script(a, a.next), 0
		a.next++
		a.gain.Requests += o.script.replies
		c.send(o.script.out)
		return true
	}, func([]byte) {})
}

// end is called if the server ended the connection. For one that it had refused, or answered as
// asked, this is no surprise.
func (o *assault) end(*conn, error) {
	o.a.free++
	if o.script.end != closeIt || o.got < o.script.replies {
		o.a.gain.Cut++
	}
}

// A changer lets peers join and leave.
type changer struct {
	a    *attacker
	conn *conn
	done int
}

// until brings the number of changes to n. Peers join and leave in turns.
func (c *changer) until(n int) {
	for ; c.done < n; c.done++ {
		if c.conn == nil {
			c.conn, _ = c.a.loop.dial(dialing{from: [4]byte{127, 2, 100, 1}}, nil, c)
		}
		if c.conn == nil || len(c.conn.out) > 1<<16 {
			return
		}
		verb := "GET"
		if c.done/100%2 == 1 {
			verb = "DELETE"
		}
		c.conn.send(fmt.Appendf(nil, "%s /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\n\r\n", verb, attackedKey, 1000+c.done%100))
	}
}

func (c *changer) receive(*conn, []byte) {}
func (c *changer) end(*conn, error)      { c.conn = nil }

// clientHello returns the first bytes of a TLS handshake.
func clientHello() []byte {
	near, far := net.Pipe()
	go func() { // it waits for an answer that never comes, until the pipe is closed
		_ = tls.Client(near, &tls.Config{ServerName: "tracker.example"}).Handshake()
	}()
	defer far.Close()
	var head [5]byte
	if _, err := io.ReadFull(far, head[:]); err != nil {
		return nil
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(far, body); err != nil {
		return nil
	}
	return bytes.Join([][]byte{head[:], body}, nil)
}
