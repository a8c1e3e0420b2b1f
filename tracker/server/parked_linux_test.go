package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
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

// A parked connection gets the replies of the vectors.
func TestParkedVectors(t *testing.T) {
	servertest.Vectors(t, "../../testdata/vectors/tracker", func(l net.Listener, tr *tracker.Tracker) {
		if tr.Store == nil {
			tr.Store = &farStore{Store: memory.New()}
		}
		s := &server.Server{Tracker: tr, Log: server.LogTo(logBesidesProxy(t))}
		s.ServeBatches(l)
	})
}

// A parked connection gets the same replies as one with a goroutine, also if a request is split.
func TestParkedAgrees(t *testing.T) {
	for _, in := range corpus {
		first, second := append([]byte(hello), in[:len(in)/2]...), []byte(in[len(in)/2:])
		far, _ := farServer(t)
		got, from := viaWorkerOf(t, far, first, second)
		if want := viaGoroutineFrom(t, from, slices.Concat(first, second)); !same(got, want) {
			t.Errorf("%q:\nparked    %v\ngoroutine %v", in, got, want)
		}
	}
}

// Connections with a goroutine that wait for the store do not keep others from being served.
func TestTurnsDuringCalls(t *testing.T) {
	far, s := farServer(t)
	addr := serveGoroutines(t, s)
	far.deaf.Store(true)
	release := far.hold()
	calls := 4 * runtime.GOMAXPROCS(0)
	var waiting []net.Conn
	for range calls {
		c := dial(t, addr)
		_, _ = io.WriteString(c, announceAt(1))
		waiting = append(waiting, c)
	}
	eventually(t, "all calls", func() bool { return int(far.now.Load()) == calls })
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET /nothing HTTP/1.0\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 404") {
		t.Errorf("%q, %v", b, err)
	}
	release()
	for _, c := range waiting {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%+v, %v", resp, err)
		}
		_ = resp.Body.Close()
	}
}

// Parked connections are answered when the store answers, each in order, and need no goroutine otherwise.
// One that is not parked is served meanwhile.
func TestParkedOrder(t *testing.T) {
	testParked(t, func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker) {
		release := far.hold()
		var clients [20]testClient
		for i := range clients {
			clients[i] = connect(t, w, plenty)
			for port := range 100 {
				clients[i].send(announceAt(1+port), 1)
			}
			w.ServeEvents()
		}
		settle(w)
		if n := far.now.Load(); n != 20 {
			t.Errorf("%d calls wait", n)
		}
		if n := s.Stats().Memory; n < 20*16<<10 {
			t.Errorf("the parked connections take %d bytes", n)
		}
		time.Sleep(time.Second)
		w.Housekeeping()
		release()
		for range len(clients) { // a step goes on with one busy connection
			settle(w)
		}
		for i, c := range clients {
			text := c.read(plenty)
			for port := range 100 {
				you := fmt.Sprintf("127.0.0.1:%d\"", 1+port)
				head, rest, _ := strings.Cut(text, "\r\n\r\n")
				_, rest, ok := strings.Cut(rest, you)
				if text = rest; !ok || !strings.HasPrefix(head, "HTTP/1.1 200") && !strings.Contains(head, "\nHTTP/1.1 200") {
					t.Fatalf("client %d: reply %d is not in order: %.300q", i, port, head)
				}
			}
		}
		if n := s.Goroutines(); n != 0 {
			t.Errorf("%d connections have a goroutine", n)
		}
		time.Sleep(5 * time.Second) // the worker looks again whether the clients have read
		w.Housekeeping()
		if n := s.Stats().Memory; n != 20*8<<10 {
			t.Errorf("the idle connections take %d bytes", n)
		}
	})
}

// However long the store takes, no limit of time ends a parked connection, and no other evicts it.
func TestParkedIsNotIdle(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		far, s := farServer(t)
		s.MaxConns = 2
		s.Log = nil
		far.deaf.Store(true)
		w := s.TestWorker(t, listen(t))
		release := far.hold()
		first, second := connect(t, w, plenty), connect(t, w, plenty)
		first.send(announceAt(1), 1)
		second.send(announceAt(2), 1)
		settle(w)
		for range 60 {
			time.Sleep(10 * time.Second)
			w.Housekeeping()
			w.ServeEvents()
		}
		third := connect(t, w, plenty)
		third.send(hello, 1)
		release()
		settle(w)
		if a, b := first.replies(), second.replies(); a != 1 || b != 1 {
			t.Errorf("%d and %d replies", a, b)
		}
		if text := third.read(plenty); strings.Contains(text, " 200 ") {
			t.Errorf("another one was admitted: %q", text)
		}
		third.Close()
		first.send(announceAt(1), 1) // the connection is still open
		settle(w)
		if n := first.replies(); n != 1 {
			t.Errorf("%d replies later", n)
		}
	})
}

