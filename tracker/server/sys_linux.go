package server

import (
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxFiles returns how many files this process may have open. Each connection counts as
// one file.
func maxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32
	}
	return int(min(limit.Cur, math.MaxInt32))
}

// setTCPOptions sets the options of a connection with a goroutine. They are those of epollAcceptor's
// connections.
func setTCPOptions(c syscall.Conn, timeout time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		setTimeout(int(fd), timeout)
		setBuffers(int(fd))
	})
}

// setTCPUserTimeout sets TCP_USER_TIMEOUT (RFC 5482) if c is TCP.
func setTCPUserTimeout(c syscall.Conn, d time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { setTimeout(int(fd), d) })
}

func setTimeout(fd int, d time.Duration) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

// setBuffers limits what the system keeps for a connection, or for each connection of a listener.
// Otherwise it would keep up to 4 MB for a client that does not read.
func setBuffers(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer/2) // the system doubles both
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer/2)
}

// getSendState returns what the system knows about the bytes sent on c. ok is false if it knows
// nothing.
func getSendState(c syscall.Conn) (s sendState, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return sendState{}, false
	}
	var info *unix.TCPInfo
	if ctlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); ctlErr != nil || err != nil {
		return sendState{}, false
	}
	return sendState{
		pending:    info.Unacked > 0 || info.Notsent_bytes > 0,
		acked:      info.Bytes_acked,
		sinceHeard: time.Duration(info.Last_ack_recv) * time.Millisecond,
	}, true
}

// unackedBytes returns how many of the bytes that were sent are not acknowledged.
func unackedBytes(c syscall.Conn) (n int) {
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { n = pendingBytes(int(fd)) })
	}
	return n
}

// An fdConn makes a net.Conn of a socket that is in Go's poller. net.FileConn would need a second
// file descriptor for the socket, and there may be no free one.
type fdConn struct{ *os.File }

// LocalAddr and RemoteAddr are not used. The worker got the address when it accepted the
// connection.
func (fdConn) LocalAddr() net.Addr  { return nil }
func (fdConn) RemoteAddr() net.Addr { return nil }

func (c fdConn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); ctlErr != nil {
		return ctlErr
	}
	return err
}
