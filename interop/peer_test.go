//go:build linux

package interop_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker"
)

// completePeer returns the program in the section "A complete peer" of docs/clients.md, as it is there.
func completePeer(t *testing.T) (path string) {
	t.Helper()
	page, err := os.ReadFile("../docs/clients.md")
	must(t, err)
	_, section, _ := strings.Cut(string(page), "\n## A complete peer\n")
	_, program, _ := strings.Cut(section, "\n```python\n")
	program, _, found := strings.Cut(program, "\n```\n")
	if n := 1 + strings.Count(program, "\n"); n > 40 || !found {
		t.Fatalf("the program has %d lines, want at most 40 (found: %v)", n, found)
	}
	return write(t, "peer.py", program)
}

// pythonPeers runs two of the peers against a tracker that is killed, and against one without streams.
func pythonPeers(t *testing.T, bin string) {
	program := completePeer(t)
	t.Run("a tracker that is killed", func(t *testing.T) {
		t.Parallel()
		addr, kill := serveAt(t, bin, "127.0.0.1:0")
		a := start(t, t.TempDir(), "python3", program, addr, "room", "4000")
		listed(t, addr, "", "127.0.0.1:4000")
		b := start(t, t.TempDir(), "python3", program, addr, "room", "4001")
		a.prints(t, "join 127.0.0.1:4001\n")
		b.prints(t, "join 127.0.0.1:4000\n")
		ask(t, "GET", addr, "?port=4002", "")
		a.prints(t, "join 127.0.0.1:4001\njoin 127.0.0.1:4002\n")
		ask(t, "DELETE", addr, "?port=4002", "")
		a.prints(t, "join 127.0.0.1:4001\njoin 127.0.0.1:4002\nleave 127.0.0.1:4002\n")
		b.prints(t, "join 127.0.0.1:4000\njoin 127.0.0.1:4002\nleave 127.0.0.1:4002\n")

		kill()
		serveAt(t, bin, addr)
		listed(t, addr, "", "127.0.0.1:4000", "127.0.0.1:4001")
		ask(t, "GET", addr, "?port=4003", "")
		a.prints(t, "join 127.0.0.1:4001\njoin 127.0.0.1:4002\nleave 127.0.0.1:4002\njoin 127.0.0.1:4003\n")
		b.prints(t, "join 127.0.0.1:4000\njoin 127.0.0.1:4002\nleave 127.0.0.1:4002\njoin 127.0.0.1:4003\n")

		end(t, b, syscall.SIGTERM)
		a.prints(t, "join 127.0.0.1:4001\njoin 127.0.0.1:4002\nleave 127.0.0.1:4002\njoin 127.0.0.1:4003\nleave 127.0.0.1:4001\n")
		end(t, a, syscall.SIGINT)
		listed(t, addr, "", "127.0.0.1:4003")
	})
	t.Run("a tracker without streams", func(t *testing.T) {
		t.Parallel()
		handler := tracker.Handler(&tracker.Tracker{Interval: time.Second})
		site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Accept", strings.ReplaceAll(r.Header.Get("Accept"), "text/event-stream", "text/unknown"))
			handler.ServeHTTP(w, r)
		}))
		defer site.Close()
		addr := strings.TrimPrefix(site.URL, "http://")
		a := start(t, t.TempDir(), "python3", program, addr, "room", "4000")
		listed(t, addr, "", "127.0.0.1:4000")
		b := start(t, t.TempDir(), "python3", program, addr, "room", "4001")
		a.prints(t, "join 127.0.0.1:4001\n")
		b.prints(t, "join 127.0.0.1:4000\n")
		end(t, b, syscall.SIGTERM)
		if _, body := ask(t, "GET", addr, "?port=0&format=text", ""); strings.Contains(body, ":4001\n") {
			t.Errorf("a peer that has left is still listed:\n%s", body)
		}
		a.prints(t, "join 127.0.0.1:4001\nleave 127.0.0.1:4001\n")
		listed(t, addr, "", "127.0.0.1:4000") // it has renewed after more than a ttl
		end(t, a, syscall.SIGINT)
		listed(t, addr, "")
	})
}

// end sends a signal to a program, which has to end with exit code 0.
func end(t *testing.T, p *program, signal os.Signal) {
	t.Helper()
	must(t, p.cmd.Process.Signal(signal))
	p.wait(t)
}
