package commands_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// While systemd restarts the tracker again and again, no connection is refused or reset, and streams
// come back.
func TestRestart(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			testRestart(t, network, addr)
		})
	}
}

func testRestart(t *testing.T, network, addr string) {
	f, at := socket(t, network, addr)
	m := newManager(t, "plain", f)
	s := m.start(t)
	m.await(t, "READY=1")

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	var streams atomic.Int64
	replies := make(chan struct{})
	each := func(serve func() error) {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := serve(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		each(func() error {
			reply, err := ask(network, at)
			if err == nil && !strings.HasPrefix(reply, "HTTP/1.1 200 OK\r\n") {
				err = fmt.Errorf("%q", reply)
			}
			select {
			case replies <- struct{}{}:
			case <-ctx.Done():
			}
			return err
		})
		each(func() error {
			ending, err := follow(ctx, network, at)
			if err == nil && !strings.HasPrefix(ending, "retry: ") {
				err = fmt.Errorf("a stream ended with %q", ending)
			}
			streams.Add(1)
			return err
		})
	}
	for range 5 {
		for range 200 {
			select {
			case <-replies:
			case <-time.After(patience):
				t.Fatal("no replies")
			}
		}
		s.signal(t, syscall.SIGTERM)
		if code := s.wait(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		s = m.start(t)
		m.await(t, "READY=1")
	}
	stop()
	clients.Wait()
	if n := streams.Load(); n < 5*4 {
		t.Errorf("%d streams, want 4 for each restart", n)
	}
}

// follow opens an event stream, and returns its last lines when it ends.
func follow(ctx context.Context, network, at string) (ending string, err error) {
	c, err := net.Dial(network, at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := fmt.Fprintf(c, "GET /ntrk/k?port=0 HTTP/1.0\r\nAccept: text/event-stream\r\n%s\r\n", forwarded(network)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if ctx.Err() != nil {
		return "retry: ", nil
	}
	if i := strings.LastIndex(string(b), "retry: "); i >= 0 {
		return string(b[i:]), err
	}
	return string(b), err
}
