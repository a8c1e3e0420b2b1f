package main

import (
	"errors"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A loop serves the connections of one process to one server, in one thread.
type loop struct {
	port  int // of the server, on 127.0.0.1
	ep    int
	conns map[int]*conn // by descriptor
	buf   [64 << 10]byte
}

// A conn is a connection that a loop serves.
type conn struct {
	loop   *loop
	fd     int
	out    []byte // what is not yet sent
	unread bool   // it never reads
	client client
	began  time.Time
	events uint32
}

// A client is what a connection belongs to. A call may close the connection.
type client interface {
	// receive takes bytes of the server. They are valid until it returns.
	receive(c *conn, b []byte)
	// end is called after the loop has closed the connection, because the server ended it or
	// because of an error. It is io.EOF if the server only closed it.
	end(c *conn, err error)
}

func newLoop(port int) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &loop{port: port, ep: ep, conns: make(map[int]*conn)}, err
}

// A dialing says how a connection is made.
type dialing struct {
	from   [4]byte
	unread bool // it never reads, and its receive buffer is small
}

// dial begins a connection, and sends out as soon as it can. An error means that this process can
// make no more connections.
func (l *loop) dial(d dialing, out []byte, cl client) (*conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// The system chooses the port at connect. At bind there would not be enough ports.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if d.unread {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: d.from}); err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: l.port, Addr: [4]byte{127, 0, 0, 1}})
	}
	c := &conn{loop: l, fd: fd, out: out, unread: d.unread, client: cl, began: time.Now()}
	if err == nil || errors.Is(err, unix.EINPROGRESS) {
		c.events = c.wanted()
		err = unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: c.events, Fd: int32(fd)})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	l.conns[fd] = c
	return c, nil
}

func (c *conn) wanted() uint32 {
	events := uint32(unix.EPOLLRDHUP)
	if !c.unread {
		events |= unix.EPOLLIN
	}
	if len(c.out) > 0 {
		events |= unix.EPOLLOUT
	}
	return events
}

func (c *conn) update() {
	if events := c.wanted(); events != c.events && c.fd >= 0 {
		c.events = events
		_ = unix.EpollCtl(c.loop.ep, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)})
	}
}

// send sends b after everything before it. The caller keeps b as it is until it is sent.
func (c *conn) send(b []byte) {
	if len(c.out) > 0 {
		c.out = append(c.out[:len(c.out):len(c.out)], b...)
		return
	}
	c.out = b
	c.flush()
	c.update()
}

// flush writes what it can. After an error the loop reads what the server sent before, such as a
// refusal, and then ends the connection.
func (c *conn) flush() {
	for len(c.out) > 0 && c.fd >= 0 {
		n, err := unix.Write(c.fd, c.out)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOTCONN):
			return
		case err != nil:
			c.out = nil
		default:
			c.out = c.out[n:]
		}
	}
}

// close closes a connection without a call of end. reset makes it a reset.
func (c *conn) close(reset bool) {
	if c.fd < 0 {
		return
	}
	if reset {
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	delete(c.loop.conns, c.fd)
	_ = unix.Close(c.fd)
	c.fd = -1
}

func (c *conn) ended(err error) {
	c.close(false)
	c.client.end(c, err)
}

// read reads once.
func (c *conn) read() {
	n, err := unix.Read(c.fd, c.loop.buf[:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
	case err != nil:
		c.ended(err)
	case n == 0:
		c.ended(io.EOF)
	default:
		c.client.receive(c, c.loop.buf[:n])
	}
}

// step waits for events, for as long as wait at most, and serves them.
func (l *loop) step(wait time.Duration) error {
	var events [256]unix.EpollEvent
	n, err := unix.EpollWait(l.ep, events[:], int(wait.Milliseconds()))
	if err != nil && !errors.Is(err, syscall.EINTR) {
		return err
	}
	for _, e := range events[:max(n, 0)] {
		c := l.conns[int(e.Fd)]
		if c == nil {
			continue // an event before it in this list closed it
		}
		if e.Events&unix.EPOLLOUT != 0 {
			c.flush()
		}
		switch {
		case c.unread && e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
			c.ended(io.EOF)
		case !c.unread && e.Events&^unix.EPOLLOUT != 0:
			c.read()
		}
		c.update()
	}
	return nil
}

// close closes everything.
func (l *loop) close() {
	for _, c := range l.conns {
		c.close(false)
	}
	_ = unix.Close(l.ep)
}
