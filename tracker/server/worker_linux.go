package server

import (
	"bytes"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A worker owns its connections and its other fields. No other goroutine uses them, except that
// Close sets the deadline of epoll.
type worker struct {
	*epollAcceptor
	// epoll can be polled itself, and Go's poller does that. So a worker with nothing to do waits
	// like any goroutine and keeps no thread.
	epoll   *os.File
	epollFD int
	events  [64]unix.EpollEvent
	ready   int       // how many events there are
	now     time.Time // when they were fetched

	next           *worker       // accepts after this one
	acceptFunc     func(uintptr) // acceptFrom, as a func value that is made once
	accepted       []acceptedConn
	outOfFiles     bool // accepting failed: housekeeping tries again
	listenerClosed bool
	from           sockaddr

	conns   []*polledConn // by file descriptor
	spare   *polledConn   // for the next connection, as most end with their first request
	silent  connQueue     // connections that have not sent a request yet
	idle    connQueue     // connections that have had a reply and wait for a request
	busy    connQueue     // connections with more requests to serve, after those of others
	blocked connQueue     // connections whose client does not read its replies
	head    head
	b       buffers
	in      [maxHead + 4<<10]byte
}

type acceptedConn struct {
	fd     int
	remote netip.AddrPort
}

// A polledConn is a connection of a worker.
type polledConn struct {
	queueEntry
	fd      int
	remote  netip.AddrPort
	drained bool       // nothing more can be read before the next event
	in      []byte     // bytes read that belong to requests not yet served
	unsent  []byte     // replies that the client has not read
	then    stopReason // what to do after those
}

// stopWaiting closes the connection for reading. That is an event, and then there is nothing to
// read unless a request has come first.
func (c *polledConn) stopWaiting() { _ = unix.Shutdown(c.fd, unix.SHUT_RD) }

const (
	maxWorkers = 16
	maxAccept  = 16 // how many connections a worker accepts before the next worker does
	// listenerEvent is in an event in place of a connection's file descriptor.
	listenerEvent = -1
	// connEvents are edge-triggered: a read takes all there is, and later bytes are a new event.
	connEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	hungUp     = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// An outcome says whether the worker still has a connection.
type outcome int

const (
	kept outcome = iota
	gone         // it is closed or handed over
)

// A stopReason says why a worker stops serving the requests of a connection.
type stopReason int

const (
	allServed  stopReason = iota
	batchFull             // other connections are served first
	incomplete            // the next request is not here as a whole
	notPlain              // the next request needs a goroutine
	lastReply             // the connection ends with the last reply
	panicked
)

// run serves until the server ends, or the listener is closed and no connection is left. Then it
// serves or hands over what its connections have sent, and closes them.
func (w *worker) run() {
	defer w.s.active.Done()
	raw, err := w.epoll.SyscallConn()
	poll := func(uintptr) bool {
		w.ready = epollNow(w.epollFD, w.events[:])
		return w.ready > 0 || !w.busy.empty()
	}
	for err == nil && !w.s.shuttingDown.Load() && !(w.listenerClosed && w.empty()) {
		if raw.Read(poll) != nil { // the deadline
			w.housekeeping()
			continue
		}
		w.serveEvents()
		runtime.Gosched() // other goroutines must run even if a worker is never idle
	}
	w.fail(ErrClosed)
	w.now = time.Now()
	for e := w.busy.popBefore(w.now); e != nil; e = w.busy.popBefore(w.now) {
		w.serveConn(e.owner.(*polledConn), false)
	}
	for e := w.blocked.popBefore(w.now); e != nil; e = w.blocked.popBefore(w.now) {
		c := e.owner.(*polledConn)
		w.handOver(c.fd, &conn{remote: c.remote, in: c.in, unsent: c.unsent, closeAfter: c.then == lastReply || c.then == panicked})
	}
	w.closeIdle(&w.silent, 0)
	w.closeIdle(&w.idle, 0)
	w.close()
}

func (w *worker) close() {
	w.s.limiter.removeQueue(&w.silent)
	w.s.limiter.removeQueue(&w.idle)
	_ = w.epoll.Close()
}

func (w *worker) empty() bool {
	return w.silent.empty() && w.idle.empty() && w.busy.empty() && w.blocked.empty()
}

// serveEvents serves each connection with an event once, and one busy connection. So many clients
// that send one request at a time do not wait for a few that send a lot.
func (w *worker) serveEvents() {
	w.now = time.Now()
	for _, e := range w.events[:w.ready] {
		if e.Fd == listenerEvent {
			w.acceptAll()
		} else {
			w.resume(w.conns[e.Fd], e.Events&hungUp != 0)
		}
	}
	if e := w.busy.popBefore(w.now); e != nil {
		w.serveConn(e.owner.(*polledConn), false)
	}
}

// housekeeping closes connections that have waited too long, and accepts again after that failed.
func (w *worker) housekeeping() {
	w.now = time.Now()
	_ = w.epoll.SetReadDeadline(w.now.Add(w.housekeepingInterval()))
	w.closeIdle(&w.silent, w.s.Timeout)
	w.closeIdle(&w.idle, w.s.Idle)
	w.closeIdle(&w.blocked, w.s.Timeout)
	err := w.raw.Control(func(listener uintptr) {
		if w.outOfFiles {
			w.outOfFiles = false
			w.watchListener(listener)
		}
	})
	if err != nil {
		w.listenerClosed = true
		w.fail(err)
	}
}

func (w *worker) control(op, fd int, name int32, events uint32) error {
	return unix.EpollCtl(w.epollFD, op, fd, &unix.EpollEvent{Events: events, Fd: name})
}

// watchListener makes w the worker that gets an event for the next connection. If all got one, all
// would wake up for it, and the fastest would get every connection. So the workers take turns.
func (w *worker) watchListener(listener uintptr) {
	_ = w.control(unix.EPOLL_CTL_MOD, int(listener), listenerEvent, unix.EPOLLIN|unix.EPOLLONESHOT)
}

// acceptAll accepts connections and serves their first requests.
func (w *worker) acceptAll() {
	w.accepted = w.accepted[:0]
	if err := w.raw.Control(w.acceptFunc); err != nil {
		w.listenerClosed = true
		w.fail(err)
	}
	for _, n := range w.accepted {
		w.addConn(n.fd, n.remote)
	}
}

// acceptFrom accepts connections and makes the next worker watch the listener.
func (w *worker) acceptFrom(listener uintptr) {
	for len(w.accepted) < cap(w.accepted) {
		fd, errno := accept4(int(listener), &w.from)
		switch errno {
		case 0:
			if !w.inherits.Load() {
				w.setOptions(fd)
			}
			w.accepted = append(w.accepted, acceptedConn{fd, w.from.addrPort()})
			continue
		case unix.ECONNABORTED, unix.EINTR:
			continue
		case unix.EAGAIN:
			if !w.inherits.Load() {
				w.inherits.Store(true)
			}
		default:
			w.s.logLimit(limitFiles, "no connection can be accepted: %v", errno)
			w.outOfFiles = true
			return
		}
		break
	}
	w.next.watchListener(listener)
}

// addConn serves a new connection, or refuses it. Mostly its first request is here already. If that
// is also the last, epoll need not know the connection.
func (w *worker) addConn(fd int, remote netip.AddrPort) {
	switch w.s.admitConn(remote) {
	case refused:
		w.handOver(fd, &conn{remote: remote, verdict: refused, unsent: []byte(tooMany), closeAfter: true})
		return
	case dropped:
		_, _ = rawCall(unix.SYS_READ, fd, w.in[:]) // else closing would reset the connection
		_, _ = rawCall(unix.SYS_WRITE, fd, []byte(tooMany))
		_, _ = rawCall(unix.SYS_CLOSE, fd, nil)
		return
	}
	c := w.spare
	if c == nil {
		c = new(polledConn)
		c.owner, w.spare = c, c
	}
	c.fd, c.remote = fd, remote
	w.silent.enqueue(&c.queueEntry, w.now)
	if w.serveConn(c, false) == gone {
		c.evicted, c.drained = false, false
		return
	}
	w.spare = nil
	for fd >= len(w.conns) {
		w.conns = append(w.conns, make([]*polledConn, max(64, len(w.conns)))...)
	}
	w.conns[fd] = c
	events := uint32(connEvents)
	if c.queue == &w.blocked {
		events |= unix.EPOLLOUT
	}
	if w.control(unix.EPOLL_CTL_ADD, fd, int32(fd), events) != nil {
		w.closeConn(c)
	}
}

// closeIdle closes the connections that have been in a queue for longer than most. A request that
// has come is served first: if this process was stopped, that is why the time is up.
func (w *worker) closeIdle(q *connQueue, most time.Duration) {
	for e := q.popBefore(w.now.Add(-most)); e != nil; e = q.popBefore(w.now.Add(-most)) {
		if c := e.owner.(*polledConn); w.resume(c, false) == kept && !c.queued() {
			w.closeConn(c)
		}
	}
}

func (w *worker) closeConn(c *polledConn) outcome {
	c.dequeue()
	w.s.releaseConn(c.remote, admitted)
	_, _ = rawCall(unix.SYS_CLOSE, c.fd, nil)
	return w.forget(c.fd)
}

func (w *worker) forget(fd int) outcome {
	if fd < len(w.conns) {
		w.conns[fd] = nil
	}
	return gone
}

// handOver gives a connection to a goroutine of its own.
func (w *worker) handOver(fd int, c *conn) outcome {
	_ = unix.EpollCtl(w.epollFD, unix.EPOLL_CTL_DEL, fd, nil)
	c.s, c.nc = w.s, fdConn{os.NewFile(uintptr(fd), "connection")}
	c.in, c.unsent = bytes.Clone(c.in), bytes.Clone(c.unsent)
	w.s.mu.Lock()
	w.s.register(c) // even during Shutdown, which waits for this worker
	w.s.mu.Unlock()
	go c.serveRequests()
	return w.forget(fd)
}

// resume goes on with a connection that has become ready for reading or writing. last says that
// nothing more will come from the client.
func (w *worker) resume(c *polledConn, last bool) outcome {
	c.drained = false
	switch c.queue {
	case &w.busy: // it is served when it is first in that queue
		return kept
	case &w.blocked:
		return w.sendUnsent(c)
	}
	return w.serveConn(c, last)
}

// serveConn serves one batch of the requests that a connection has sent. last says that nothing
// more will come from the client.
func (w *worker) serveConn(c *polledConn, last bool) outcome {
	wasBusy := c.queue == &w.busy
	n := copy(w.in[:], c.in)
	if headEnd(w.in[:n], 0) == 0 && !c.drained {
		m, errno := rawCall(unix.SYS_READ, c.fd, w.in[n:])
		switch {
		case errno == unix.EAGAIN || errno == unix.EINTR:
			if m = 0; n == 0 {
				if wasBusy {
					w.setIdle(c)
				}
				return kept
			}
		case errno != 0 || m+n == 0:
			c.dequeue()
			if c.evicted && c.queue.silent {
				_, _ = rawCall(unix.SYS_WRITE, c.fd, []byte(tooMany))
			}
			return w.closeConn(c)
		}
		c.drained = m < len(w.in)-n
		n += m
	}
	defer func() {
		if !w.b.reusable() {
			w.b = buffers{}
		}
	}()
	c.dequeue() // from here on it is not evicted
	last = last || c.evicted
	rest, why := w.serveBatch(w.in[:n], c.remote, wasBusy)
	idle := why == allServed && c.drained && !last
	if idle { // before the reply is sent: with that the client may make a connection that evicts this one
		w.setIdle(c)
	}
	sent, errno := 0, unix.Errno(0)
	if len(w.b.out) > 0 {
		sent, errno = rawCall(unix.SYS_WRITE, c.fd, w.b.out)
	}
	switch {
	case errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR:
		return w.closeConn(c)
	case errno != 0 || sent < len(w.b.out):
		c.dequeue()
		return w.setBlocked(c, w.b.out[max(sent, 0):], rest, why)
	case idle:
		return kept
	}
	return w.afterBatch(c, rest, why, last)
}

// serveBatch serves requests at the beginning of in, at most a batch. It appends the replies to
// w.b.out and returns the bytes that are left. A large reply is served only as the first of a busy
// connection's batch, so that other connections are served before it.
func (w *worker) serveBatch(in []byte, remote netip.AddrPort, wasBusy bool) (rest []byte, why stopReason) {
	h, b := &w.head, &w.b
	b.out = b.out[:0]
	defer func() {
		if p := recover(); p != nil {
			w.s.logPanic(remote, p)
			rest, why = nil, panicked
		}
	}()
	for served := 0; len(in) > 0; served++ {
		if served >= maxBatch || len(b.out) >= maxBatchBytes {
			return in, batchFull
		}
		n := headEnd(in, 0)
		if n == 0 && len(in) <= maxHead {
			return in, incomplete
		}
		if n == 0 || n > maxHead || h.parseHead(in[:n]) != nil || !h.plain() {
			return in, notPlain
		}
		if b.setCall(h, remote, false); !w.s.Tracker.AtOnce(&b.call) {
			return in, notPlain
		}
		if w.s.Tracker.Large(&b.call) && (!wasBusy || served > 0) {
			return in, batchFull
		}
		more, _ := w.s.serveCall(b, h, w.now, !h.keepAlive) // a call that is answered at once opens no stream
		if in = in[n:]; !more {
			return in, lastReply
		}
	}
	return nil, allServed
}

// afterBatch decides how a connection goes on after all its replies were sent.
func (w *worker) afterBatch(c *polledConn, rest []byte, why stopReason, last bool) outcome {
	switch {
	case why == batchFull || !c.drained && (why == allServed || why == incomplete):
		c.in = append(c.in[:0], rest...)
		w.busy.enqueue(&c.queueEntry, w.now)
		return kept
	case why == incomplete || why == notPlain:
		return w.handOver(c.fd, &conn{remote: c.remote, in: rest})
	case why == lastReply && (w.head.keepAlive || len(rest) > 0 || !c.drained): // the client may send more
		return w.handOver(c.fd, &conn{remote: c.remote, closeAfter: true})
	case why == allServed && !last:
		w.setIdle(c)
		return kept
	}
	return w.closeConn(c)
}

// setIdle makes a connection wait for its next request.
func (w *worker) setIdle(c *polledConn) {
	c.in = nil
	w.idle.enqueue(&c.queueEntry, w.now)
}

// setBlocked keeps replies that cannot be sent now because the client does not read, and the bytes
// that are left. Until all are sent, no more requests are read.
func (w *worker) setBlocked(c *polledConn, unsent, rest []byte, why stopReason) outcome {
	c.unsent, c.in, c.then = bytes.Clone(unsent), append(c.in[:0], rest...), why
	c.drained = false
	w.blocked.enqueue(&c.queueEntry, w.now)
	_ = w.control(unix.EPOLL_CTL_MOD, c.fd, int32(c.fd), connEvents|unix.EPOLLOUT)
	return kept
}

// sendUnsent sends as much of those replies as is possible now.
func (w *worker) sendUnsent(c *polledConn) outcome {
	sent, errno := rawCall(unix.SYS_WRITE, c.fd, c.unsent)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return kept
	case errno != 0:
		return w.closeConn(c)
	}
	c.dequeue()
	if c.unsent = c.unsent[sent:]; len(c.unsent) > 0 {
		w.blocked.enqueue(&c.queueEntry, w.now)
		return kept
	}
	c.unsent = nil
	return w.afterBatch(c, c.in, c.then, false)
}
