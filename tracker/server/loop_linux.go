package server

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
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
	// begun says that all have been accepted that came before the listener had its options.
	begun atomic.Bool
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
	busy    waiting    // those that have more to be answered, whose turn is another's now
	owing   waiting    // those that have replies to take, by when they last took something

	h  head
	o  output
	in [maxHead + 4<<10]byte
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
		g.setOptions(int(listener))
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

// setOptions sets the options of a listener that its connections inherit, or those of one of these.
func (g *loops) setOptions(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(g.s.Timeout.Milliseconds()))
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
	l.busy.init(true)
	l.owing.init(true)
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
	fetch := func(uintptr) bool { return l.fetch() || !l.busy.empty() }
	for err == nil && !l.s.ending.Load() && !(l.deaf && l.empty()) {
		if raw.Read(fetch) != nil { // the deadline
			l.tidy()
			continue
		}
		l.round()
		runtime.Gosched() // to whoever would wait while a loop is never idle
	}
	l.fail(ErrClosed)
	l.now = time.Now()
	for c := l.busy.take(l.now); c != nil; c = l.busy.take(l.now) {
		l.turn(c.owner.(*watched), false) // a last one
	}
	for w := l.owing.take(l.now); w != nil; w = l.owing.take(l.now) {
		c := w.owner.(*watched)
		l.handOver(c.fd, c.remote, handover{owed: c.owed, in: c.left, last: c.why == ended || c.why == broken})
	}
	l.cut(&l.quiet, 0)
	l.cut(&l.idle, 0)
	l.close()
}

func (l *loop) close() {
	l.s.census.forget(&l.quiet)
	l.s.census.forget(&l.idle)
	_ = l.ep.Close()
}

func (l *loop) empty() bool {
	return l.quiet.empty() && l.idle.empty() && l.busy.empty() && l.owing.empty()
}

// round is a turn for each connection in which something has happened, and for one that waits for
// another: the many who send one request at a time are not held up by the few who send a lot.
func (l *loop) round() {
	l.now = time.Now()
	for _, e := range l.events[:l.ready] {
		l.event(e)
	}
	if c := l.busy.take(l.now); c != nil {
		l.turn(c.owner.(*watched), false)
	}
}

// fetch says whether there are events.
func (l *loop) fetch() bool {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events)), uintptr(len(l.events)), 0, 0, 0)
	if l.ready = int(n); errno != 0 {
		l.ready = 0
	}
	return l.ready > 0
}

// tidy is for what is done once a tick.
func (l *loop) tidy() {
	l.now = time.Now()
	_ = l.ep.SetReadDeadline(l.now.Add(l.tick()))
	l.cut(&l.quiet, l.s.Timeout)
	l.cut(&l.idle, l.s.Idle)
	l.cut(&l.owing, l.s.Timeout)
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
		l.resume(l.watched[e.Fd], e.Events&hungUp != 0)
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
			if !l.begun.Load() {
				l.setOptions(int(fd))
			}
			l.taken = append(l.taken, newcomer{int(fd), l.peer()})
			continue
		case unix.ECONNABORTED, unix.EINTR:
			continue
		case unix.EAGAIN:
			if !l.begun.Load() {
				l.begun.Store(true)
			}
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
		l.handOver(fd, remote, handover{admission: refused, owed: []byte(tooMany), last: true})
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
		c.evicted, c.drained = false, false
		return
	}
	l.spare = nil
	for fd >= len(l.watched) {
		l.watched = append(l.watched, make([]*watched, max(64, len(l.watched)))...)
	}
	l.watched[fd] = c
	events := uint32(watching)
	if c.in == &l.owing {
		events |= unix.EPOLLOUT
	}
	if l.control(unix.EPOLL_CTL_ADD, fd, int32(fd), events) != nil {
		l.drop(c)
	}
}

// call makes a system call that returns at once, so that Go's scheduler need not know of it.
func call(trap uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}
