package server_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"ntrack/tracker/server"
)

// The sweep goroutine of a store ends when the last peer has lapsed, so it may outlive a test.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep"), goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep-fm"))
}

// patience is how long a test waits before it fails. Nothing here takes that long.
const patience = 30 * time.Second

// hello is a request that a worker serves. When a client has the reply, the worker has also read
// the bytes that the client sent together with hello.
const hello = "GET /ntrk/hello?port=0 HTTP/1.1\r\nHost: t\r\n\r\n"

// inBubble runs a test in virtual time. It panics if the test does not end in real time, because
// virtual time may stand still, and then no deadline of the test is ever reached.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	watchdog := time.AfterFunc(2*patience, func() { panic(t.Name() + " does not end") })
	defer watchdog.Stop()
	synctest.Test(t, test)
}

// patient sets a deadline of two hours of virtual time, and returns c.
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

// await receives from c, or fails the test.
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
