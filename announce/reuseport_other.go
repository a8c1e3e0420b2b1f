//go:build !unix || solaris

package announce

import (
	"errors"
	"syscall"
)

func reusePort(_, _ string, _ syscall.RawConn) error {
	return errors.New("connecting from a chosen port needs SO_REUSEPORT, which this system does not have")
}
