package commands_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A drain begins with /readyz. Then streams end, and only then the tracker stops to answer announces.
// Its exit code is 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	m := newManager(t, "")
	file := filepath.Join(t.TempDir(), "addr")
	s := m.start(t, "--listen", "127.0.0.1:0", "--addr-file", file, "--admin", "127.0.0.1:0", "--drain", "8s")
	m.await(t, "READY=1")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimSpace(string(b))
	s.out.await(t, "; token")
	_, rest, _ := strings.Cut(s.out.String(), "admin ")
	admin, err := netip.ParseAddrPort(strings.Fields(rest)[0])
	if err != nil {
		t.Fatalf("%v: %s", err, s.out)
	}
	ready := func() int {
		resp, err := http.Get("http://" + admin.String() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := ready(); got != 200 {
		t.Errorf("/readyz: %d before the drain", got)
	}
	ended := make(chan string, 1)
	go func() {
		ending, err := follow(t.Context(), "tcp", at)
		ended <- fmt.Sprint(ending, err)
	}()
	s.signal(t, syscall.SIGTERM)
	if got := m.await(t, "STOPPING=1"); !strings.Contains(got, "EXTEND_TIMEOUT_USEC=13000000") {
		t.Errorf("%q", got)
	}
	if got := ready(); got != 503 {
		t.Errorf("/readyz: %d in the drain", got)
	}
	announces := func() {
		t.Helper()
		if reply, err := ask("tcp", at); err != nil || !strings.HasPrefix(reply, "HTTP/1.1 200 OK\r\n") {
			t.Errorf("an announce in the drain: %q, %v", reply, err)
		}
	}
	announces()
	select {
	case got := <-ended:
		if !strings.HasPrefix(got, "retry: ") || !strings.HasSuffix(got, "<nil>") {
			t.Errorf("the stream ended with %q", got)
		}
	case <-s.ended:
		t.Error("the process ended before the stream")
	case <-time.After(patience):
		t.Fatal("the stream has not ended")
	}
	announces()
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s.out.await(t, "draining for 8s; a second signal ends ntrack at once")
}

// A second signal ends a drain at once, and SIGINT begins none.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		signals []syscall.Signal
		code    int
	}{
		{[]syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, 143},
		{[]syscall.Signal{syscall.SIGTERM, syscall.SIGINT}, 130},
		{[]syscall.Signal{syscall.SIGINT}, 0},
	} {
		m := newManager(t, "")
		s := m.start(t, "--listen", "127.0.0.1:0", "--drain", "1h")
		m.await(t, "READY=1")
		s.signal(t, c.signals[0])
		if len(c.signals) > 1 {
			s.out.await(t, "draining for 1h")
			s.signal(t, c.signals[1])
		}
		if code := s.wait(t); code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.signals, code, c.code)
		}
	}
}

// systemd's watchdog gets a sign of life twice in its time.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	m := newManager(t, "")
	m.env = append(m.env, "WATCHDOG_USEC=1000000")
	m.start(t, "--listen", "127.0.0.1:0")
	m.await(t, "READY=1")
	for range 3 {
		m.await(t, "WATCHDOG=1")
	}
}
