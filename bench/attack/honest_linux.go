package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/announce/wire"
	"ntrack/bench/measure"
)

// An honestPlan is the load of honest clients: how much, and of which kind.
type honestPlan struct {
	Port     int           `json:"port"`
	Rate     int           `json:"rate"`     // announces per second
	Interval time.Duration `json:"interval"` // between two announces of a peer
	Streams  int           `json:"streams"`
	Kept     int           `json:"kept"`    // connections that are kept; 0 if each announce has its own
	Classic  bool          `json:"classic"` // the tracker has only the classic interface
}

// One of joinEvery announces joins a new key. The others renew a peer.
const joinEvery = 20

// perKey is how many peers an honest key has, without those of streams.
const perKey = 10

// members is how many peers renew in each half of the load: as many as it can renew in an interval.
func (p honestPlan) members() int {
	return max(perKey, int(p.Interval.Seconds()*float64(p.Rate)/2*(joinEvery-1)/joinEvery)/perKey*perKey)
}

// keys is how many keys these peers have, those of both halves together.
func (p honestPlan) keys() int { return 2 * p.members() / perKey }

// lapsing is how many joined keys there are at a time, at most.
func (p honestPlan) lapsing() int {
	const ttl = 2.5 // intervals, and a second to lapse
	return p.Rate / joinEvery * int(ttl*p.Interval.Seconds()+2)
}

// newKeys is how many keys there are to join. After that the first are joined again, when they have
// long lapsed.
const newKeys = 20_000

// keyNames returns the names of all keys that honest clients use.
func (p honestPlan) keyNames() []string {
	var names []string
	for i := range p.keys() {
		names = append(names, fmt.Sprint("honest-", i))
	}
	for i := range newKeys {
		names = append(names, fmt.Sprint("new-", i))
	}
	return names
}

// infoHash is the key of the classic interface for a name.
func infoHash(name string) [20]byte { return sha1.Sum([]byte(name)) }

// honestAddress returns one of the addresses of the honest clients, 127.1.0.1 and on.
func honestAddress(n int) [4]byte { return [4]byte{127, 1, byte(n / 250), byte(1 + n%250)} }

// An honestResult is what the honest clients saw. Times are in milliseconds, from the moment at
// which the announce was due.
type honestResult struct {
	Renewals    answers `json:"renewals"`
	Joins       answers `json:"joins"`
	FalseLeaves int     `json:"false_leaves"` // of honest peers, as their streams saw them
	StreamsCut  int     `json:"streams_cut"`  // streams that the server ended
	Late        float64 `json:"late_p99_ms"`  // how late the load itself was
}

type answers struct {
	Asked    int     `json:"asked"`
	Answered int     `json:"answered"` // in 10 s, without a refusal
	Refused  int     `json:"refused"`
	P50      float64 `json:"p50_ms"` // a client without a reply counts as 10 s
	P99      float64 `json:"p99_ms"`
}

// patience is how long an honest client waits for its reply.
const patience = 10 * time.Second

// An honest is the load of honest clients.
type honest struct {
	honestPlan
	loop    *loop
	start   time.Time
	fired   [2]int // announces of each half, 0 is kept, 1 has a connection each
	renewed [2]int // of these the renewals
	joined  int
	kept    []*keptConn
	streams []*honestStream
	waiting []*ask // in the order of their times
	again   []*ask // to be tried again

	measuring   bool
	times       [2]measure.Histogram // of renewals and joins
	counts      [2]answers
	open        int // measured announces without an outcome
	late        measure.Histogram
	falseLeaves int
	streamsCut  int
}

// An ask is one announce.
type ask struct {
	h        *honest
	due      time.Time
	next     time.Time // of the next try
	wait     time.Duration
	join     bool
	measured bool
	done     bool
	from     [4]byte
	request  []byte
	kept     *keptConn // the connection that it waits for or uses; else nil
	conn     *conn     // its own connection; else nil
	reader   replyReader
}

func runHonest(p honestPlan) error {
	l, err := newLoop(p.Port)
	if err != nil {
		return err
	}
	defer l.close()
	h := &honest{honestPlan: p, loop: l, start: time.Now()}
	for i := range p.Kept {
		h.kept = append(h.kept, &keptConn{h: h, from: honestAddress(i)})
	}
	for i := range p.Streams {
		s := &honestStream{h: h, from: honestAddress(2*h.spread() + i),
			request: fmt.Appendf(nil, "GET /ntrk/honest-%d?port=4000 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", i%p.keys())}
		if err := s.dial(); err != nil {
			return err
		}
		h.streams = append(h.streams, s)
	}
	commands := make(chan string)
	go func() {
		defer close(commands)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commands <- in.Text()
		}
	}()
	ready, report := false, false
	for {
		if err := l.step(time.Millisecond); err != nil {
			return err
		}
		now := time.Now()
		if err := h.tick(now); err != nil {
			return err
		}
		if !ready && h.renewed[0] >= h.members() && h.renewed[1] >= h.members() && h.streaming() == p.Streams {
			ready = true
			fmt.Println("ready")
		}
		if report && h.open == 0 {
			report = false
			if err := json.NewEncoder(os.Stdout).Encode(h.result()); err != nil {
				return err
			}
		}
		select {
		case command, ok := <-commands:
			switch {
			case !ok:
				return nil
			case command == "begin":
				h.measuring, h.falseLeaves, h.streamsCut = true, 0, 0
			case command == "end":
				h.measuring = false
			case command == "report":
				report = true
			}
		default:
		}
	}
}

// spread is how many addresses the peers of each half have.
func (h *honest) spread() int { return max(1, h.Kept, h.Rate/2) }

// streaming is how many streams have their list of peers.
func (h *honest) streaming() int {
	n := 0
	for _, s := range h.streams {
		if s.listed {
			n++
		}
	}
	return n
}

