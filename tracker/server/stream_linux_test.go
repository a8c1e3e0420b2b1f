package server_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// An exposingListener sends each connection that it accepts to a channel, too.
type exposingListener struct {
	net.Listener
	conns chan *net.TCPConn
}

func (l exposingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns <- c.(*net.TCPConn)
	}
	return c, err
}

// The system ends a stream whose client acknowledges nothing for 45 seconds.
func TestStreamTCPTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	exposing := exposingListener{l, make(chan *net.TCPConn, 1)}
	s := &server.Server{Tracker: &tracker.Tracker{}}
	ended := make(chan error)
	go func() { ended <- s.Serve(exposing) }()
	c := dial(t, l.Addr().String())
	r := openStream(t, c, "/ntrk/k?port=4000")
	raw, err := (<-exposing.conns).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// The server sets the option before it sends the first event of the open stream.
	join(t, s.Tracker, "k", 5000)
	expectEvent(t, r, "join 192.0.2.7:5000;")
	var ms int
	if err := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil {
		t.Fatal(err)
	}
	if err != nil || ms != 45_000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms, %v", ms, err)
	}
	if err := shutdown(s); err != nil || await(t, "Serve", ended) != server.ErrClosed {
		t.Error(err)
	}
}

// If the packets of a peer are lost, the peer leaves, although its connection is never closed. A
// filter on its socket drops every packet, so its system acknowledges nothing.
func TestStreamPacketsDropped(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}}
	s.SetStreamTCPTimeout(time.Second)
	addr := serve(t, s)
	r := openStream(t, dial(t, addr), "/ntrk/k?port=0")
	lost := dial(t, addr)
	openStream(t, lost, "/ntrk/k?port=4000")
	expectEvent(t, r, "join 127.0.0.1:4000;")
	raw, err := lost.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // 0 bytes of each packet
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	}); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	join(t, s.Tracker, "k", 5000) // so that there are bytes to acknowledge
	expectEvent(t, r, "join 192.0.2.7:5000;")
	expectEvent(t, r, "leave 127.0.0.1:4000;")
}

// dialSmallBuffer connects a client whose system buffers only a few KB that the client does not
// read.
func dialSmallBuffer(t *testing.T, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A client that does not read its stream loses it, even if the server's system buffers all events
// and the client's system still sends acknowledgements.
func TestStreamNotRead(t *testing.T) { bothWays(t, testStreamNotRead) }

func testStreamNotRead(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Second}
	s.SetStreamTCPTimeout(time.Hour)
	addr := serve(t, s)
	r := openStream(t, dial(t, addr), "/ntrk/k?port=0")
	if _, err := io.WriteString(dialSmallBuffer(t, addr), "GET /ntrk/k?port=4000 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, r, "join 127.0.0.1:4000;")
	for i := range 1000 { // 60 KB of events
		join(t, s.Tracker, "k", 5000+i)
	}
	for { // on a slow machine the client leaves before the last join
		switch name, data, err := event(r); {
		case name == "leave" && data == "127.0.0.1:4000;":
			return
		case err != nil || name != "join":
			t.Fatalf("%s %s, %v", name, data, err)
		}
	}
}

// A client that does not read a reply loses its connection.
func TestReplyNotRead(t *testing.T) { bothWays(t, testReplyNotRead) }

func testReplyNotRead(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Second}
	for i := range 1000 {
		join(t, s.Tracker, "k", 1+i)
	}
	c := dialSmallBuffer(t, serve(t, s))
	if _, err := io.WriteString(c, "GET /ntrk/k?port=0&numwant=1000&format=text HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connections: 1", func() bool { return s.Conns() == 1 })
	eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
}
