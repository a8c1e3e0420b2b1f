//go:build !plan9

package announce

import (
	"errors"
	"syscall"
)

// isNoRoute says that this machine has no path to an address, or none of its family.
func isNoRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
