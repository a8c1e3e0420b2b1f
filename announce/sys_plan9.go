package announce

import (
	"errors"
	"syscall"
)

// reusePort fails: this system has no SO_REUSEPORT.
func reusePort(_, _ string, _ syscall.RawConn) error {
	return errors.New("connecting from a chosen port needs SO_REUSEPORT, which this system does not have")
}

// isNoRoute returns false: Plan 9 has no error numbers for this.
func isNoRoute(error) bool { return false }
