package server

import (
	"bytes"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watched is a connection that a loop waits for.
type watched struct {
	waiter
	fd      int
	remote  netip.AddrPort
	drained bool   // there is no more to read, until there is an event
	left    []byte // read, and left for its next turn
	owed    []byte // replies that the client has yet to take
	why     pause  // what comes after these
}

// evict ends what the client sends: that is an event, and there is nothing to read unless a request
// has come in the meantime.
func (c *watched) evict() { _ = unix.Shutdown(c.fd, unix.SHUT_RD) }

// cut closes the connections that have waited as long as they may. A request that has come is
// answered all the same: if this process was stopped, that is what has used up the time.
func (l *loop) cut(w *waiting, most time.Duration) {
	for next := w.take(l.now.Add(-most)); next != nil; next = w.take(l.now.Add(-most)) {
		if c := next.owner.(*watched); l.resume(c, false) == kept && c.unlinked() {
			l.drop(c)
		}
	}
}

// A fate is what a turn has made of a connection.
type fate int

const (
	kept fate = iota
	gone      // it is closed, or handed over
)

// drop closes a connection.
func (l *loop) drop(c *watched) fate {
	c.unlink()
	l.s.release(c.remote, admitted)
	_, _ = call(unix.SYS_CLOSE, c.fd, nil)
	return l.forget(c.fd)
}

func (l *loop) forget(fd int) fate {
	if fd < len(l.watched) {
		l.watched[fd] = nil
	}
	return gone
}

// resume goes on with a connection that can be read, or written to; last says that there will be
// nothing more to read.
func (l *loop) resume(c *watched, last bool) fate {
	c.drained = false
	switch c.in {
	case &l.busy: // it has its turn
		return kept
	case &l.owing:
		return l.pay(c)
	}
	return l.turn(c, last)
}

// turn answers what a connection has sent, as far as a turn goes; last says that there will be
// nothing more.
func (l *loop) turn(c *watched, last bool) fate {
	own := c.in == &l.busy
	n := copy(l.in[:], c.left)
	if headEnd(l.in[:n], 0) == 0 && !c.drained {
		m, errno := call(unix.SYS_READ, c.fd, l.in[n:])
		switch {
		case errno == unix.EAGAIN || errno == unix.EINTR:
			if m = 0; n == 0 {
				if own {
					l.rest(c)
				}
				return kept
			}
		case errno != 0 || m+n == 0:
			c.unlink()
			if c.evicted && !c.in.answered {
				_, _ = call(unix.SYS_WRITE, c.fd, []byte(tooMany))
			}
			return l.drop(c)
		}
		c.drained = m < len(l.in)-n
		n += m
	}
	defer func() {
		if !l.o.small() {
			l.o = output{}
		}
	}()
	c.unlink() // from here on it is not evicted
	last = last || c.evicted
	left, why := l.answer(l.in[:n], c.remote, own)
	idle := why == answered && c.drained && !last
	if idle { // also before the client knows: it may have another connect then
		l.rest(c)
	}
	sent, errno := 0, unix.Errno(0)
	if len(l.o.out) > 0 {
		sent, errno = call(unix.SYS_WRITE, c.fd, l.o.out)
	}
	switch {
	case errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR:
		return l.drop(c)
	case errno != 0 || sent < len(l.o.out):
		c.unlink()
		return l.owe(c, l.o.out[max(sent, 0):], left, why)
	case idle:
		return kept
	}
	return l.proceed(c, left, why, last)
}

// proceed does with a connection, whose client has taken all replies, what comes after a turn.
func (l *loop) proceed(c *watched, left []byte, why pause, last bool) fate {
	switch {
	case why == turnOver || !c.drained && (why == answered || why == incomplete):
		c.left = append(c.left[:0], left...)
		l.busy.push(&c.waiter, l.now)
		return kept
	case why == incomplete || why == special:
		return l.handOver(c.fd, c.remote, handover{in: left})
	case why == ended && (l.h.keepAlive || len(left) > 0 || !c.drained): // the client may send more
		return l.handOver(c.fd, c.remote, handover{last: true})
	case why == answered && !last:
		l.rest(c)
		return kept
	}
	return l.drop(c)
}

// owe keeps replies that the client does not take now, and all that it sends after them waits.
func (l *loop) owe(c *watched, out, left []byte, why pause) fate {
	c.owed, c.left, c.why = bytes.Clone(out), append(c.left[:0], left...), why
	c.drained = false
	l.owing.push(&c.waiter, l.now)
	_ = l.control(unix.EPOLL_CTL_MOD, c.fd, int32(c.fd), watching|unix.EPOLLOUT)
	return kept
}

// pay sends what is owed, as far as the client takes it now.
func (l *loop) pay(c *watched) fate {
	sent, errno := call(unix.SYS_WRITE, c.fd, c.owed)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return kept
	case errno != 0:
		return l.drop(c)
	}
	c.unlink()
	if c.owed = c.owed[sent:]; len(c.owed) > 0 {
		l.owing.push(&c.waiter, l.now)
		return kept
	}
	c.owed = nil
	return l.proceed(c, c.left, c.why, false)
}

// rest has a connection wait for its next request.
func (l *loop) rest(c *watched) {
	c.left = nil
	l.idle.push(&c.waiter, l.now)
}

// A pause is why a loop goes no further in what a connection has sent.
type pause int

const (
	answered   pause = iota // there is no more
	turnOver                // it is another's turn
	incomplete              // of the next request there is only a part
	special                 // the next request is not for a loop
	ended                   // the last reply is the last
	broken                  // a panic
)

// answer appends to l.o.out the replies to the requests that in begins with, as many as one turn
// has room for. It returns what is left. What takes long is left to a turn of its own.
func (l *loop) answer(in []byte, remote netip.AddrPort, own bool) (left []byte, why pause) {
	h, o := &l.h, &l.o
	o.out = o.out[:0]
	defer func() {
		if p := recover(); p != nil {
			l.s.panicked(remote, p)
			left, why = nil, broken
		}
	}()
	for turn := 0; len(in) > 0; turn++ {
		if turn >= maxAnswers || len(o.out) >= maxReplies {
			return in, turnOver
		}
		n := headEnd(in, 0)
		if n == 0 && len(in) <= maxHead {
			return in, incomplete
		}
		if n == 0 || n > maxHead || h.parse(in[:n]) != nil || !h.plain() {
			return in, special
		}
		if o.ask(h, remote); !l.s.Tracker.Prompt(&o.call) {
			return in, special
		}
		if l.s.Tracker.Large(&o.call) && (!own || turn > 0) {
			return in, turnOver
		}
		more, _ := l.s.answer(o, h, l.now, !h.keepAlive) // a stream is never prompt
		if in = in[n:]; !more {
			return in, ended
		}
	}
	return nil, answered
}

// handover is what the portable way has to know of a connection.
type handover struct {
	admission admission
	owed, in  []byte // not yet sent, not yet answered
	last      bool   // the connection ends with what is owed
}

// handOver gives a connection to the portable way.
func (l *loop) handOver(fd int, remote netip.AddrPort, o handover) fate {
	_ = unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, fd, nil)
	c := &conn{
		s: l.s, nc: fdConn{os.NewFile(uintptr(fd), "connection")}, remote: remote,
		admission: o.admission, owed: bytes.Clone(o.owed), in: bytes.Clone(o.in), last: o.last,
	}
	l.s.mu.Lock()
	l.s.add(c) // Shutdown waits for this loop, so it may still be
	l.s.mu.Unlock()
	go c.serve()
	return l.forget(fd)
}
