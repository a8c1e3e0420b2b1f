package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ServeBatches serves l with the replies of a worker, but without epoll and system calls. So
// connections can come from any address, and virtual time works.
func (s *Server) ServeBatches(l net.Listener) {
	s.once.Do(s.init)
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		if _, tcp := nc.RemoteAddr().(*net.TCPAddr); !tcp {
			s.startConn(nc, nil) // workers serve only TCP
			continue
		}
		s.admitConn(netip.AddrPort{}, new(account), 0)
		go s.serveBatches(nc)
	}
}

func (s *Server) serveBatches(nc net.Conn) {
	c := &conn{s: s, turn: &turnConn{Conn: nc, turns: s.turns}, remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort()}
	c.nc = c.turn
	for w := (&worker{epollAcceptor: &epollAcceptor{s: s}}); ; {
		n, err := nc.Read(w.in[:])
		if err != nil {
			break
		}
		rest, why := w.in[:n], batchFull
		for why == batchFull {
			w.now = time.Now()
			rest, why = w.serve(s, rest, c.remote, direct, true, s.mayWait)
			if _, err := nc.Write(w.b.out); err != nil {
				why = panicked
			}
		}
		if why == newStream {
			c.stream = w.stream
			c.serveStream()
			c.stream.Close()
			break
		}
		if len(rest) > 0 && why != lastReply {
			c.in = bytes.Clone(rest)
			s.mu.Lock()
			s.register(c)
			s.mu.Unlock()
			c.serveRequests()
			return
		}
		if why != allServed {
			break
		}
	}
	_ = nc.Close()
	s.releaseConn(netip.AddrPort{}, direct, admitted, new(account))
}

// A TestWorker is a worker that a test runs step by step, also in virtual time.
type TestWorker struct {
	t *testing.T
	w *worker
	// End makes the worker end, as in a shutdown.
	End func()
}

func (s *Server) TestWorker(t *testing.T, listener net.Listener) TestWorker {
	s.once.Do(s.init)
	a := s.newEpollAcceptor(listener).(*epollAcceptor)
	end := sync.OnceFunc(func() {
		s.draining.Store(true)
		s.shuttingDown.Store(true)
		for _, w := range a.workers {
			w.run()
		}
		_ = listener.Close()
		s.calls.abort()
	})
	t.Cleanup(end)
	return TestWorker{t, a.workers[0], end}
}

// AddConn gives the worker a connection from any address, and returns the client's end. buffer is
// how many bytes the system buffers for a client that does not read.
func (w TestWorker) AddConn(remote netip.AddrPort, buffer int) net.Conn {
	return w.AddRequest(remote, buffer, "")
}

// AddRequest is AddConn for a client whose request arrives together with the connection.
func (w TestWorker) AddRequest(remote netip.AddrPort, buffer int, request string) net.Conn {
	fds := socketPair(w.t)
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, buffer); err != nil {
		w.t.Fatal(err)
	}
	c := fdConn{os.NewFile(uintptr(fds[1]), "client")}
	if _, err := c.Write([]byte(request)); err != nil {
		w.t.Fatal(err)
	}
	w.w.now = time.Now()
	w.w.addConn(fds[0], remote)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w TestWorker) ServeEvents() {
	w.w.ready = epollNow(w.w.epollFD, w.w.events[:])
	w.w.serveEvents()
}

// LargestRest is the most bytes that the worker keeps for a client that does not read.
func (w TestWorker) LargestRest() (n int) {
	for _, c := range w.w.conns {
		if c != nil {
			n = max(n, len(c.unsent()))
		}
	}
	return n
}

// Due says whether the worker has streams to serve or connections to close now, so that it must not wait for events.
func (w TestWorker) Due() bool { return w.w.streams.due() || w.w.overdue || len(w.w.hungUp) > 0 }

func (w TestWorker) Housekeeping() { w.w.housekeeping() }

func socketPair(t *testing.T) [2]int {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// A connection that a worker has handed over can be closed for sending and still be read.
func TestCloseWrite(t *testing.T) {
	fds := socketPair(t)
	a, b := fdConn{os.NewFile(uintptr(fds[0]), "a")}, fdConn{os.NewFile(uintptr(fds[1]), "b")}
	for _, c := range []fdConn{a, b} {
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := b.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// Overdue gives a worker a connection whose Timeout is over, on which the client has sent in. It
// lets the worker close overdue connections. It returns what the client receives, and the size of
// the largest buffer that the worker keeps.
func (s *Server) Overdue(in []byte) (out []byte, kept int, err error) {
	s.once.Do(s.init)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	client := os.NewFile(uintptr(fds[0]), "client")
	defer client.Close()
	if _, err := client.Write(in); err != nil {
		return nil, 0, err
	}
	w := &worker{epollAcceptor: &epollAcceptor{s: s}, batch: batch{now: time.Now()}}
	w.conns = make([]*polledConn, fds[1]+1)
	c := &polledConn{fd: int32(fds[1]), remote: netip.MustParseAddrPort("192.0.2.1:1")}
	c.owner = c
	s.limiter.addQueue(&w.silent, silentConns)
	s.limiter.addQueue(&w.idle, idleConns)
	s.admitConn(netip.AddrPort{}, &c.account, weightPolled)
	w.conns[c.fd] = c
	w.silent.enqueue(&c.queueEntry, w.now.Add(-time.Hour))
	s.limiter.addQueue(&w.begun, begunConns)
	w.busy.init(notEvicted)
	s.limiter.addQueue(&w.blocked, unreadConns)
	s.limiter.addQueue(&w.unread, unreadConns)
	w.closeOverdue(&w.silent, s.Timeout)
	for e := w.busy.popBefore(w.now); e != nil; e = w.busy.popBefore(w.now) {
		w.serveConn(e.owner.(*polledConn), false)
	}
	idle := !w.idle.empty()
	w.closeOverdue(&w.idle, 0)
	w.freeBuffers()
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	out, err = io.ReadAll(client)
	if err == nil && idle != (len(in) > 0) {
		err = fmt.Errorf("the connection waits for another request: %v", idle)
	}
	return out, max(cap(w.b.out), cap(w.b.body)), err
}
