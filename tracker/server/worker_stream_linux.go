package server

import (
	"bytes"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ntrack/announce/wire"
	"ntrack/tracker"
)

// A worker keeps its event streams. When a stream has events, it calls polledStream.Wake in any
// goroutine, which adds it to a list of the worker. The worker takes the list and sends the events.
// It serves only some streams before it looks at other connections again.
//
// A clock divides time into ticks. Each stream has one tick in which the worker visits it. A visit
// sends a heartbeat if nothing was sent for long, or looks whether the client has received what was
// sent.

const (
	tick = 250 * time.Millisecond
	// ticks is how many ticks a visit may be ahead.
	ticks = 64
	// A heartbeat is sent when this many ticks have passed since the tick of the last write. So it
	// comes up to a tick before tracker.Heartbeat is over.
	heartbeatTicks  = int(tracker.Heartbeat/tick) - 1
	maxReceiveTicks = 10 // see worker.receiveTicks
	lingerTicks     = int(lingerTime / tick)
	// The system keeps up to maxSendBuffer bytes that a client has not received. This memory is not
	// a part of the process.
	maxSendBuffer = 64 << 10
	// A worker serves other connections after it has served maxStreams streams, or has sent
	// maxStreamBytes.
	maxStreams     = 64
	maxStreamBytes = 256 << 10
)

// streams are the event streams of a worker.
type streams struct {
	open  int // the number of streams, those that have ended and linger included
	woken atomic.Pointer[polledStream]
	taken *polledStream // streams that were taken from woken and are not served yet

	began   time.Time        // the beginning of the clock
	visited int              // the first tick whose visits are not all made
	behind  bool             // there are more visits to make now
	visits  [ticks]connQueue // the connections to visit in each tick, modulo ticks
}

// A polledStream is the event stream of a connection of a worker.
type polledStream struct {
	*tracker.Stream
	w    *worker
	conn *polledConn
	next *polledStream // in the list of woken or taken streams
	slow queueEntry    // its place in worker.slow; the connection itself waits for its next visit

	sentAt   uint32 // the tick in which something was sent last
	progress uint32 // the tick in which the client was last known to receive something
	written  uint32 // how many bytes were sent, modulo 2^32
	received uint32 // how many of them the client was known to have received at progress
	ignored  int32  // how many bytes of the client were read and ignored
	waiting  bool   // the stream will call Wake
	unknown  bool   // the client may not have received all that was sent
	ended    bool   // there are no more events
	lingers  bool   // all is sent, and the client has a little time to read it
}

func (s *streams) init() {
	s.began = time.Now()
	for i := range s.visits {
		s.visits[i].init(notEvicted)
	}
}

func (s *streams) tickAt(now time.Time) int { return int(now.Sub(s.began) / tick) }

// nextTick returns the time until the next tick begins.
func (s *streams) nextTick(now time.Time) time.Duration { return tick - now.Sub(s.began)%tick }

// due says whether streams are to be served now.
func (s *streams) due() bool { return s.behind || s.taken != nil || s.woken.Load() != nil }

// Wake adds the stream to the list of woken streams. The stream calls it when it has events, in any
// goroutine, but not after Close.
func (s *polledStream) Wake() {
	for woken := &s.w.streams.woken; ; {
		first := woken.Load()
		s.next = first
		if !woken.CompareAndSwap(first, s) {
			continue
		}
		if first == nil { // else another stream has woken the worker
			s.w.wakeUp()
		}
		return
	}
}

// startStream goes on with a connection whose last reply in t is an event stream. clientDone says that
// the client will send nothing more.
func (w *worker) startStream(c *polledConn, t *batch, clientDone bool) outcome {
	now := uint32(w.streams.tickAt(w.now))
	s := &polledStream{Stream: t.stream, w: w, conn: c, sentAt: now}
	c.stream, c.held, t.stream = s, nil, nil
	s.slow.owner = c
	w.streams.open++
	if w.spare == c {
		w.spare = nil // another goroutine may still wake the stream after its end
	}
	_ = unix.SetsockoptInt(int(c.fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(w.s.streamTCPTimeout.Milliseconds()))
	_ = unix.SetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_SNDBUF, maxSendBuffer/2) // the system doubles that
	w.visitAfter(c, heartbeatTicks)
	if w.sendBytes(c, t.b.out) == gone || w.sendEvents(c) == gone {
		return gone
	}
	if clientDone || !c.drained {
		return w.ignoreInput(c)
	}
	return kept
}

