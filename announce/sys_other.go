//go:build (!unix || solaris) && !plan9

package announce

import (
	"errors"
	"syscall"
)

// reusePort fails: this system has no SO_REUSEPORT.
func reusePort(_, _ string, _ syscall.RawConn) error {
	return errors.New("connecting from a chosen port needs SO_REUSEPORT, which this system does not have")
}

// isNoRoute reports whether this machine has no path to an address or to its whole family.
func isNoRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