// tick does what is due.
func (h *honest) tick(now time.Time) error {
	per := 2 * time.Second / time.Duration(h.Rate) // each half has half of the announces
	for half := range 2 {
		for {
			due := h.start.Add(time.Duration(h.fired[half]) * per)
			if half == 1 {
				due = due.Add(per / 2)
			}
			if due.After(now) {
				break
			}
			if h.measuring {
				h.late.Add(now.Sub(due))
			}
			if err := h.fire(half, due); err != nil {
				return err
			}
			h.fired[half]++
		}
	}
	for len(h.waiting) > 0 {
		a := h.waiting[0]
		if !a.done && now.Sub(a.due) < patience {
			break
		}
		h.waiting = h.waiting[1:]
		if err := a.giveUp(); err != nil {
			return err
		}
	}
	later := h.again[:0:0]
	for _, a := range h.again {
		switch {
		case a.done:
		case a.next.After(now):
			later = append(later, a)
		default:
			if err := a.dial(); err != nil {
				return err
			}
		}
	}
	h.again = later
	for _, s := range h.streams {
		if s.conn == nil && now.After(s.next) {
			if err := s.dial(); err != nil {
				return err
			}
		}
	}
	return nil
}

// fire begins one announce.
func (h *honest) fire(half int, due time.Time) error {
	n := h.fired[half]
	a := &ask{h: h, due: due, measured: h.measuring, join: n%joinEvery == joinEvery-1, wait: time.Second}
	var key string
	var who, port int
	if a.join {
		key, who, port = fmt.Sprint("new-", h.joined%newKeys), n, 3000
		h.joined++
	} else {
		peer := h.renewed[half] % h.members()
		h.renewed[half]++
		key, who, port = fmt.Sprint("honest-", peer%h.keys()), peer, 20_000+peer/h.spread()
	}
	who = who%h.spread() + half*h.spread()
	a.from = honestAddress(who)
	kept := half == 0 && h.Kept > 0
	a.request = announceRequest(h.Classic, key, port, kept)
	if a.measured {
		h.counts[kindOf(a.join)].Asked++
		h.open++
	}
	h.waiting = append(h.waiting, a)
	if kept {
		a.kept = h.kept[who%h.Kept]
		return a.kept.add(a)
	}
	return a.dial()
}

func announceRequest(classic bool, key string, port int, kept bool) []byte {
	var b []byte
	if classic {
		hash := infoHash(key)
		b = wire.AppendEscaped(append(b, "GET /announce?info_hash="...), hash[:])
		b = fmt.Appendf(b, "&peer_id=-XX0000-xxxxxxxxxxxx&left=1&port=%d&numwant=10&compact=1", port)
	} else {
		b = fmt.Appendf(b, "GET /ntrk/%s?port=%d&numwant=10&compact=1", key, port)
	}
	b = append(b, " HTTP/1.1\r\nHost: t\r\n"...)
	if !kept {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

func kindOf(join bool) int {
	if join {
		return 1
	}
	return 0
}

// dial sends an announce over a connection of its own.
func (a *ask) dial() (err error) {
	a.reader = replyReader{}
	if a.conn, err = a.h.loop.dial(dialing{from: a.from}, a.request, a); err != nil && (!ours(err) || a.h.stuck()) {
		a.end(nil, err)
		return nil
	}
	return err
}

// ours says whether an error of dial is due to this process, and not to the server.
func ours(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// stuck says whether many announces wait for a reply. Their connections may have used up the files of
// this process.
func (h *honest) stuck() bool { return len(h.waiting) > h.Rate*int(patience/time.Second)/2 }

func (a *ask) receive(c *conn, b []byte) {
	a.reader.read(b, func(status int, failed bool) bool {
		c.close(false)
		a.outcome(status, failed, time.Now())
		return false
	}, func([]byte) {})
}

// end tries again after a second, and twice as long each time, as clients do.
func (a *ask) end(*conn, error) {
	a.conn = nil
	if a.done {
		return
	}
	if a.reader.open { // a reply without a length
		a.outcome(a.reader.code, false, time.Now())
		return
	}
	a.next = time.Now().Add(a.wait)
	a.wait *= 2
	a.h.again = append(a.h.again, a)
}

// giveUp ends an announce whose time is over, unless it has an outcome.
func (a *ask) giveUp() error {
	if a.done {
		return nil
	}
	k := a.kept
	sent := k != nil && k.asks[0] == a
	if a.conn != nil {
		a.conn.close(false)
	}
	a.outcome(0, false, a.due.Add(patience))
	if !sent {
		return nil
	}
	if k.conn != nil {
		k.conn.close(false)
		k.conn = nil
	}
	return k.next()
}

// outcome ends an announce. status is 0 if there was no reply.
func (a *ask) outcome(status int, failure bool, now time.Time) {
	if a.done {
		return
	}
	a.done, a.conn = true, nil
	if !a.measured {
		return
	}
	h, kind := a.h, kindOf(a.join)
	h.open--
	h.times[kind].Add(min(now.Sub(a.due), patience))
	switch {
	case status == 200 && !failure:
		h.counts[kind].Answered++
	case status != 0:
		h.counts[kind].Refused++
	}
}

func (h *honest) result() honestResult {
	for kind := range h.counts {
		h.counts[kind].P50 = milliseconds(h.times[kind].Percentile(0.5))
		h.counts[kind].P99 = milliseconds(h.times[kind].Percentile(0.99))
	}
	return honestResult{Renewals: h.counts[0], Joins: h.counts[1], FalseLeaves: h.falseLeaves, StreamsCut: h.streamsCut,
		Late: milliseconds(h.late.Percentile(0.99))}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