// resumeStream goes on with a stream whose connection may be ready for reading or writing.
func (w *worker) resumeStream(c *polledConn) outcome {
	if len(c.unsent()) > 0 && (w.sendBytes(c, c.held.unsent) == gone || w.sendEvents(c) == gone) {
		return gone
	}
	return w.ignoreInput(c)
}

// ignoreInput reads and ignores what the client sends after its request. The stream ends when the
// client closes the connection for sending, or has sent maxBody.
func (w *worker) ignoreInput(c *polledConn) outcome {
	for {
		n, errno := rawCall(unix.SYS_READ, int(c.fd), w.in[:])
		switch {
		case errno == unix.EAGAIN || errno == unix.EINTR:
			return kept
		case errno != 0 || n == 0:
			return w.closeConn(c)
		}
		if c.stream.ignored += int32(n); c.stream.ignored >= maxBody {
			return w.closeConn(c)
		}
	}
}

// serveWoken serves some of the streams that have events.
func (w *worker) serveWoken() {
	for n, sent := 0, 0; n < maxStreams && sent < maxStreamBytes; n++ {
		if w.streams.taken == nil {
			w.streams.taken = w.streams.woken.Swap(nil)
		}
		s := w.streams.taken
		if s == nil {
			return
		}
		w.streams.taken, s.next = s.next, nil
		if s.conn.stream != s { // it has ended
			continue
		}
		s.waiting = false
		before := s.written
		w.sendEvents(s.conn)
		sent += int(s.written - before)
	}
}

// sendEvents sends the events that a stream has, until there are no more or the client does not
// read them.
func (w *worker) sendEvents(c *polledConn) (o outcome) {
	s := c.stream
	defer func() {
		if p := recover(); p != nil {
			w.s.logPanic(c.remote, p)
			o = w.closeConn(c)
		}
	}()
	for len(c.unsent()) == 0 && !s.waiting && !s.lingers {
		if s.ended {
			return w.lingerStream(c)
		}
		out, live := s.Append(w.b.out[:0], s)
		w.b.out = out
		s.waiting, s.ended = live && len(out) == 0, !live
		if w.sendBytes(c, out) == gone {
			return gone
		}
	}
	return kept
}

// sendBytes sends b. It keeps what cannot be sent without waiting.
func (w *worker) sendBytes(c *polledConn, b []byte) outcome {
	if len(b) == 0 {
		return kept
	}
	n, errno := rawCall(unix.SYS_WRITE, int(c.fd), b)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		n = 0
	case errno != 0:
		return w.closeConn(c)
	}
	s, now := c.stream, w.streams.tickAt(w.now)
	if !s.unknown {
		s.unknown, s.progress, s.received = true, uint32(now), s.written
		w.visitAfter(c, w.receiveTicks())
	}
	s.written += uint32(n)
	if n > 0 {
		s.sentAt = uint32(now)
	}
	if c.unread = s.written - s.received; c.unread > smallUnread {
		c.unread = uint32(pendingBytes(int(c.fd)))
	}
	switch {
	case n == len(b):
		c.held = nil
		return w.weighStream(c, true)
	case c.held != nil: // b is c.held.unsent
		c.held.unsent = b[n:]
	default:
		c.hold(nil, bytes.Clone(b[n:]))
	}
	if w.weighStream(c, n > 0) == gone {
		return gone
	}
	_ = w.control(unix.EPOLL_CTL_MOD, int(c.fd), c.fd, connEvents|unix.EPOLLOUT)
	return kept
}

