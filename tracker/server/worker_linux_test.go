package server_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/server/servertest"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A worker sends the replies of the vectors. The test does not use sockets: virtual time does not
// work with them, and they only have addresses of this machine.
func TestWorkerVectors(t *testing.T) {
	servertest.Vectors(t, "../../testdata/vectors/tracker", func(l net.Listener, tr *tracker.Tracker) {
		s := &server.Server{Tracker: tr, Log: server.LogTo(logBesidesProxy(t))}
		s.ServeBatches(l)
	})
}

// compareWorker sends in to a worker over TCP, and compares the replies with those of a goroutine. It does
// so with a store that never blocks and with one that may.
// If split is true, it also sends in split into two parts after every byte.
func compareWorker(t *testing.T, in []byte, split bool) {
	t.Helper()
	check := func(parts ...[]byte) {
		t.Helper()
		got, from := viaWorker(t, parts...)
		if want := viaGoroutineFrom(t, from, bytes.Join(parts, nil)); !same(got, want) {
			t.Errorf("%q:\nworker    %v\ngoroutine %v", parts, got, want)
		}
	}
	check(in)
	got, from := viaWorkerOf(t, &farStore{Store: memory.New()}, in)
	if want := viaGoroutineFrom(t, from, in); !same(got, want) {
		t.Errorf("%q:\nparked    %v\ngoroutine %v", in, got, want)
	}
	for i := 0; split && i <= len(in); i++ {
		check(append([]byte(hello), in[:i]...), in[i:])
	}
}

// viaWorker returns the replies of a worker. It sends the second part when it has the reply to the
// first request of the first part.
func viaWorker(t *testing.T, parts ...[]byte) ([]reply, net.Addr) {
	t.Helper()
	return viaWorkerOf(t, memory.New(), parts...)
}

// viaWorkerOf is viaWorker with this store.
func viaWorkerOf(t *testing.T, peers store.Store, parts ...[]byte) ([]reply, net.Addr) {
	t.Helper()
	l := listen(t)
	s := &server.Server{Tracker: &tracker.Tracker{Store: peers}, Log: server.LogTo(func(line string) { t.Error(line) })}
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	var out bytes.Buffer
	for i, part := range parts {
		if i > 0 {
			if _, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, &out)), nil); err != nil {
				t.Fatalf("%q: %v", parts, err)
			}
		}
		_, _ = c.Write(part) // the server may have refused the part before
	}
	_ = c.(*net.TCPConn).CloseWrite()
	// If the client sends more after its last request, the connection may be reset after the
	// replies.
	if _, err := io.Copy(&out, c); err != nil && !(len(parts) > 1 && errors.Is(err, syscall.ECONNRESET)) {
		t.Errorf("%q: %v", parts, err)
	}
	if err := shutdown(s); err != nil {
		t.Error(err)
	}
	if err := await(t, "Serve", ended); err != server.ErrClosed {
		t.Errorf("Serve: %v", err)
	}
	if n := s.Conns(); n != 0 {
		t.Errorf("%q: %d connections left", parts, n)
	}
	return readReplies(t, bytes.Join(parts, nil), out.Bytes()), c.LocalAddr()
}

// A worker serves plain requests. If a connection sends another request, it gets a goroutine.
func TestHandOver(t *testing.T) {
	long := strings.TrimSuffix(hello, "\r\n") + "X: "
	long += strings.Repeat("x", 1024-len(long)-4) + "\r\n\r\n"
	for request, goroutines := range map[string]int{
		"GET /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n":                                               0,
		"DELETE /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n":                                            0,
		"GET /announce?info_hash=k&port=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n":                  0,
		"GET /ntrk/?format=json HTTP/1.1\r\nHost: t\r\n\r\n":                                           1, // takes a time that depends on the number of keys
		"POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n":                                              1,
		"GET /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx":                         1,
		"POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n": 1,
		strings.Repeat(hello, 1000):                                                                    0, // more than one read, or one batch
		strings.Repeat(long, 20) + hello:                                                               0, // requests that fill a read to the last byte
	} {
		s := &server.Server{Tracker: &tracker.Tracker{Index: true}}
		c := dial(t, serve(t, s))
		r := bufio.NewReader(c)
		get(t, c, r, "/ntrk/k?port=2") // now the worker has the connection
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		for range strings.Count(request, " HTTP/1.") {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%.80q: %v", request, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode/100 != 2 {
				t.Errorf("%.80q: %s, %v", request, resp.Status, err)
			}
		}
		if n := s.Goroutines(); n != goroutines {
			t.Errorf("%.80q: %d connections with a goroutine, want %d", request, n, goroutines)
		}
		get(t, c, r, "/ntrk/k?port=2") // the connection is still open
	}
}

