package server

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// fdConn makes a net.Conn of a socket in Go's poller. net.FileConn would take another file
// descriptor for it, and there may be none.
type fdConn struct{ *os.File }

// LocalAddr and RemoteAddr are not asked for: a loop knows them from accepting.
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
