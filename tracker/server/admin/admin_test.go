package admin_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"ntrack/tracker/server/admin"
)

// serve serves s, and returns the address.
func serve(t *testing.T, s *admin.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, s, l)
	return l.Addr().String()
}

func serveAt(t *testing.T, s *admin.Server, l net.Listener) {
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
}

// ask sends a GET with these header lines, and returns the status and the body.
func ask(t *testing.T, c net.Conn, path string, lines ...string) (int, string) {
	t.Helper()
	head := "GET " + path + " HTTP/1.1\r\nConnection: close\r\n"
	for _, l := range lines {
		head += l + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A tracker that ends is still healthy: nobody should restart it because of that.
func TestHealth(t *testing.T) {
	var ending atomic.Bool
	at := serve(t, &admin.Server{Ready: func() error {
		if ending.Load() {
			return errors.New("the tracker is about to end")
		}
		return nil
	}})
	for _, step := range []struct {
		ending bool
		path   string
		status int
		body   string
	}{
		{false, "/healthz", 200, "ok\n"},
		{false, "/readyz", 200, "ok\n"},
		{true, "/healthz", 200, "ok\n"},
		{true, "/readyz", 503, "the tracker is about to end\n"},
		{false, "/readyz", 200, "ok\n"},
		{false, "/", 404, "404 page not found\n"},
	} {
		ending.Store(step.ending)
		status, body := ask(t, dial(t, "tcp", at), step.path, "Host: tracker.example")
		if status != step.status || body != step.body {
			t.Errorf("%+v: status %d, body %q", step, status, body)
		}
	}
}

// The zero Server is ready.
func TestZeroServer(t *testing.T) {
	if status, _ := ask(t, dial(t, "tcp", serve(t, new(admin.Server))), "/readyz", "Host: x"); status != 200 {
		t.Error(status)
	}
}

// A foreignListener accepts connections that seem to come from another machine.
type foreignListener struct{ net.Listener }

type foreignConn struct{ net.Conn }

func (l foreignListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return foreignConn{c}, nil
}

func (foreignConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000}
}

// Profiles are for this machine alone: not for other machines, even through a proxy here, and not for
// web pages, even if their name stands for this machine.
func TestProfilesAreLocal(t *testing.T) {
	at := serve(t, new(admin.Server))
	for _, tt := range []struct {
		lines  []string
		status int
	}{
		{[]string{"Host: 127.0.0.1:9696"}, 200},
		{[]string{"Host: [::1]:9696"}, 200},
		{[]string{"Host: [::1]"}, 200},
		{[]string{"Host: LocalHost:1"}, 200},
		{[]string{"Host: localhost", "Sec-Fetch-Site: none"}, 200},
		{[]string{"Host: localhost", "Sec-Fetch-Site: same-origin"}, 200},
		{[]string{"Host: localhost", "Sec-Fetch-Site: cross-site"}, 403},
		{[]string{"Host: localhost", "X-Forwarded-For: 192.0.2.1"}, 403},
		{[]string{"Host: localhost", "Forwarded: for=192.0.2.1"}, 403},
		{[]string{"Host: evil.example:9696"}, 403},
		{[]string{"Host: localhost.evil.example"}, 403},
	} {
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/symbol"} {
			if status, body := ask(t, dial(t, "tcp", at), path, tt.lines...); status != tt.status {
				t.Errorf("%s, %q: status %d, want %d: %.80q", path, tt.lines, status, tt.status, body)
			}
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, new(admin.Server), foreignListener{l})
	for path, want := range map[string]int{"/debug/pprof/": 403, "/debug/pprof/profile": 403, "/debug/pprof/trace": 403, "/healthz": 200} {
		if status, _ := ask(t, dial(t, "tcp", l.Addr().String()), path, "Host: 127.0.0.1:9696"); status != want {
			t.Errorf("%s from another machine: status %d, want %d", path, status, want)
		}
	}

	path := filepath.Join(t.TempDir(), "admin.sock")
	u, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, new(admin.Server), u)
	if status, body := ask(t, dial(t, "unix", path), "/debug/pprof/", "Host: localhost"); status != 200 {
		t.Errorf("by a Unix socket: status %d, %.80q", status, body)
	}
}

// A panic goes to the log, without the address of the client, and the server goes on.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	at := serve(t, &admin.Server{
		Ready: func() error { panic("Ready is broken") },
		Log:   slog.New(slog.NewTextHandler(&log, nil)),
	})
	c := dial(t, "tcp", at)
	fmt.Fprint(c, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
	if status, _ := ask(t, dial(t, "tcp", at), "/healthz", "Host: x"); status != 200 {
		t.Error(status)
	}
	if text := log.String(); !strings.Contains(text, "Ready is broken") || !strings.Contains(text, "admin_test.go") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("log: %s", text)
	}
}

// Clients that open connections and send nothing get only so many, and give them back.
func TestLimit(t *testing.T) {
	at := serve(t, new(admin.Server))
	var conns []net.Conn
	for range 64 {
		conns = append(conns, dial(t, "tcp", at))
	}
	if b, err := io.ReadAll(dial(t, "tcp", at)); len(b) > 0 {
		t.Errorf("the 65th connection got %q, %v", b, err)
	}
	if status, _ := ask(t, conns[0], "/healthz", "Host: x"); status != 200 {
		t.Error(status)
	}
	_, _ = io.Copy(io.Discard, conns[0]) // until the server has closed it
	if status, _ := ask(t, dial(t, "tcp", at), "/healthz", "Host: x"); status != 200 {
		t.Error(status)
	}
}