// If a client does not read a reply at once, the worker sends the rest later. Then it serves the
// next request, or the connection ends.
func TestSlowReader(t *testing.T) {
	smallBuffer := func(option int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, 4096) })
		}
	}
	l, err := (&net.ListenConfig{Control: smallBuffer(syscall.SO_SNDBUF)}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server.Server{Tracker: &tracker.Tracker{}}
	addr := serveOn(t, s, l)
	fast := dial(t, addr)
	r := bufio.NewReader(fast)
	for port := range 1001 {
		get(t, fast, r, fmt.Sprintf("/ntrk/k?numwant=0&port=%d", port+1))
	}
	request := func(field string) string {
		return "GET /ntrk/k?port=1&numwant=1000&format=text HTTP/1.1\r\nHost: t\r\n" + field + "\r\n"
	}
	d := net.Dialer{Control: smallBuffer(syscall.SO_RCVBUF)}
	for i, sent := range [][]string{
		{request(""), request("") + request("Connection: close\r\n")},
		{request("Connection: close\r\n")},
		{strings.Repeat(request(""), 9) + request("Connection: close\r\n")}, // more than a worker keeps for one client
	} {
		slow, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		sr, replies := bufio.NewReader(slow), 0
		for _, text := range sent {
			if _, err := io.WriteString(slow, text); err != nil {
				t.Fatal(err)
			}
			if _, err := sr.Peek(1); err != nil {
				t.Fatal(err)
			}
			get(t, fast, r, "/ntrk/k?port=1&numwant=0") // does not wait for the slow client
			if n := s.Goroutines(); n != 0 {
				t.Errorf("%d connections with a goroutine", n)
			}
			for range strings.Count(text, "GET") {
				resp, err := http.ReadResponse(sr, nil)
				if err != nil {
					t.Fatalf("%d: after %d replies: %v", i, replies, err)
				}
				b, err := io.ReadAll(resp.Body)
				if n := bytes.Count(b, []byte("127.0.0.1:")); err != nil || n != 1000 {
					t.Fatalf("%d: %d peers, %v", i, n, err)
				}
				replies++
			}
		}
		if n, err := sr.ReadByte(); err != io.EOF {
			t.Errorf("%d: %q, %v after the last reply", i, n, err)
		}
		slow.Close()
		eventually(t, "connections: 1", func() bool { return s.Conns() == 1 })
	}
}

// A silent connection is closed after Timeout, an idle one after Idle.
func TestWorkerTimeouts(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Second / 2, Idle: time.Hour}
	addr := serve(t, s)
	kept := dial(t, addr)
	r := bufio.NewReader(kept)
	get(t, kept, r, "/ntrk/k?port=1")
	if n, err := dial(t, addr).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the silent connection: %d, %v", n, err)
	}
	get(t, kept, r, "/ntrk/k?port=1")

	s = &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Hour, Idle: 20 * time.Millisecond}
	addr = serve(t, s)
	silent, idle := dial(t, addr), dial(t, addr)
	get(t, idle, bufio.NewReader(idle), "/ntrk/k?port=1")
	if n, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle connection: %d, %v", n, err)
	}
	get(t, silent, bufio.NewReader(silent), "/ntrk/k?port=1")
	eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
}

// In a shutdown a worker closes its connections, and accepts no others. The connections that it has
// handed over still get their replies.
func TestWorkerShutdown(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}}
	l := listen(t)
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	silent, idle, busy := dial(t, l.Addr().String()), dial(t, l.Addr().String()), dial(t, l.Addr().String())
	get(t, idle, bufio.NewReader(idle), "/ntrk/k?port=1")
	if _, err := io.WriteString(busy, "GET /ntrk/k?port=2 HTTP/1.1\r\nHost:"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connections: 3", func() bool { return s.Conns() == 3 })
	eventually(t, "requests begun: 1", func() bool { return s.Begun() == 1 })
	done := make(chan error)
	go func() { done <- shutdown(s) }()
	for name, c := range map[string]net.Conn{"silent": silent, "idle": idle} {
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the %s connection: %d, %v", name, n, err)
		}
	}
	if err := await(t, "Serve", ended); err != server.ErrClosed {
		t.Errorf("Serve: %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("still accepting")
	}
	_, _ = io.WriteString(busy, " t\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(busy), nil)
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Errorf("the busy connection: %+v, %v", resp, err)
	}
	if err := await(t, "Shutdown", done); err != nil || s.Conns() != 0 {
		t.Errorf("shutdown: %v, %d connections", err, s.Conns())
	}
}

