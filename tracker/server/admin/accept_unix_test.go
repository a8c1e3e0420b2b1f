//go:build unix

package admin_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"ntrack/tracker/server/admin"
)

// failing is a listener whose accepts fail one after the other.
type failing struct{ errs []error }

func (l *failing) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
}
func (l *failing) Addr() net.Addr { return &net.TCPAddr{} }
func (l *failing) Close() error   { return nil }

// A lack of memory ends no server, and so not the tracker. A socket that does not listen does.
func TestFaultAcceptFails(t *testing.T) {
	l := &failing{[]error{syscall.EMFILE, syscall.ENOBUFS, syscall.EPERM, syscall.EBADF}}
	if err := new(admin.Server).Serve(l); !errors.Is(err, syscall.EBADF) || len(l.errs) > 0 {
		t.Errorf("Serve: %v, and %d accepts are left", err, len(l.errs))
	}
}
