package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// If another process shuts the listening socket down, or `ss --kill` does, no connection will ever
// arrive again. Serve returns an error, and the connections stay open.
func TestFaultListenerDies(t *testing.T) {
	for name, l := range map[string]net.Listener{"worker": listen(t), "goroutine": notTCP{listen(t)}} {
		t.Run(name, func(t *testing.T) {
			s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(l) }()
			c := dial(t, l.Addr().String())
			r := bufio.NewReader(c)
			get(t, c, r, "/ntrk/k?port=1")
			tl, ok := l.(*net.TCPListener)
			if !ok {
				tl = l.(notTCP).Listener.(*net.TCPListener)
			}
			raw, err := tl.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if ctlErr := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_RDWR) }); ctlErr != nil || err != nil {
				t.Fatal(ctlErr, err)
			}
			if err := await(t, "Serve", ended); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("Serve: %v", err)
			}
			get(t, c, r, "/ntrk/k?port=1")
			if err := shutdown(s); err != nil {
				t.Error(err)
			}
		})
	}
}

// An accept may fail because of the network, a firewall or missing memory. The server logs that once
// in a minute, and accepts the next connection.
func TestFaultAcceptFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log []string
		s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { log = append(log, line) })}
		errs := []error{
			syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.EPROTO,
			syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP,
			syscall.ECONNABORTED,
		}
		last := fmt.Errorf("the end: %w", syscall.EBADF)
		l := &failing{errs: append(slices.Clone(errs), last)}
		if err := s.Serve(l); !errors.Is(err, last) {
			t.Errorf("Serve: %v", err)
		}
		if n := l.accepts.Load(); n != int64(len(errs))+1 || len(log) != 1 {
			t.Errorf("%d accepts; logged %q", n, log)
		}
	})
}

// failing is a listener whose accepts fail one after the other.
type failing struct {
	errs    []error
	accepts atomic.Int64
}

func (l *failing) Accept() (net.Conn, error) {
	n := l.accepts.Add(1)
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: l.errs[n-1]}
}
func (l *failing) Addr() net.Addr { return &net.TCPAddr{} }
func (l *failing) Close() error   { return nil }
