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

// ServeAnswers serves l with what a loop answers, but without its sockets, so that connections can
// come from anywhere, and in virtual time.
func (s *Server) ServeAnswers(l net.Listener) {
	s.once.Do(s.init)
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		if _, tcp := nc.RemoteAddr().(*net.TCPAddr); !tcp {
			s.start(nc) // no loop has such
			continue
		}
		s.admit(netip.AddrPort{})
		go s.serveAnswers(nc)
	}
}

func (s *Server) serveAnswers(nc net.Conn) {
	c := &conn{s: s, nc: nc, remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort()}
	for l := (&loop{loops: &loops{s: s}}); ; {
		n, err := nc.Read(l.in[:])
		if err != nil {
			break
		}
		left, why := l.in[:n], turnOver
		for why == turnOver {
			l.now = time.Now()
			left, why = l.answer(left, c.remote, true)
			if _, err := nc.Write(l.o.out); err != nil {
				why = broken
			}
		}
		if len(left) > 0 && why != ended {
			c.in = bytes.Clone(left)
			s.mu.Lock()
			s.add(c)
			s.mu.Unlock()
			c.serve()
			return
		}
		if why != answered {
			break
		}
	}
	_ = nc.Close()
	s.release(netip.AddrPort{}, admitted)
}

// A TestLoop is a loop that nobody runs: it does what a test says, one thing after the other, also
// in virtual time.
type TestLoop struct {
	t *testing.T
	l *loop
	// End is what a shutdown makes of the connections of the loop.
	End func()
}

func (s *Server) TestLoop(t *testing.T, listener net.Listener) TestLoop {
	s.once.Do(s.init)
	g := s.loops(listener).(*loops)
	end := sync.OnceFunc(func() {
		s.ending.Store(true)
		for _, l := range g.all {
			l.run()
		}
		_ = listener.Close()
	})
	t.Cleanup(end)
	return TestLoop{t, g.all[0], end}
}

// Meet has the loop meet a connection that could come from anywhere, which takes as many bytes as
// that before its client reads, and returns the client's end.
func (l TestLoop) Meet(remote netip.AddrPort, buffer int) net.Conn {
	fds := socketPair(l.t)
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, buffer); err != nil {
		l.t.Fatal(err)
	}
	l.l.now = time.Now()
	l.l.meet(fds[0], remote)
	c := fdConn{os.NewFile(uintptr(fds[1]), "client")}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Round is one round, Tick what is done once a tick.
func (l TestLoop) Round() {
	l.l.fetch()
	l.l.round()
}

func (l TestLoop) Tick() { l.l.tidy() }

func socketPair(t *testing.T) [2]int {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// Half of a connection that a loop has handed over can be closed, and the other goes on.
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

// Overdue has a loop close a connection that has waited longer than it may, and to which in has come
// meanwhile. It returns what the client is sent, and the size of the buffers that the loop keeps.
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
	l := &loop{loops: &loops{s: s}, now: time.Now()}
	l.watched = make([]*watched, fds[1]+1)
	c := &watched{fd: fds[1], remote: netip.MustParseAddrPort("192.0.2.1:1")}
	c.owner = c
	s.census.watch(&l.quiet, false)
	s.census.watch(&l.idle, true)
	s.admit(netip.AddrPort{})
	l.watched[c.fd] = c
	l.quiet.push(&c.waiter, l.now.Add(-time.Hour))
	l.busy.init(true)
	l.owing.init(true)
	l.cut(&l.quiet, s.Timeout)
	for c := l.busy.take(l.now); c != nil; c = l.busy.take(l.now) {
		l.turn(c.owner.(*watched), false)
	}
	answered := !l.idle.empty()
	l.cut(&l.idle, 0)
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	out, err = io.ReadAll(client)
	if err == nil && answered == (len(in) == 0) {
		err = fmt.Errorf("it waits for another request: %v", answered)
	}
	return out, max(cap(l.o.out), cap(l.o.body)), err
}