// If the client is gone when the store answers, nothing remains of the connection, nor of its stream. A
// client that has only ended its own side still gets its reply.
func TestParkedClientGone(t *testing.T) {
	testParked(t, func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker) {
		release := far.hold()
		gone := connect(t, w, plenty)
		gone.send(hello, 1)
		settle(w)
		stream := testClient{t, w.AddRequest(netip.MustParseAddrPort("127.0.0.1:7"), plenty,
			"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n")}
		gone.send(announceAt(1), 3)
		half := connect(t, w, plenty)
		half.send(announceAt(2), 2)
		last := testClient{t, w.AddRequest(netip.MustParseAddrPort("127.0.0.1:9"), plenty, "GET /ntrk/k?port=9 HTTP/1.0\r\n\r\n")}
		settle(w)
		if n := far.now.Load(); n != 4 {
			t.Fatalf("%d calls wait", n)
		}
		gone.Close()
		stream.Close()
		_ = half.Conn.(interface{ CloseWrite() error }).CloseWrite()
		settle(w)
		if n := s.Conns(); n != 4 {
			t.Errorf("%d connections while their requests are served", n)
		}
		release()
		settle(w)
		if n := half.replies(); n != 2 {
			t.Errorf("%d replies to the client that has ended its side", n)
		}
		if text := last.read(plenty); !strings.HasPrefix(text, "HTTP/1.1 200") || !strings.Contains(text, "Connection: close\r\n") {
			t.Errorf("HTTP/1.0: %q", text)
		}
		if n, streams := s.Conns(), s.Tracker.Stats().Streams; n != 0 || streams != 0 {
			t.Errorf("%d connections and %d streams are left", n, streams)
		}
		if text := list(t, s.Tracker, "k"); strings.Contains(text, "127.0.0.1:7") {
			t.Errorf("the peer of the stream is listed: %q", text)
		}
	})
}

// A stream that a parked connection has opened belongs to the worker, as any other.
func TestParkedStream(t *testing.T) {
	testParked(t, func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker) {
		release := far.hold()
		c := &polledClient{testClient: connect(t, w, 4096), w: w}
		c.send("GET /ntrk/k HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", 1)
		settle(w)
		release()
		settle(w)
		if text := c.read(plenty); !strings.Contains(text, "event: peers\n") {
			t.Fatalf("the reply is %q", text)
		}
		release = far.hold() // a slow store does not delay what streams get
		if _, _, err := far.Store.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.7:5")},
			func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
		c.pass(200 * time.Millisecond)
		c.expect("a join", joinEvent(5))
		if n := s.Goroutines(); n != 0 {
			t.Errorf("%d connections have a goroutine", n)
		}
		release()
	})
}

// A call has about two seconds. If many are late, later requests are refused at once.
func TestParkedSlowStore(t *testing.T) {
	testParked(t, func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker) {
		defer far.hold()()
		var clients [300]testClient
		for i := range clients {
			clients[i] = connect(t, w, plenty)
			clients[i].send(announceAt(1), 1)
			w.ServeEvents()
		}
		settle(w)
		began := time.Now()
		time.Sleep(time.Second)
		late := connect(t, w, plenty)
		late.send(announceAt(2), 1)
		settle(w)
		if text := late.read(plenty); !strings.HasPrefix(text, "HTTP/1.1 503 ") || !strings.HasSuffix(text, "the shared table is slow\"}\n") || !strings.Contains(text, "Retry-After: ") {
			t.Errorf("a request to a slow store: %q", text)
		}
		for far.now.Load() > 0 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if d := time.Since(began); d < 2*time.Second || d > 2200*time.Millisecond {
			t.Errorf("the calls ended after %v", d)
		}
		settle(w)
		for i, c := range clients {
			if text := c.read(plenty); !strings.HasSuffix(text, "the shared table does not answer now\"}\n") {
				t.Fatalf("client %d: %q", i, text)
			}
		}
	})
}

