package servertest

import (
	"net"
	"sync"
)

// listener is a net.Listener in memory whose connections come from any address asked for. Real
// sockets would do neither: their peers are all 127.0.0.1, and virtual time does not wait for them.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// dial returns the near end of a new connection whose far end, once accepted, is from there.
func (l *listener) dial(from source) (net.Conn, error) {
	near, far := net.Pipe()
	c := conn{far, net.TCPAddrFromAddrPort(from.addr), here}
	if from.unix {
		c.from, c.to = &net.UnixAddr{Name: "@", Net: "unix"}, &net.UnixAddr{Name: "/run/ntrack", Net: "unix"}
	}
	select {
	case l.conns <- c:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return here }

// here is where the door believes to listen; an address kept for documentation (RFC 5737).
var here = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80}

type conn struct {
	net.Conn
	from, to net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.from }
func (c conn) LocalAddr() net.Addr  { return c.to }
