package server

import (
	"cmp"
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

// An epollAcceptor serves TCP on Linux with a few workers. Each worker serves many connections in
// one goroutine. So a connection needs no goroutine, no place in Go's poller, no deadlines and no
// socket options of its own. For a connection with only one request, these would take more time
// than the request.
type epollAcceptor struct {
	s       *Server
	l       *net.TCPListener
	raw     syscall.RawConn // of l
	workers []*worker
	failed  chan error // the result of acceptConns
	parkers parkers
	// inherits says that all later connections inherit the options of the listener. Connections
	// that arrived before the listener had these options do not.
	inherits atomic.Bool
}

// newEpollAcceptor returns nil if l is not plain TCP, or if epoll is not available. s.mu is locked.
func (s *Server) newEpollAcceptor(l net.Listener) acceptor {
	tl, ok := l.(*net.TCPListener)
	if !ok {
		return nil
	}
	a := &epollAcceptor{s: s, l: tl, failed: make(chan error, 1), parkers: parkers{waiting: make(chan *parkedBatch)}}
	raw, err := tl.SyscallConn()
	if err != nil {
		return nil
	}
	a.raw = raw
	err = raw.Control(func(listener uintptr) {
		a.setOptions(int(listener))
		for err == nil && len(a.workers) < max(1, min(runtime.GOMAXPROCS(0), maxWorkers, s.limiter.reservedFiles/8)) {
			err = a.addWorker(listener)
		}
	})
	for _, w := range a.workers {
		w.accepted = make([]acceptedConn, 0, max(1, min(maxAccept, s.limiter.reservedFiles/4/len(a.workers))))
	}
	if err != nil || len(a.workers) == 0 {
		for _, w := range a.workers {
			w.close()
		}
		return nil
	}
	s.active.Add(len(a.workers))
	go growFileTable(min(s.limiter.maxConns, 1<<16-1))
	return a
}

// growFileTable lets the system enlarge the table of this process's files for n more. Otherwise it
// does that again and again while many clients connect, each time for twice as many. In a process with
// several threads it waits for all CPUs before it does so, about 15 ms, and a worker waits with it.
func growFileTable(n int) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC) // any file will do
	if err != nil {
		return
	}
	if last, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, n); err == nil {
		_ = unix.Close(last)
	}
	_ = unix.Close(fd)
}

// setOptions sets the options of a connection, or of the listener, whose connections inherit them.
func (a *epollAcceptor) setOptions(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	setTimeout(fd, a.s.Timeout)
	setBuffers(fd)
}

// addWorker adds a worker. The first worker accepts first.
func (a *epollAcceptor) addWorker(listener uintptr) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	_ = unix.SetNonblock(fd, true) // so that NewFile adds it to Go's poller
	w := &worker{epollAcceptor: a, epollFD: fd, epoll: os.NewFile(uintptr(fd), "epoll")}
	w.acceptFunc = w.acceptFrom
	a.s.limiter.addQueue(&w.silent, silentConns)
	a.s.limiter.addQueue(&w.idle, idleConns)
	a.s.limiter.addQueue(&w.begun, begunConns)
	w.busy.init(notEvicted)
	a.s.limiter.addQueue(&w.blocked, unreadConns)
	a.s.limiter.addQueue(&w.unread, unreadConns)
	a.s.limiter.addQueue(&w.slow, unreadConns)
	w.streams.init()
	a.workers = append(a.workers, w)
	w.next = a.workers[0]
	a.workers[max(0, len(a.workers)-2)].next = w
	events := uint32(unix.EPOLLONESHOT)
	if len(a.workers) == 1 {
		events |= unix.EPOLLIN
	}
	if err := w.control(unix.EPOLL_CTL_ADD, int(listener), listenerEvent, events); err != nil {
		return err
	}
	return w.epoll.SetReadDeadline(time.Now().Add(a.housekeepingInterval()))
}

