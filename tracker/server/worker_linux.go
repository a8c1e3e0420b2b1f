package server

import (
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A worker serves many connections in one goroutine. Only this goroutine uses the worker and its
// connections. There are three exceptions: epollAcceptor.Close sets the deadline of epoll,
// connLimiter.evictOne evicts connections from silent and idle, and polledStream.Wake adds to woken.
type worker struct {
	*epollAcceptor
	// epoll is a file that can be polled itself, and Go's poller does that. So a worker with
	// nothing to do waits like any goroutine, and needs no thread.
	epoll   *os.File
	epollFD int
	events  [64]unix.EpollEvent
	ready   int // how many of events were fetched last; now is when

	next           *worker        // the worker that accepts after this one
	acceptFunc     func(uintptr)  // acceptFrom, as a func value that is made once
	accepted       []acceptedConn // connections that are accepted and not added yet
	remote         sockaddr       // of the connection accepted last
	outOfFiles     bool           // an accept failed; housekeeping tries again
	acceptErr      error          // why no accept can succeed any more, or nil
	listenerClosed bool
	checked        atomic.Pointer[chan struct{}] // closed by housekeeping; see Server.Check

	conns   []*polledConn // by file descriptor
	spare   *polledConn   // is reused, because most connections end with their first request; may be nil
	silent  connQueue     // connections that have not sent a request yet
	idle    connQueue     // connections that have had a reply and wait for a request
	busy    connQueue     // connections with more requests to serve, which wait until others are served
	begun   connQueue     // connections with a part of a request, whose rest has not arrived
	blocked connQueue     // connections whose client does not read its replies
	unread  connQueue     // connections as in idle, but their client has not read the replies
	slow    connQueue     // streams whose client has not read all that was sent
	overdue bool          // more connections have waited too long
	hungUp  []*polledConn // connections whose client has ended them, oldest first; also in other queues
	streams streams       // connections whose last reply is an event stream
	batch                 // the requests that the worker itself serves
	parking parking
	in      [maxHead + 4<<10]byte // the bytes of the current connection

	keepBuffers time.Time // until then b is kept, however large it is
}

type acceptedConn struct {
	fd     int
	remote netip.AddrPort
}

const (
	maxWorkers = 16
	// maxAccept is how many connections a worker accepts before the next worker does. With many fewer,
	// the queue of the system would overflow when many connect, and a client that is lost there tries
	// again only after a second.
	maxAccept = 64
	// A worker serves other connections after it has closed maxOverdue that have waited too long.
	maxOverdue = 64
	// If more than maxHangUps clients end their connections at the same time, the worker serves others
	// before it closes the rest.
	maxHangUps = 16
	// An event of the listener has listenerEvent instead of a connection's file descriptor.
	listenerEvent = -1
	// connEvents are edge-triggered: there is an event when bytes arrive, not while there are
	// bytes.
	connEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	// hungUp has the events after which the client sends nothing more.
	hungUp = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// An outcome says whether the worker still has a connection after it served it.
type outcome int

const (
	kept outcome = iota
	gone         // it is closed or handed over
)

// run serves until the server shuts down, or until the listener is closed and no connection is
// left. At the end it serves the requests that have arrived, waits for the first requests of new
// connections, hands over connections with unsent replies, and closes the others.
func (w *worker) run() {
	defer w.s.active.Done()
	raw, err := w.epoll.SyscallConn()
	poll := func(uintptr) bool {
		w.ready = epollNow(w.epollFD, w.events[:])
		return w.ready > 0 || !w.busy.empty() || w.streams.due() || w.overdue || len(w.hungUp) > 0 || w.parking.due()
	}
	serve := func() {
		if raw.Read(poll) != nil { // it is time for housekeeping, or wakeUp was called
			w.housekeeping()
			return
		}
		w.serveEvents()
		runtime.Gosched() // other goroutines must run even if a worker is never idle
	}
	for err == nil && !w.s.shuttingDown.Load() && !(w.listenerClosed && w.empty()) {
		serve()
	}
	w.fail(ErrClosed)
	w.now = time.Now()
	for e := w.busy.popBefore(w.now); e != nil; e = w.busy.popBefore(w.now) {
		w.serveConn(e.owner.(*polledConn), false)
	}
	for e := w.blocked.popBefore(w.now); e != nil; e = w.blocked.popBefore(w.now) {
		c := e.owner.(*polledConn)
		w.handOver(int(c.fd), &conn{account: c.account, unread: int(c.unread), remote: c.remote, via: c.via, in: c.in(), unsent: c.unsent(), closeAfter: c.why == lastReply || c.why == panicked})
	}
	for w.closeOverdue(&w.idle, 0) || w.closeOverdue(&w.unread, 0) {
	}
	for err == nil && !w.empty() && !w.s.aborted.Load() { // Shutdown ends the streams
		serve()
	}
	for _, c := range w.conns {
		if c != nil {
			w.closeConn(c)
		}
	}
	w.close()
}

func (w *worker) close() {
	for _, q := range [...]*connQueue{&w.silent, &w.idle, &w.begun, &w.blocked, &w.unread, &w.slow} {
		w.s.limiter.removeQueue(q)
	}
	w.parking.end()
	_ = w.epoll.Close()
}

func (w *worker) empty() bool {
	return w.silent.empty() && w.idle.empty() && w.busy.empty() && w.begun.empty() && w.blocked.empty() && w.unread.empty() && w.streams.open == 0 && w.parking.n == 0
}

// serveEvents serves each connection that has an event, and then one busy connection and some
// streams. So clients that send one request at a time do not wait long for other clients.
func (w *worker) serveEvents() {
	w.now = time.Now()
	hangUps := 0
	for _, e := range w.events[:w.ready] {
		switch isHungUp := e.Events&hungUp != 0; {
		case e.Fd != listenerEvent && isHungUp && (hangUps == maxHangUps || len(w.hungUp) > 0):
			w.hungUp = append(w.hungUp, w.conns[e.Fd])
		case e.Fd != listenerEvent:
			if isHungUp {
				hangUps++
			}
			w.resume(w.conns[e.Fd], isHungUp)
		case !w.s.shuttingDown.Load():
			w.acceptSome()
		}
	}
	if e := w.busy.popBefore(w.now); e != nil {
		w.serveConn(e.owner.(*polledConn), false)
	}
	if w.ready > 0 && !w.s.mayWait { // else each batch is observed by itself
		w.s.latency.observe(time.Since(w.now))
	}
	w.unparkSome()
	w.serveWoken()
	w.visitStreams()
	if w.overdue {
		w.closeAllOverdue()
	}
	w.closeHungUp()
}

// closeHungUp closes some of the connections whose client has ended them, and first serves what the
// client had sent before that.
func (w *worker) closeHungUp() {
	n := min(len(w.hungUp), maxHangUps)
	for _, c := range w.hungUp[:n] {
		if w.conns[c.fd] == c { // it has not been closed since
			w.resume(c, true)
		}
	}
	if w.hungUp = w.hungUp[n:]; len(w.hungUp) == 0 {
		w.hungUp = nil
	}
}

// housekeeping closes connections that have waited too long, and accepts again if an accept has
// failed.
func (w *worker) housekeeping() {
	w.now = time.Now()
	next := w.housekeepingInterval()
	if w.s.shuttingDown.Load() {
		next = min(next, silentGrace/8)
	}
	if w.streams.open > 0 {
		next = min(next, w.streams.nextTick(w.now))
	}
	_ = w.epoll.SetReadDeadline(w.now.Add(next))
	if done := w.checked.Swap(nil); done != nil { // after the deadline, which would undo a wakeUp
		close(*done)
	}
	w.visitStreams()
	w.closeAllOverdue()
	w.freeBuffers()
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

// freeBuffers gives up large buffers, but at most once a second: while there are many large replies,
// each of them uses the same buffers.
func (w *worker) freeBuffers() {
	if !w.b.reusable() && w.now.After(w.keepBuffers) {
		w.b, w.keepBuffers = buffers{}, w.now.Add(time.Second)
	}
}

// control sets which events of fd the worker gets. Each event has id.
func (w *worker) control(op, fd int, id int32, events uint32) error {
	return unix.EpollCtl(w.epollFD, op, fd, &unix.EpollEvent{Events: events, Fd: id})
}

// closeAllOverdue closes connections that have waited too long, and says in w.overdue whether there
// are more of them.
func (w *worker) closeAllOverdue() {
	silence := w.s.Timeout
	if w.s.shuttingDown.Load() {
		silence = min(silence, silentGrace)
	}
	w.overdue = w.closeOverdue(&w.silent, silence)
	w.overdue = w.closeOverdue(&w.idle, w.s.Idle) || w.overdue
	w.overdue = w.closeOverdue(&w.begun, w.s.Timeout) || w.overdue
	w.overdue = w.closeOverdue(&w.blocked, w.s.Timeout) || w.overdue
	w.overdue = w.checkUnread() || w.overdue
}

// closeOverdue closes the connections that have been in q for maxWait or longer, at most maxOverdue
// of them. Then there may be more. It first serves a request that has arrived: the worker may only
// see it so late because this process was stopped.
func (w *worker) closeOverdue(q *connQueue, maxWait time.Duration) (more bool) {
	for range maxOverdue {
		e := q.popBefore(w.now.Add(-maxWait))
		if e == nil {
			return false
		}
		if c := e.owner.(*polledConn); w.resume(c, false) == kept && !c.queued() {
			if c.via == headerDue && !w.s.shuttingDown.Load() {
				w.s.logProxy(c.remote, lateHeader)
			}
			w.closeConn(c)
		}
	}
	return true
}

// resume goes on with a connection that may be ready for reading or writing. clientDone says that
// the client will send nothing more.
func (w *worker) resume(c *polledConn, clientDone bool) outcome {
	c.drained = false
	switch {
	case c.parked: // the worker reads again when the replies are sent
		return kept
	case c.stream != nil:
		return w.resumeStream(c)
	}
	switch c.queue {
	case &w.busy: // it is served when it is the oldest in this queue
		return kept
	case &w.blocked:
		return w.sendUnsent(c)
	}
	return w.serveConn(c, clientDone)
}

// serveConn serves one batch of the requests that a connection has sent. clientDone says that the
// client will send nothing more.
func (w *worker) serveConn(c *polledConn, clientDone bool) outcome {
	wasBusy := c.queue == &w.busy
	n := copy(w.in[:], c.in())
	held, begun, due := n, c.queue == &w.begun, c.via == headerDue
	if !c.drained && (due || headEnd(w.in[:n], 0) == 0) {
		m, errno := rawCall(unix.SYS_READ, int(c.fd), w.in[n:])
		switch {
		case errno == unix.EAGAIN || errno == unix.EINTR:
			if m = 0; n == 0 {
				if c.drained = true; wasBusy {
					w.setIdle(c)
				}
				return kept
			}
		case errno != 0 || m+n == 0 || m == 0 && (due || begun && !c.queued()): // begun and evicted
			return w.endInput(c, n)
		case m == 0:
			clientDone = true
		}
		c.drained = m < len(w.in)-n
		n += m
	}
	in := w.in[:n]
	if due {
		var err error
		in, err = takeProxyHeader(in, &c.remote, &c.via)
		switch {
		case err != nil:
			w.s.logProxy(c.remote, err)
			return w.closeConn(c)
		case c.via == headerDue && clientDone, len(in) == 0 && clientDone:
			return w.endInput(c, len(in))
		case c.via == headerDue:
			c.hold(in, nil)
			return kept
		}
		if c.held = nil; len(in) == 0 {
			return kept
		}
	}
	if begun && !clientDone && n <= maxHead && headEnd(in, held) == 0 {
		c.held.in = append(c.held.in, in[held:]...)
		return w.weigh(c)
	}
	c.dequeue() // so that it is no longer evicted
	c.stalls = 0
	clientDone = clientDone || c.evicted
	if w.s.mayWait && headEnd(in, 0) > 0 {
		return w.park(c, in, clientDone)
	}
	rest, why := w.serve(w.s, in, c.remote, c.via, wasBusy, false)
	return w.sendBatch(c, &w.batch, rest, why, clientDone)
}

// sendBatch sends the replies of t, a batch of this connection that was served until why, and goes on with
// the connection. rest are the bytes that are left.
func (w *worker) sendBatch(c *polledConn, t *batch, rest []byte, why stopReason, clientDone bool) outcome {
	if why == newStream {
		return w.startStream(c, t, clientDone)
	}
	idle := why == allServed && c.drained && !clientDone
	if idle {
		// The connection is idle before the reply is sent. As soon as the client has the reply, it
		// may open another connection, and evictOne must be able to evict this one.
		w.setIdle(c)
	}
	sent, errno := 0, unix.Errno(0)
	if len(t.b.out) > 0 {
		sent, errno = rawCall(unix.SYS_WRITE, int(c.fd), t.b.out)
	}
	switch {
	case errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR:
		return w.closeConn(c)
	case errno != 0 || sent < len(t.b.out):
		c.dequeue()
		return w.setBlocked(c, t.b.out[max(sent, 0):], rest, why)
	case why != lastReply && w.countUnread(c, sent) == gone:
		return gone
	case idle:
		return kept
	}
	return w.afterBatch(c, t, rest, why, clientDone)
}

// endInput closes a connection that will send nothing more. n is how many bytes of its PROXY header
// it has sent, if the header is not complete.
func (w *worker) endInput(c *polledConn, n int) outcome {
	c.dequeue()
	switch {
	case c.evicted && (c.queue.kind == silentConns || c.queue.kind == begunConns):
		_, _ = rawCall(unix.SYS_WRITE, int(c.fd), []byte(tooMany))
	case c.via == headerDue && n > 0:
		w.s.logProxy(c.remote, cutHeader)
	}
	return w.closeConn(c)
}

// afterBatch decides how a connection goes on when all replies of a batch are sent.
func (w *worker) afterBatch(c *polledConn, t *batch, rest []byte, why stopReason, clientDone bool) outcome {
	switch {
	case why == batchFull || !c.drained && (why == allServed || why == incomplete):
		c.hold(rest, nil)
		c.drained = c.drained && !clientDone // so that the end is read later
		w.busy.enqueue(&c.queueEntry, w.now)
		return w.weigh(c)
	case why == incomplete && !clientDone:
		c.hold(rest, nil)
		w.begun.enqueue(&c.queueEntry, w.now)
		return kept
	case why == incomplete && c.evicted: // just before this part arrived
		_, _ = rawCall(unix.SYS_WRITE, int(c.fd), []byte(tooMany))
		return w.closeConn(c)
	case why == incomplete:
		return w.endCutShort(c, rest)
	case why == notPlain:
		return w.handOver(int(c.fd), &conn{account: c.account, unread: int(c.unread), remote: c.remote, via: c.via, in: rest})
	case why == lastReply && (t.head.keepAlive || len(rest) > 0 || !c.drained): // the client may send more
		return w.handOver(int(c.fd), &conn{account: c.account, unread: int(c.unread), remote: c.remote, via: c.via, closeAfter: true})
	case why == allServed && !clientDone:
		w.setIdle(c)
		return kept
	}
	return w.closeConn(c)
}