// weighStream counts what a stream takes now, and lets the limiter evict it if its client has not read
// all. The limiter takes the stream first whose client has read nothing for longest. progress says
// whether this client has read something, or may have.
func (w *worker) weighStream(c *polledConn, progress bool) outcome {
	slow := &c.stream.slow
	switch all := c.unread <= smallUnread && len(c.unsent()) == 0; {
	case all:
		slow.dequeue()
	case progress || slow.queue == nil:
		slow.dequeue()
		w.slow.enqueue(slow, w.now)
	}
	return w.weigh(c)
}

// lingerStream ends a connection when the whole stream is sent. It gives the client time to read
// the end, as conn.linger does.
func (w *worker) lingerStream(c *polledConn) outcome {
	if unix.Shutdown(int(c.fd), unix.SHUT_WR) != nil {
		return w.closeConn(c)
	}
	c.stream.lingers = true
	w.visitAfter(c, lingerTicks)
	return kept
}

// visitAfter makes the worker visit a stream when n more ticks are over, instead of at the time of
// an earlier plan. n is less than ticks.
func (w *worker) visitAfter(c *polledConn, n int) {
	c.dequeue()
	// If the worker is late, it visits the stream early. So it always gets ahead.
	w.streams.visits[(w.streams.visited+n)%ticks].enqueue(&c.queueEntry, w.now)
}

// visitStreams makes some of the visits that are due.
func (w *worker) visitStreams() {
	s, now := &w.streams, w.streams.tickAt(w.now)
	s.visited = max(s.visited, now-ticks+1)
	for n := 0; s.visited <= now; {
		if s.behind = n == maxStreams; s.behind {
			return
		}
		if e := s.visits[s.visited%ticks].popBefore(w.now); e != nil {
			w.visitStream(e.owner.(*polledConn), now)
			n++
		} else {
			s.visited++
		}
	}
	s.behind = false
}

// visitStream sends a heartbeat, or looks whether the client receives what was sent. It ends a
// connection that has lingered.
func (w *worker) visitStream(c *polledConn, now int) {
	s := c.stream
	idle := int(uint32(now) - s.sentAt)
	switch {
	case s.lingers:
		w.closeConn(c)
	case s.unknown:
		w.checkReceipt(c, uint32(now))
	case idle < heartbeatTicks:
		w.visitAfter(c, heartbeatTicks-idle)
	default:
		w.b.out = wire.AppendHeartbeat(w.b.out[:0])
		w.sendBytes(c, w.b.out)
	}
}

// checkReceipt looks how much of the stream the client has received. It closes the connection of a
// client that has received nothing for as long as Timeout, although its system still sends
// acknowledgements. If it sends none, packets may be lost: then TCP_USER_TIMEOUT ends the
// connection.
func (w *worker) checkReceipt(c *polledConn, now uint32) {
	s := c.stream
	pending := pendingBytes(int(c.fd))
	if pending == 0 && len(c.unsent()) == 0 {
		s.unknown, c.unread = false, 0
		if w.weighStream(c, true) == gone {
			return
		}
		w.visitAfter(c, max(1, heartbeatTicks-int(now-s.sentAt)))
		return
	}
	received := s.written - uint32(pending)
	c.unread = uint32(pending)
	if w.weighStream(c, received != s.received) == gone {
		return
	}
	switch {
	case received != s.received:
		s.received, s.progress = received, now
	case time.Duration(now-s.progress)*tick < w.s.Timeout:
	case w.sinceHeard(int(c.fd)) >= w.s.Timeout:
		s.progress = now
	default:
		w.closeConn(c)
		return
	}
	w.visitAfter(c, w.receiveTicks())
}

// receiveTicks is how many ticks after a write the client should have received the bytes.
func (w *worker) receiveTicks() int {
	return max(1, min(maxReceiveTicks, int(w.s.Timeout/4/tick)))
}

// pendingBytes returns how many of the bytes that were sent are not acknowledged.
func pendingBytes(fd int) int {
	var n int32
	_, _, _ = unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

// sinceHeard returns the time since the last acknowledgement, even if that had no new bytes.
func (w *worker) sinceHeard(fd int) time.Duration {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond
}