// Shutdown waits for the calls of a store, and sends the replies. If it does not wait any longer, the
// calls end.
func TestParkedShutdown(t *testing.T) {
	for _, waits := range []bool{true, false} {
		far, s := farServer(t)
		release := far.hold()
		l := listen(t)
		ended := make(chan error)
		go func() { ended <- s.Serve(l) }()
		c, stream := dial(t, l.Addr().String()), dial(t, l.Addr().String())
		_, _ = io.WriteString(c, announceAt(1)+announceAt(2))
		_, _ = io.WriteString(stream, "GET /ntrk/k HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n")
		eventually(t, "two calls", func() bool { return far.now.Load() == 2 })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		done := make(chan error)
		go func() { done <- s.Shutdown(ctx) }()
		if err := await(t, "Serve", ended); err != server.ErrClosed {
			t.Errorf("Serve: %v", err)
		}
		if waits {
			release()
		} else {
			cancel()
		}
		err := await(t, "Shutdown", done)
		b, _ := io.ReadAll(c)
		text := string(b)
		if waits && (err != nil || strings.Count(text, "HTTP/1.1 200") != 1 || !strings.Contains(text, "Connection: close\r\n")) {
			t.Errorf("Shutdown: %v; %q", err, text)
		}
		if !waits && err != context.Canceled {
			t.Errorf("Shutdown: %v", err)
		}
		eventually(t, "no calls", func() bool { return far.now.Load() == 0 })
		eventually(t, "no connections", func() bool { return s.Conns() == 0 })
		eventually(t, "no streams", func() bool { return s.Tracker.Stats().Streams == 0 })
		cancel()
	}
}

// A connection whose replies were made before a shutdown, and are sent during it, does not stay idle.
func TestParkedBeforeShutdown(t *testing.T) {
	_, s := farServer(t)
	w := s.TestWorker(t, listen(t))
	c := connect(t, w, plenty)
	c.send(announceAt(1), 1)
	w.ServeEvents()
	eventually(t, "a batch is served", func() bool { return s.Stats().Latency.Sum > 0 })
	began := time.Now()
	w.End()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200") || time.Since(began) > patience {
		t.Errorf("%q, %v, after %v", b, err, time.Since(began))
	}
	c.Close()
	eventually(t, "no connections", func() bool { return s.Conns() == 0 })
}

// A worker that waits for events is woken when a parked connection has its replies.
func TestParkedWakes(t *testing.T) {
	far, s := farServer(t)
	c := dial(t, serve(t, s))
	r := bufio.NewReader(c)
	began := time.Now()
	for range 30 {
		release := far.hold()
		if _, err := io.WriteString(c, announceAt(1)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a call", func() bool { return far.now.Load() == 1 })
		time.AfterFunc(5*time.Millisecond, release) // meanwhile the worker begins to wait
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	if d := time.Since(began); d > 10*time.Second { // its housekeeping alone would need 30 s
		t.Errorf("30 replies took %v", d)
	}
}

// A stream that opens after its worker has ended is closed.
func TestParkedStreamAfterEnd(t *testing.T) {
	testParked(t, func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker) {
		far.deaf.Store(true)
		release := far.hold()
		c := connect(t, w, plenty)
		c.send("GET /ntrk/k HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", 1)
		settle(w)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Shutdown(ctx)
		w.End()
		release()
		synctest.Wait()
		if n, conns := s.Tracker.Stats().Streams, s.Conns(); n != 0 || conns != 0 {
			t.Errorf("%d streams and %d connections are left", n, conns)
		}
	})
}

// A panic ends only its connection, after the replies to earlier requests.
func TestParkedPanic(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, s := farServer(t)
		var logged atomic.Int32
		s.Log = server.LogTo(func(string) { logged.Add(1) })
		w := s.TestWorker(t, listen(t))
		good, bad := connect(t, w, plenty), connect(t, w, plenty)
		good.send(announceAt(1), 1)
		bad.send(announceAt(1)+announceAt(666)+announceAt(2), 1)
		settle(w)
		good.send(announceAt(1), 1)
		settle(w)
		if a, b := good.replies(), bad.replies(); a != 2 || b != 1 || s.Conns() != 1 || logged.Load() != 1 {
			t.Errorf("%d and %d replies, %d connections, %d panics logged", a, b, s.Conns(), logged.Load())
		}
	})
}