// If the listener is closed, Serve returns, but the connections stay open.
func TestWorkerListenerClosed(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: 2 * time.Second}
	l := listen(t)
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	c := dial(t, l.Addr().String())
	r := bufio.NewReader(c)
	get(t, c, r, "/ntrk/k?port=1")
	l.Close()
	if err := await(t, "Serve", ended); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	get(t, c, r, "/ntrk/k?port=1")
	if err := shutdown(s); err != nil {
		t.Error(err)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the shutdown: %v", err)
	}
}

// A panic ends only the connection on which it happened, after the replies to earlier requests.
func TestWorkerPanic(t *testing.T) {
	var logged atomic.Int32
	s := &server.Server{Tracker: &tracker.Tracker{Store: (*memory.Store)(nil)}, Log: server.LogTo(func(string) { logged.Add(1) })}
	addr := serve(t, s)
	good, bad := dial(t, addr), dial(t, addr)
	const options = "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"
	r := bufio.NewReader(good)
	for i := range 2 {
		if _, err := io.WriteString(good, options); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 204 {
			t.Fatalf("%+v, %v", resp, err)
		}
		if i == 0 {
			_, _ = io.WriteString(bad, options+"GET /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n"+options)
			if b, err := io.ReadAll(bad); strings.Count(string(b), "HTTP/1.1 204 ") != 1 || !strings.HasSuffix(string(b), "\r\n\r\n") {
				t.Errorf("%q, %v", b, err)
			}
		}
	}
	if logged.Load() != 1 || s.Conns() != 1 || s.Goroutines() != 0 {
		t.Errorf("%d panics logged, %d connections, %d handed over", logged.Load(), s.Conns(), s.Goroutines())
	}
}

// A connection counts once for MaxConns, even after a worker has handed it over.
func TestWorkerMaxConns(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 2}
	addr := serve(t, s)
	for range 2 {
		polled, handedOver := dial(t, addr), dial(t, addr)
		get(t, polled, bufio.NewReader(polled), "/ntrk/k?port=1")
		if _, err := io.WriteString(handedOver, "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "handed over: 1", func() bool { return s.Goroutines() == 1 })
		c := dial(t, addr)
		get(t, c, bufio.NewReader(c), "/ntrk/k?port=1") // evicts the connection that the worker has
		if n, err := polled.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
		eventually(t, "connections: 2", func() bool { return s.Conns() == 2 })
		c.Close()
		handedOver.Close()
		eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
	}
}

// A connection that arrives when no file descriptor is free is served as soon as one is free.
func TestWorkerOutOfFiles(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Timeout: 2 * time.Second}
	addr := serve(t, s)
	c := dial(t, addr)
	r := bufio.NewReader(c)
	get(t, c, r, "/ntrk/k?port=1")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = uint64(f.Fd()) + 1 // f has the lowest free descriptor; it is left for the client
	f.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // even if the test fails below
	late, err := net.Dial("tcp", addr)
	get(t, c, r, "/ntrk/k?port=1") // open connections are still served, by the worker and by a goroutine
	_, postErr := io.WriteString(c, "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx")
	resp, replyErr := http.ReadResponse(r, nil)
	eventually(t, "an accept fails", func() bool { return s.Stats().OutOfFiles > 0 })
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	_ = late.SetDeadline(time.Now().Add(patience))
	if postErr != nil || replyErr != nil || resp.StatusCode != 200 {
		t.Fatalf("POST: %v, %+v, %v", postErr, resp, replyErr)
	}
	get(t, late, bufio.NewReader(late), "/ntrk/k?port=2")
}

// Many clients connect at the same time, and pipeline requests. Each gets the replies to its own
// requests.
func TestWorkerCrowd(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(logBesidesProxy(t))}
	addr := serve(t, s)
	var crowd sync.WaitGroup
	for i := range 200 {
		crowd.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			r := bufio.NewReader(c)
			for n := 0; n < 20; {
				batch := 1 + (i+n)%5
				var requests strings.Builder
				for j := range batch {
					fmt.Fprintf(&requests, "GET /ntrk/%d-%d?format=json&port=%d HTTP/1.1\r\nHost: t\r\n\r\n", i, n+j, 1000+n+j)
				}
				if _, err := io.WriteString(c, requests.String()); err != nil {
					t.Error(err)
					return
				}
				for j := range batch {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					want := fmt.Sprintf(`{"key":"%d-%d","you":"127.0.0.1:%d",`, i, n+j, 1000+n+j)
					if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(b), want) {
						t.Errorf("%s, %v; not %s", b, err, want)
					}
				}
				n += batch
			}
		})
	}
	crowd.Wait()
	eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
}

// The system has room for all connections in its table of this process's files, before they come.
func TestFileTable(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}}
	serve(t, s)
	eventually(t, "the table has room for all connections", func() bool {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(status), "\nFDSize:\t")
		text, _, _ = strings.Cut(text, "\n")
		size, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return size >= min(s.Stats().MaxConns, 1<<16)
	})
}
