package main

import (
	"bytes"
	"time"
)

// A keptConn is a kept connection, and the announces that wait for it.
type keptConn struct {
	h      *honest
	from   [4]byte
	conn   *conn
	asks   []*ask // the first is sent
	used   bool   // the connection had a reply
	reader replyReader
}

func (k *keptConn) add(a *ask) error {
	k.asks = append(k.asks, a)
	if len(k.asks) == 1 {
		return k.next()
	}
	return nil
}

// next sends the first announce that waits.
func (k *keptConn) next() (err error) {
	for len(k.asks) > 0 && k.asks[0].done {
		k.asks = k.asks[1:]
	}
	if len(k.asks) == 0 {
		return nil
	}
	if k.conn != nil {
		k.conn.send(k.asks[0].request)
		return nil
	}
	k.reader, k.used = replyReader{}, false
	if k.conn, err = k.h.loop.dial(dialing{from: k.from}, k.asks[0].request, k); err != nil && !ours(err) {
		k.handOver()
		return nil
	}
	return err
}

func (k *keptConn) receive(_ *conn, b []byte) {
	k.reader.read(b, func(status int, failed bool) bool {
		if len(k.asks) == 0 {
			return true
		}
		k.asks[0].outcome(status, failed, time.Now())
		k.asks, k.used = k.asks[1:], true
		_ = k.next() // it is connected
		return true
	}, func([]byte) {})
}

// end connects again at once if the connection was good, as HTTP clients do. Otherwise the announce
// gets a connection of its own, later.
func (k *keptConn) end(*conn, error) {
	k.conn = nil
	if len(k.asks) == 0 {
		return
	}
	if !k.used {
		k.handOver()
	}
	if k.next() != nil {
		k.handOver()
	}
}

// handOver gives the first announce a connection of its own, later.
func (k *keptConn) handOver() {
	a := k.asks[0]
	k.asks, a.kept = k.asks[1:], nil
	a.end(nil, nil)
}

// An honestStream is a member's event stream. It never leaves.
type honestStream struct {
	h       *honest
	from    [4]byte
	request []byte
	conn    *conn
	next    time.Time // of the next try
	reader  replyReader
	line    []byte // what came after the last whole line
	event   string // the name of the event
	listed  bool   // it has its list of peers
}

func (s *honestStream) dial() (err error) {
	s.reader, s.line, s.event, s.listed = replyReader{}, nil, "", false
	if s.conn, err = s.h.loop.dial(dialing{from: s.from}, s.request, s); err != nil && !ours(err) {
		s.end(nil, err)
		return nil
	}
	return err
}

func (s *honestStream) receive(c *conn, b []byte) {
	s.reader.read(b, func(int, bool) bool {
		c.close(false)
		s.end(c, nil) // a refusal
		return false
	}, s.lines)
}

// end tries again after a second.
func (s *honestStream) end(*conn, error) {
	s.conn, s.next = nil, time.Now().Add(time.Second)
	s.h.streamsCut++
}

// lines looks for leaves of honest peers.
func (s *honestStream) lines(b []byte) {
	s.line = append(s.line, b...)
	rest := s.line
	for {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			break
		}
		if name, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			s.event = string(name)
			s.listed = s.listed || s.event == "peers"
		} else if s.event == "leave" && bytes.HasPrefix(line, []byte("data: 127.1.")) {
			s.h.falseLeaves++
		}
		rest = after
	}
	s.line = append(s.line[:0], rest...)
}
