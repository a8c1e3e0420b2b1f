package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/bench/measure"
)

// A load sends queries, announces, or both, from one thread that never sleeps. Otherwise the time to wake
// it up would count as the server's.
type load struct {
	queries   *query // nil for none
	port      int
	queryRate int // per second; 0 is the next query as soon as there is a reply

	announces    bool
	http         int // the port
	keys         int // of the announces
	announceRate int // as queryRate

	flight   int
	dns, web side
	random   uint64
}

// A side has the clients of one kind, and what they have measured.
type side struct {
	clients []*client
	due     time.Time // of the next request, if there is a rate
	done    int
	lost    int // without a reply within a second
	times   measure.Histogram
	longest time.Duration
}

// A client has one socket, and one request at a time.
type client struct {
	fd      int
	waits   bool
	began   time.Time
	request []byte
	id      uint16
	reply   []byte
	buffer  [16 << 10]byte
}

func (l *load) open() (err error) {
	l.random = uint64(time.Now().UnixNano()) | 1
	for i := range l.flight {
		if l.queries != nil {
			err = errors.Join(err, l.dns.connect(unix.SOCK_DGRAM, i, l.port))
		}
		if l.announces {
			err = errors.Join(err, l.web.connect(unix.SOCK_STREAM, i, l.http))
		}
	}
	return err
}

// connect adds a client, whose address is its own.
func (s *side) connect(kind, i, port int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.clients = append(s.clients, &client{fd: fd})
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + i)}}); err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}); err != nil {
		return err
	}
	return unix.SetNonblock(fd, true)
}

func (l *load) close() {
	for _, c := range append(l.dns.clients, l.web.clients...) {
		_ = unix.Close(c.fd)
	}
}

// reset forgets what has been measured.
func (l *load) reset() {
	for _, s := range []*side{&l.dns, &l.web} {
		s.done, s.lost, s.times, s.longest = 0, 0, measure.Histogram{}, 0
	}
}

func (l *load) next() uint64 {
	l.random ^= l.random << 13 // xorshift64
	l.random ^= l.random >> 7
	l.random ^= l.random << 17
	return l.random >> 16
}

// run lets the clients ask for d.
func (l *load) run(d time.Duration) error {
	began := time.Now()
	l.dns.due, l.web.due = began, began
	for now := began; now.Sub(began) < d; now = time.Now() {
		for i := range l.flight {
			if l.queries != nil {
				if err := l.turn(&l.dns, l.dns.clients[i], l.queryRate, l.ask, l.queries.check); err != nil {
					return err
				}
			}
			if l.announces {
				if err := l.turn(&l.web, l.web.clients[i], l.announceRate, l.announce, checkAnnounce); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// turn reads the reply of a client, if there is one, and lets it ask again, if it is time for that.
func (l *load) turn(s *side, c *client, rate int, ask func(*client), check func(*client) (whole bool, err error)) error {
	if c.waits {
		n, err := unix.Read(c.fd, c.buffer[len(c.reply):])
		switch {
		case errors.Is(err, unix.EAGAIN):
			if time.Since(c.began) < time.Second {
				return nil
			}
			s.lost++
			c.waits = false
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errors.New("the server closed a connection")
		default:
			c.reply = c.buffer[:len(c.reply)+n]
			whole, err := check(c)
			if err != nil {
				return fmt.Errorf("%w: %q", err, c.reply)
			}
			if !whole {
				return nil
			}
			took := time.Since(c.began)
			s.times.Add(took)
			s.longest = max(s.longest, took)
			s.done++
			c.waits = false
		}
	}
	now := time.Now()
	if rate > 0 {
		if now.Before(s.due) {
			return nil
		}
		s.due = s.due.Add(time.Second / time.Duration(rate))
	}
	c.waits, c.began, c.reply = true, now, nil
	ask(c)
	_, err := unix.Write(c.fd, c.request)
	return err
}

func (l *load) ask(c *client) {
	x := l.next()
	c.id = uint16(x)
	c.request = l.queries.append(c.request[:0], c.id, int(x>>16))
}

// announce announces a peer of a random key, as ntrack does.
func (l *load) announce(c *client) {
	c.request = append(c.request[:0], "GET /ntrk/m"...)
	c.request = strconv.AppendUint(c.request, l.next()%uint64(l.keys), 10)
	c.request = append(c.request, "?port=4000 HTTP/1.1\r\nHost: 127.0.0.1:6969\r\nAccept: application/json\r\n\r\n"...)
}

var contentLength = []byte("\r\nContent-Length: ")

// checkAnnounce says whether a reply is whole.
func checkAnnounce(c *client) (whole bool, err error) {
	head, body, ok := bytes.Cut(c.reply, []byte("\r\n\r\n"))
	if !ok {
		return false, nil
	}
	_, length, _ := bytes.Cut(head, contentLength)
	length, _, _ = bytes.Cut(length, []byte("\r\n"))
	n, err := strconv.Atoi(string(length))
	switch {
	case err != nil || !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || len(body) > n:
		return false, errors.New("not a reply to an announce")
	case len(body) < n:
		return false, nil
	case bytes.Count(body, []byte(`"127.`))+bytes.Count(body, []byte(`"11.`)) != wantPeers+1: // and you
		return false, errors.New("a reply has another number of peers")
	}
	return true, nil
}

// check says whether the reply to a query is right. It looks at the header: probe has looked at the rest of
// such a reply.
func (q *query) check(c *client) (whole bool, err error) {
	if len(c.reply) >= 12 && binary.BigEndian.Uint16(c.reply) != c.id {
		c.reply = nil // it is the reply to a query that counts as lost
		return false, nil
	}
	if len(c.reply) < 12 || int(c.reply[3]&15) != q.code || int(binary.BigEndian.Uint16(c.reply[6:])) != q.answers {
		return false, errors.New("not the reply to " + q.name)
	}
	return true, nil
}
