//go:build unix && !solaris

package announce

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// reusePort lets a connection come from a port that a service with SO_REUSEPORT listens on, and a
// service listen on a port that a connection comes from.
func reusePort(_, _ string, rc syscall.RawConn) error {
	var failed error
	err := rc.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); failed == nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	})
	if err != nil {
		return err
	}
	return failed
}
