package door

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loops is the way of plain TCP on Linux: a few loops, each of which accepts, reads, has the
// tracker decide, writes and closes for many connections in turn, in one goroutine. A goroutine, a
// place in Go's poller, deadlines and socket options for each connection cost more than to answer
// it, most of all where each announce has a connection of its own.
//
// A loop knows only the plain case: whole requests without a body, an answer that is prompt, and a
// client that takes it. In every other it hands the connection over to the portable way, with what
// it has read and not answered, and never sees it again. So the rules are in one place: both ways
// parse, answer and write with the same code.
type loops struct {
	s      *Server
	l      *net.TCPListener
	raw    syscall.RawConn // of l
	all    []*loop
	failed chan error // why there will be no more connections
}

// A loop owns its connections, and all that is below: nobody else touches it but to wake it.
type loop struct {
	*loops
	// ep is the epoll instance. It can itself be polled, and Go's poller does: a loop with nothing
	// to do waits as any goroutine, and keeps no thread.
	ep     *os.File
	fd     int // of ep
	events [64]unix.EpollEvent
	ready  int       // how many of events there are
	now    time.Time // when they were fetched

	next     *loop         // who accepts after this one
	take     func(uintptr) // accepts
	taken    []newcomer
	starved  bool // out of file descriptors or the like: accept again after a tick
	deaf     bool // the listener is closed
	sockaddr [unix.SizeofSockaddrInet6]byte
	addrLen  uint32

	watched []*watched // by file descriptor
	spare   *watched   // for the next connection: most end with their first request
	quiet   waiting    // those that have not sent anything
	idle    waiting    // those that have been answered

	h  head
	o  output
	in [maxHead + 4<<10]byte
}

// watched is a connection that a loop waits for.
type watched struct {
	waiter
	fd     int
	remote netip.AddrPort
}

type newcomer struct {
	fd     int
	remote netip.AddrPort
}

const (
	maxLoops = 16
	// maxTake is how many connections a loop accepts before another's turn.
	maxTake = 16
	// listening stands for the listener where an event has a connection.
	listening = -1
	// Edge-triggered: a read takes all there is, so what comes later is a new event.
	watching = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	hungUp   = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// loops returns nil for what is no plain TCP. s.mu is locked.
func (s *Server) loops(l net.Listener) way {
	tl, ok := l.(*net.TCPListener)
	if !ok {
		return nil
	}
	g := &loops{s: s, l: tl, failed: make(chan error, 1)}
	raw, err := tl.SyscallConn()
	if err != nil {
		return nil
	}
	g.raw = raw
	err = raw.Control(func(listener uintptr) {
		// Connections inherit this. Go sets it on each.
		_ = unix.SetsockoptInt(int(listener), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		for err == nil && len(g.all) < max(1, min(runtime.GOMAXPROCS(0), maxLoops, s.census.spare/8)) {
			err = g.add(listener)
		}
	})
	for _, l := range g.all {
		l.taken = make([]newcomer, 0, max(1, min(maxTake, s.census.spare/4/len(g.all))))
	}
	if err != nil || len(g.all) == 0 {
		for _, l := range g.all {
			l.close()
		}
		return nil
	}
	s.active.Add(len(g.all))
	return g
}

// add makes one more loop. The first is the one to accept.
func (g *loops) add(listener uintptr) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	_ = unix.SetNonblock(fd, true) // so that NewFile gives it to Go's poller
	l := &loop{loops: g, fd: fd, ep: os.NewFile(uintptr(fd), "epoll")}
	l.take = l.accept
	g.s.census.watch(&l.quiet, false)
	g.s.census.watch(&l.idle, true)
	g.all = append(g.all, l)
	l.next = g.all[0]
	g.all[max(0, len(g.all)-2)].next = l
	events := uint32(unix.EPOLLONESHOT)
	if len(g.all) == 1 {
		events |= unix.EPOLLIN
	}
	if err := l.control(unix.EPOLL_CTL_ADD, int(listener), listening, events); err != nil {
		return err
	}
	return l.ep.SetReadDeadline(time.Now().Add(l.tick()))
}

// tick is how often a loop looks for who has been idle too long.
func (g *loops) tick() time.Duration { return min(g.s.Timeout, g.s.Idle, 8*time.Second)/8 + 1 }

func (g *loops) serve() error {
	for _, l := range g.all {
		go l.run()
	}
	if err := <-g.failed; !g.s.ending.Load() {
		return err
	}
	return ErrClosed
}

// fail has serve return.
func (g *loops) fail(err error) {
	select {
	case g.failed <- err:
	default:
	}
}

// Close ends the loops of a server that is ending.
func (g *loops) Close() error {
	for _, l := range g.all {
		_ = l.ep.SetReadDeadline(time.Unix(1, 0))
	}
	return g.l.Close()
}

func (l *loop) run() {
	defer l.s.active.Done()
	raw, err := l.ep.SyscallConn()
	fetch := func(uintptr) bool { return l.fetch() }
	for err == nil && !l.s.ending.Load() && !(l.deaf && l.quiet.empty() && l.idle.empty()) {
		if raw.Read(fetch) != nil { // the deadline
			l.rest()
			continue
		}
		l.now = time.Now()
		for _, e := range l.events[:l.ready] {
			l.event(e)
		}
		runtime.Gosched() // to whoever would wait while a loop is never idle
	}
	l.fail(ErrClosed)
	l.now = time.Now()
	l.cut(&l.quiet, 0)
	l.cut(&l.idle, 0)
	l.close()
}

func (l *loop) close() {
	l.s.census.forget(&l.quiet)
	l.s.census.forget(&l.idle)
	_ = l.ep.Close()
}

// fetch says whether there are events.
func (l *loop) fetch() bool {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events)), uintptr(len(l.events)), 0, 0, 0)
	if l.ready = int(n); errno != 0 {
		l.ready = 0
	}
	return l.ready > 0
}

