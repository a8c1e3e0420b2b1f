package server

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// userTimeout is how long a client may leave unacknowledged what was sent to it: one whose packets
// are lost is gone then. Heartbeats see to it that something is sent.
const userTimeout = 45 * time.Second

// pump goes on where the first reply of an event stream ends. This goroutine reads, which is how
// it learns that the client is gone, and another is there while there is something to write.
func (c *conn) pump() {
	if raw := c.system(); raw != nil {
		setUserTimeout(raw, c.s.userTimeout)
		state := func() (sent, bool) { return sentState(raw) }
		c.reader = &reader{state: state, most: c.s.Timeout, cut: func() { _ = c.nc.Close() }}
		defer c.reader.stop()
		c.reader.sent()
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	c.write()
	var ignored [64]byte // what a client sends after its request, within reason
	for n := 0; n < maxBody; {
		k, err := c.nc.Read(ignored[:])
		if n += k; err != nil {
			return
		}
	}
}

// wake is called by the stream, before its Close, when there is something to write.
func (c *conn) wake() {
	c.s.active.Add(1)
	go func() {
		defer c.s.active.Done()
		defer func() {
			if p := recover(); p != nil {
				c.panicked(p)
				_ = c.nc.Close()
			}
		}()
		c.write()
	}()
}

// write sends what the stream has, and ends the connection with it.
func (c *conn) write() {
	o := c.s.outputs.Get().(*output)
	for {
		out, live := c.stream.Next(o.out[:0], c.wake)
		o.out = out
		var err error
		if len(out) > 0 {
			if err = c.deliver(out); c.reader != nil {
				c.reader.sent()
			}
		}
		if err != nil || !live && !c.half() {
			_ = c.nc.Close()
		}
		if err != nil || !live || len(out) == 0 {
			break
		}
	}
	if o.small() {
		c.s.outputs.Put(o)
	}
}

// system is the connection as the system has it: under TLS the one below. It is nil where there is
// none.
func (c *conn) system() syscall.Conn {
	nc := c.nc
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		nc = t.NetConn()
	}
	sc, _ := nc.(syscall.Conn)
	return sc
}

// sent is what has become of what was sent on a connection.
type sent struct {
	waits bool          // for being acknowledged: some of it does
	taken uint64        // bytes that were acknowledged
	heard time.Duration // since the other end acknowledged something, or nothing anew
}

// A reader is a client that should read what a stream sends. The system takes much more for
// sending than a client leaves unread, so that no write ever has to wait for it.
type reader struct {
	state func() (s sent, ok bool)
	most  time.Duration // without reading anything
	cut   func()        // ends the connection

	mu      sync.Mutex
	timer   *time.Timer
	looking bool
	stopped bool
	taken   uint64
	since   time.Time // taken has not changed
}

// sent is called when something has been sent.
func (r *reader) sent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looking || r.stopped {
		return
	}
	s, ok := r.state()
	if !ok {
		return
	}
	r.looking, r.taken, r.since = true, s.taken, time.Now()
	if r.timer == nil {
		r.timer = time.AfterFunc(r.most/4, r.look)
	} else {
		r.timer.Reset(r.most / 4)
	}
}

// look cuts a client that is there and reads nothing. One of which nothing is heard is the
// business of the user timeout: what it was sent may be lost.
func (r *reader) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	s, ok := r.state()
	now := time.Now()
	switch {
	case !ok || !s.waits:
		r.looking = false
		return
	case s.taken != r.taken || s.heard >= r.most:
		r.taken, r.since = s.taken, now
	case now.Sub(r.since) >= r.most:
		r.cut()
		r.looking = false
		return
	}
	r.timer.Reset(r.most / 4)
}

func (r *reader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
}