func (a *epollAcceptor) housekeepingInterval() time.Duration {
	return min(a.s.Timeout, a.s.Idle, 8*time.Second)/8 + 1
}

// acceptConns starts the workers and waits until one of them cannot accept any more.
func (a *epollAcceptor) acceptConns() error {
	for _, w := range a.workers {
		go w.run()
	}
	if err := <-a.failed; !a.s.shuttingDown.Load() {
		return err
	}
	return ErrClosed
}

// fail makes acceptConns return err, unless it has another error already.
func (a *epollAcceptor) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// Close makes the workers end. The server is shutting down.
func (a *epollAcceptor) Close() error {
	for _, w := range a.workers {
		w.wakeUp()
	}
	return a.l.Close()
}

// check asks each worker to close a channel when it next looks for events.
func (a *epollAcceptor) check() (pending []<-chan struct{}) {
	for _, w := range a.workers {
		done := make(chan struct{})
		w.checked.Store(&done)
		w.wakeUp()
		pending = append(pending, done)
	}
	return pending
}

// wakeUp makes the worker run if it waits for events. It does not block.
func (w *worker) wakeUp() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) }

// watchListener makes w get an event when the next connection arrives. Only one worker gets this
// event, and the workers take turns. Otherwise all of them would wake up, and the fastest would
// accept every connection.
func (w *worker) watchListener(listener uintptr) {
	_ = w.control(unix.EPOLL_CTL_MOD, int(listener), listenerEvent, unix.EPOLLIN|unix.EPOLLONESHOT)
}

// acceptSome accepts up to maxAccept connections and serves their first requests.
func (w *worker) acceptSome() {
	w.accepted = w.accepted[:0]
	w.acceptErr = nil
	err := w.raw.Control(w.acceptFunc)
	if err = cmp.Or(err, w.acceptErr); err != nil {
		w.listenerClosed = true
		w.fail(err)
	}
	for _, c := range w.accepted {
		w.addConn(c.fd, c.remote)
	}
}

// acceptFrom accepts connections, and lets the next worker watch the listener.
func (w *worker) acceptFrom(listener uintptr) {
	for len(w.accepted) < cap(w.accepted) {
		fd, errno := accept4(int(listener), &w.remote)
		switch errno {
		case 0:
			if !w.inherits.Load() {
				w.setOptions(fd)
			}
			w.accepted = append(w.accepted, acceptedConn{fd, w.remote.addrPort()})
			continue
		case unix.ECONNABORTED, unix.EINTR:
			continue
		case unix.EAGAIN:
			if !w.inherits.Load() {
				w.inherits.Store(true)
			}
		default:
			if !acceptsLater(errno) {
				w.acceptErr = &net.OpError{Op: "accept", Net: "tcp", Addr: w.l.Addr(), Err: errno}
				return
			}
			w.s.logLimit(limitFiles, netip.AddrPort{}, "no connection can be accepted: %v", errno)
			w.outOfFiles = true
			return
		}
		break
	}
	w.next.watchListener(listener)
}

// rawCall makes a system call that never blocks, so Go's scheduler need not know about it.
func rawCall(trap uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// A sockaddr is memory for the address of an accepted connection.
type sockaddr struct {
	b   [unix.SizeofSockaddrInet6]byte
	len uint32
}

// accept4 accepts a connection and makes it non-blocking. If no connection waits, the error is
// EAGAIN.
func accept4(listener int, remote *sockaddr) (fd int, errno syscall.Errno) {
	remote.len = uint32(len(remote.b))
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&remote.b)), uintptr(unsafe.Pointer(&remote.len)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(r), errno
}

func (a *sockaddr) addrPort() netip.AddrPort {
	b, port := a.b[:], binary.BigEndian.Uint16(a.b[2:])
	if binary.NativeEndian.Uint16(b) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])), port)
}

// epollNow fills events with the events that have happened, without waiting. It returns their
// number.
func epollNow(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