// rest is for what is done once a tick.
func (l *loop) rest() {
	l.now = time.Now()
	_ = l.ep.SetReadDeadline(l.now.Add(l.tick()))
	l.cut(&l.quiet, l.s.Timeout)
	l.cut(&l.idle, l.s.Idle)
	err := l.raw.Control(func(listener uintptr) {
		if l.starved {
			l.starved = false
			l.arm(listener)
		}
	})
	if err != nil {
		l.deaf = true
		l.fail(err)
	}
}

func (l *loop) control(op, fd int, name int32, events uint32) error {
	return unix.EpollCtl(l.fd, op, fd, &unix.EpollEvent{Events: events, Fd: name})
}

// arm makes l the loop that is told of the next connection. Were all told of each, all would wake
// for it, and the quickest get it; so they take turns.
func (l *loop) arm(listener uintptr) {
	_ = l.control(unix.EPOLL_CTL_MOD, int(listener), listening, unix.EPOLLIN|unix.EPOLLONESHOT)
}

func (l *loop) event(e unix.EpollEvent) {
	if e.Fd != listening {
		c := l.watched[e.Fd]
		l.turn(c, e.Events&hungUp != 0)
		return
	}
	l.taken = l.taken[:0]
	if err := l.raw.Control(l.take); err != nil {
		l.deaf = true
		l.fail(err)
	}
	for _, n := range l.taken {
		l.meet(n.fd, n.remote)
	}
}

// accept takes connections, and lets the next loop go on.
func (l *loop) accept(listener uintptr) {
	for len(l.taken) < cap(l.taken) {
		l.addrLen = uint32(len(l.sockaddr))
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&l.sockaddr)), uintptr(unsafe.Pointer(&l.addrLen)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			l.taken = append(l.taken, newcomer{int(fd), l.peer()})
			continue
		case unix.ECONNABORTED, unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			l.s.note(ofFiles, "no connection can be accepted: %v", errno)
			l.starved = true
			return
		}
		break
	}
	l.next.arm(listener)
}

// peer is the address that accept4 has left.
func (l *loop) peer() netip.AddrPort {
	a, port := l.sockaddr[:], binary.BigEndian.Uint16(l.sockaddr[2:])
	if binary.NativeEndian.Uint16(a) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[8:])), port)
}

// meet begins with a connection. Its request is mostly there already, and where it is the last,
// nobody has to wait for another.
func (l *loop) meet(fd int, remote netip.AddrPort) {
	switch l.s.admit(remote) {
	case refused:
		l.handOver(fd, &conn{s: l.s, remote: remote, admission: refused, owed: []byte(tooMany), last: true})
		return
	case rejected:
		_, _ = call(unix.SYS_READ, fd, l.in[:]) // or closing would reset the connection
		_, _ = call(unix.SYS_WRITE, fd, []byte(tooMany))
		_, _ = call(unix.SYS_CLOSE, fd, nil)
		return
	}
	c := l.spare
	if c == nil {
		c = new(watched)
		c.owner, l.spare = c, c
	}
	c.fd, c.remote = fd, remote
	l.quiet.push(&c.waiter, l.now)
	if l.turn(c, false) == gone {
		c.evicted = false
		return
	}
	l.spare = nil
	for fd >= len(l.watched) {
		l.watched = append(l.watched, make([]*watched, max(64, len(l.watched)))...)
	}
	l.watched[fd] = c
	if l.control(unix.EPOLL_CTL_ADD, fd, int32(fd), watching) != nil {
		c.unlink()
		l.drop(c)
	}
}

