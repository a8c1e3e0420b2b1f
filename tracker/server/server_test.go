package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/server/servertest"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

func TestVectors(t *testing.T) {
	servertest.Vectors(t, "../../testdata/vectors/tracker", func(l net.Listener, tr *tracker.Tracker) {
		s := &server.Server{Tracker: tr, Log: server.LogTo(logBesidesProxy(t))}
		_ = s.Serve(l)
	})
}

// pipe connects to s inside a synctest bubble.
func pipe(s *server.Server) net.Conn {
	client, serverEnd := net.Pipe()
	go s.Serve(&oneListener{conn: fromSomewhere{serverEnd}, done: make(chan struct{})})
	return patient(client)
}

type fromSomewhere struct{ net.Conn }

func (fromSomewhere) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1001}
}

// get sends a GET request and reads the reply, which must have the status 200.
func get(t *testing.T, c net.Conn, r *bufio.Reader, target string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: t\r\n\r\n", target); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %s, %s, %v", target, resp.Status, b, err)
	}
}

// A request may take ten seconds, even if its bytes arrive one by one. A connection may be idle for
// two minutes between requests.
func TestDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}}
		defer shutdown(s)
		for name, play := range map[string]func(c net.Conn){
			"a byte a second": func(c net.Conn) {
				for range 100 {
					if _, err := c.Write([]byte("G")); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			},
			"a missing body": func(c net.Conn) {
				_, _ = io.WriteString(c, "POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n")
			},
			"the second request is slow": func(c net.Conn) {
				get(t, c, bufio.NewReader(c), "/ntrk/k?port=1")
				_, _ = io.WriteString(c, "GET /")
			},
		} {
			c, began := pipe(s), time.Now()
			go play(c)
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if _, err := io.ReadAll(c); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if d := time.Since(began).Round(time.Second); d != 10*time.Second {
				t.Errorf("%s: cut after %v, want 10s", name, d)
			}
			c.Close()
		}
		c, began := pipe(s), time.Now()
		r := bufio.NewReader(c)
		for range 10 { // each pause is shorter than two minutes
			get(t, c, r, "/ntrk/k?port=1")
			time.Sleep(100 * time.Second)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("idle: %v", err)
		}
		if d := time.Since(began); d < 1020*time.Second || d > 1036*time.Second {
			t.Errorf("closed after %v, want two minutes and a little after the last request", d)
		}
		c.Close()
	})
}

// Shutdown closes idle connections at once, and waits for the replies on the others.
func TestShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := &slowStore{Store: memory.New()}
		s := &server.Server{Tracker: &tracker.Tracker{Store: store}}
		idle, busy := pipe(s), pipe(s)
		get(t, idle, bufio.NewReader(idle), "/ntrk/k?port=1")
		store.slow.Store(true)
		go io.WriteString(busy, "GET /ntrk/k?port=2 HTTP/1.1\r\nHost: t\r\n\r\n")
		synctest.Wait()
		done := make(chan error)
		began := time.Now()
		go func() { done <- shutdown(s) }()
		if _, err := idle.Read(make([]byte, 1)); err != io.EOF || time.Since(began) > 0 {
			t.Errorf("the idle connection: %v after %v", err, time.Since(began))
		}
		resp, err := http.ReadResponse(bufio.NewReader(busy), nil)
		if err != nil || resp.StatusCode != 200 || !resp.Close {
			t.Errorf("the busy connection: %+v, %v", resp, err)
		}
		if err := await(t, "Shutdown", done); err != nil || time.Since(began) != time.Second {
			t.Errorf("shutdown: %v after %v", err, time.Since(began))
		}
	})
}

// When its context ends, Shutdown closes every connection in any state. Otherwise these connections
// would stay open for an hour.
func TestShutdownNow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const request = "GET /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n"
		s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Hour}
		for _, sent := range []string{
			"GET",
			"POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhello",
			"POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
			request, // the client does not read the reply
		} {
			c := pipe(s)
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			defer func() {
				if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
					t.Errorf("%q: %q, %v", sent, b, err)
				}
			}()
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n := s.Conns(); n != 4 {
			t.Errorf("%d connections", n)
		}
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		synctest.Wait()
		if d := time.Since(began); d != time.Second || s.Conns() != 0 {
			t.Errorf("%d connections are left after %v", s.Conns(), d)
		}
	})
}

// Shutdown also closes a TCP connection that a worker has handed over.
func TestShutdownNowOverTCP(t *testing.T) { bothWays(t, testShutdownNow) }

