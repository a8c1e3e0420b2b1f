package door

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
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
		l.now = time.Now()
		rest, more := l.answer(l.in[:n], c.remote)
		if _, err := nc.Write(l.o.out); err != nil {
			break
		}
		if len(rest) > 0 {
			c.in = bytes.Clone(rest)
			s.mu.Lock()
			s.add(c)
			s.mu.Unlock()
			c.serve()
			return
		}
		if !more {
			break
		}
	}
	_ = nc.Close()
	s.release(netip.AddrPort{}, admitted)
}

// MeetInLoop returns a way to have a loop, which does nothing else, meet a connection from
// anywhere, of which it gives the other end.
func (s *Server) MeetInLoop(t *testing.T, l net.Listener) func(remote netip.AddrPort) net.Conn {
	s.once.Do(s.init)
	g := s.loops(l).(*loops)
	t.Cleanup(func() {
		s.ending.Store(true)
		for _, l := range g.all {
			l.run()
		}
		_ = l.Close()
	})
	return func(remote netip.AddrPort) net.Conn {
		fds := socketPair(t)
		g.all[0].meet(fds[0], remote)
		c := fdConn{os.NewFile(uintptr(fds[1]), "client")}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

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
	l.cut(&l.quiet, s.Timeout)
	answered := !l.idle.empty()
	l.cut(&l.idle, 0)
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	out, err = io.ReadAll(client)
	if err == nil && answered == (len(in) == 0) {
		err = fmt.Errorf("it waits for another request: %v", answered)
	}
	return out, max(cap(l.o.out), cap(l.o.body)), err
}
