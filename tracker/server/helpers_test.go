package server_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker/server"
)

// A test fails where the door hangs: what it waits for has a time that nothing takes here.
const patience = 30 * time.Second

// inBubble runs a test in virtual time, and panics where that stands still: then no deadline in it
// is ever reached.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	watchdog := time.AfterFunc(2*patience, func() { panic(t.Name() + " does not end") })
	defer watchdog.Stop()
	synctest.Test(t, test)
}

// patient gives a connection in virtual time, which is cheap, two hours.
func patient(c net.Conn) net.Conn {
	_ = c.SetDeadline(time.Now().Add(2 * time.Hour))
	return c
}

func dialTLS(addr string, secure *tls.Config) (*tls.Conn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, secure)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// await receives what is sent, or no more.
func await[T any](t *testing.T, what string, c <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-c:
	case <-time.After(patience):
		t.Errorf("%s: not within %v", what, patience)
	}
	return got
}

func shutdown(s *server.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Shutdown(ctx)
}