func testShutdownNow(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Hour}
	c := dial(t, serve(t, s))
	get(t, c, bufio.NewReader(c), "/ntrk/k?port=1")
	const head = "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
	if _, err := io.WriteString(c, head); err != nil {
		t.Fatal(err)
	}
	const goOn = "HTTP/1.1 100 Continue\r\n\r\n"
	if _, err := io.ReadFull(c, make([]byte, len(goOn))); err != nil {
		t.Fatal(err)
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(now); err != context.Canceled {
		t.Errorf("shutdown: %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	eventually(t, "no connections", func() bool { return s.Conns() == 0 })
}

// A new connection has a second to send its request, also in a shutdown.
func TestShutdownSilent(t *testing.T) { bothWays(t, testShutdownSilent) }

func testShutdownSilent(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}}
	addr := serve(t, s)
	late, never := dial(t, addr), dial(t, addr)
	eventually(t, "silent connections: 2", func() bool { return s.Silent() == 2 })
	done := make(chan error)
	go func() { done <- shutdown(s) }()
	eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(late, "GET /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(late), nil)
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Errorf("a late request: %+v, %v", resp, err)
	}
	if n, err := never.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("no request: %d, %v", n, err)
	}
	if err := await(t, "Shutdown", done); err != nil {
		t.Error(err)
	}
}

// Connections that arrive during a shutdown cause no panic, and do not stay open.
func TestShutdownRace(t *testing.T) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for i := range 200 {
		l := listen(t)
		if i%2 > 0 {
			l = notTCP{l}
		}
		s := &server.Server{Tracker: &tracker.Tracker{}}
		ended := make(chan error)
		go func() { ended <- s.Serve(l) }()
		for range 3 {
			clients.Go(func() {
				if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
					_ = c.SetReadDeadline(time.Now().Add(time.Minute))
					if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("a connection outlives its server")
					}
					c.Close()
				}
			})
		}
		if err := shutdown(s); err != nil {
			t.Fatal(err)
		}
		if err := await(t, "Serve", ended); err != server.ErrClosed {
			t.Fatal(err)
		}
	}
}

// A slowStore may block. While slow is set, an announce takes a second. Port 666 makes it panic.
type slowStore struct {
	*memory.Store
	slow atomic.Bool
}

func (*slowStore) NeverBlocks() bool { return false }

func (s *slowStore) Announce(ctx context.Context, key []byte, p wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if s.slow.Load() {
		time.Sleep(time.Second)
	}
	if p.Endpoint.Port() == 666 {
		panic("a store with a bug")
	}
	return s.Store.Announce(ctx, key, p, ttl, want, dst)
}

// A panic ends only the connection on which it happened.
func TestPanic(t *testing.T) {
	var logged atomic.Int32
	s := &server.Server{Tracker: &tracker.Tracker{Store: &slowStore{Store: memory.New()}}, Log: server.LogTo(func(string) { logged.Add(1) })}
	addr := serve(t, s)
	good, bad := dial(t, addr), dial(t, addr)
	r := bufio.NewReader(good)
	get(t, good, r, "/ntrk/k?port=1")
	if _, err := io.WriteString(bad, "GET /ntrk/k?port=666 HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(bad); len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	get(t, good, r, "/ntrk/k?port=1")
	if n := s.Stats().Panics; logged.Load() != 1 || n != 1 {
		t.Errorf("%d panics logged, %d counted", logged.Load(), n)
	}
}

// If there are too many connections and none is idle, a new connection gets a 503.
func TestMaxConns(t *testing.T) { bothWays(t, testMaxConns) }

func testMaxConns(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 1}
	addr := serve(t, s)
	first := dial(t, addr)
	r := bufio.NewReader(first)
	get(t, first, r, "/ntrk/k?port=1")
	const begin = "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n"
	if _, err := io.WriteString(first, "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"+begin); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 204 { // the server has also read the POST, so the connection is not idle
		t.Fatalf("%+v, %v", resp, err)
	}
	second := dial(t, addr)
	resp, err := http.ReadResponse(bufio.NewReader(second), nil)
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%+v, %v", resp, err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "too many connections\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := io.WriteString(first, "x"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("%+v, %v", resp, err)
	}
}

func TestTLS(t *testing.T) {
	std := httptest.NewTLSServer(nil) // for its certificate
	defer std.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	go s.ServeTLS(l, &tls.Config{Certificates: std.TLS.Certificates})
	defer shutdown(s)
	resp, err := std.Client().Get("https://" + l.Addr().String() + "/ntrk/k?port=4000&format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), `"you":"127.0.0.1:4000"`) {
		t.Errorf("%s, %v", b, err)
	}
}

type serveFunc func(*testing.T, *server.Server) (addr string)

// bothWays runs a test twice: with workers, if the system has them, and with a goroutine for each
// connection.
func bothWays(t *testing.T, test func(*testing.T, serveFunc)) {
	t.Run("worker", func(t *testing.T) { test(t, serve) })
	t.Run("goroutine", func(t *testing.T) { test(t, serveGoroutines) })
}

// serve makes s serve a TCP listener until the test ends, and returns the address.
func serve(t *testing.T, s *server.Server) string { return serveOn(t, s, listen(t)) }

func serveGoroutines(t *testing.T, s *server.Server) string { return serveOn(t, s, notTCP{listen(t)}) }

// notTCP hides the type of a listener, so that no worker serves it.
type notTCP struct{ net.Listener }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func serveOn(t *testing.T, s *server.Server, l net.Listener) string {
	t.Helper()
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := await(t, "Serve", ended); err != server.ErrClosed {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}
