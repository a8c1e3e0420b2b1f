//go:build unix && !solaris

package announce

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// reusePort lets a connection and a listening service use the same local port, in any order. The
// service needs SO_REUSEPORT, too.
func reusePort(_, _ string, rc syscall.RawConn) error {
	var failed error
	err := rc.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); failed == nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	})
	return errors.Join(err, failed)
}

// isNoRoute reports whether this machine has no path to an address or to its whole family.
func isNoRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