// evict ends what the client sends: that is an event, and there is nothing to read unless a request
// has come in the meantime.
func (c *watched) evict() { _ = unix.Shutdown(c.fd, unix.SHUT_RD) }

// cut closes the connections that have waited as long as they may. A request that has come is
// answered all the same: if this process was stopped, that is what has used up the time.
func (l *loop) cut(w *waiting, most time.Duration) {
	for next := w.take(l.now.Add(-most)); next != nil; next = w.take(l.now.Add(-most)) {
		if c := next.owner.(*watched); l.turn(c, false) == kept && c.unlinked() {
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

// drop closes a connection, which no longer waits.
func (l *loop) drop(c *watched) fate {
	l.s.release(c.remote, admitted)
	_, _ = call(unix.SYS_CLOSE, c.fd, nil)
	return l.forget(c.fd)
}

// turn answers what a connection has sent; last says that there will be nothing more.
func (l *loop) turn(c *watched, last bool) fate {
	n, errno := call(unix.SYS_READ, c.fd, l.in[:])
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return kept
	}
	defer func() {
		if !l.o.small() {
			l.o = output{}
		}
	}()
	c.unlink() // from here on it is not evicted
	if errno != 0 || n == 0 {
		if c.evicted && !c.in.answered {
			_, _ = call(unix.SYS_WRITE, c.fd, []byte(tooMany))
		}
		return l.drop(c)
	}
	rest, more := l.answer(l.in[:n], c.remote)
	last = last || c.evicted
	idle := len(rest) == 0 && more && n < len(l.in) && !last
	if idle { // also before the client knows: it may tell another to come
		l.idle.push(&c.waiter, l.now)
	}
	out := l.o.out
	if len(out) > 0 {
		sent, errno := call(unix.SYS_WRITE, c.fd, out)
		switch {
		case errno == 0:
			out = out[sent:]
		case errno != unix.EAGAIN && errno != unix.EINTR:
			c.unlink()
			return l.drop(c)
		}
	}
	if idle && len(out) == 0 {
		return kept
	}
	c.unlink()
	if len(out) == 0 && len(rest) == 0 && (last || !more) {
		return l.drop(c)
	}
	return l.handOver(c.fd, &conn{
		s: l.s, remote: c.remote,
		in: bytes.Clone(rest), owed: bytes.Clone(out), last: !more,
	})
}

func (l *loop) forget(fd int) fate {
	if fd < len(l.watched) {
		l.watched[fd] = nil
	}
	return gone
}

// answer appends to l.o.out the replies to the requests that in begins with, as far as they are
// plain. It returns what is left, and whether the connection goes on.
func (l *loop) answer(in []byte, remote netip.AddrPort) (rest []byte, more bool) {
	h, o := &l.h, &l.o
	o.out = o.out[:0]
	defer func() {
		if p := recover(); p != nil {
			l.s.panicked(remote, p)
			rest, more = nil, false
		}
	}()
	for more = true; more && len(in) > 0; {
		n := headEnd(in, 0)
		if n == 0 || n > maxHead || h.parse(in[:n]) != nil || !h.plain() || len(o.out) > maxBody {
			return in, true
		}
		if o.ask(h, remote); !l.s.Tracker.Prompt(&o.call) {
			return in, true
		}
		more, _ = l.s.answer(o, h, l.now, !h.keepAlive) // a stream is never prompt
		in = in[n:]
	}
	return nil, more
}

// handOver gives a connection to the portable way.
func (l *loop) handOver(fd int, c *conn) fate {
	// The epoll instance watches what fd stands for, which lives on under another number.
	_ = unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, fd, nil)
	c.nc = fdConn{os.NewFile(uintptr(fd), "connection")}
	l.s.mu.Lock()
	l.s.add(c) // Shutdown waits for this loop, so it may still be
	l.s.mu.Unlock()
	go c.serve()
	return l.forget(fd)
}

// call makes a system call that returns at once, so that Go's scheduler need not know of it.
func call(trap uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}
