package server_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// When a stream has ended, its client has half a second to read the end, or a little more. What it
// sends meanwhile is ignored. Without this time the connection would be reset, and the client could
// lose the end.
func TestFaultWorkerLingers(t *testing.T) {
	for _, closes := range []bool{false, true} {
		testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
			c := openPolled(t, w, "/ntrk/k?port=4000")
			c.pass(100 * time.Millisecond)
			c.expect("before the end", "")
			call := tracker.Call{Method: "DELETE", Target: []byte("/ntrk/k?port=4000"), Remote: netip.MustParseAddrPort("127.0.0.1:1")}
			tr.Answer(t.Context(), &call, nil)
			c.pass(50 * time.Millisecond)
			for range 3 {
				if n := s.Conns(); n != 1 {
					t.Fatalf("%d connections right after the end", n)
				}
				c.send("x", 1)
				c.pass(100 * time.Millisecond)
			}
			if closes {
				c.Close()
				w.ServeEvents()
				if n := s.Conns(); n != 0 {
					t.Errorf("%d connections after the client has closed its end", n)
				}
				return
			}
			c.pass(500 * time.Millisecond)
			if n := s.Conns(); n != 0 {
				t.Errorf("%d connections long after the end", n)
			}
		})
	}
}

// The streams of one address count for its limit until they end.
func TestFaultWorkerMaxConnsPerAddr(t *testing.T) {
	const most = 3
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, MaxConnsPerAddr: most}
	w := s.TestWorker(t, listen(t))
	from := netip.MustParseAddrPort("192.0.2.1:1")
	open := func(port int) (net.Conn, string) {
		c := w.AddConn(from, 4096)
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = fmt.Fprintf(c, "GET /ntrk/k?port=%d HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n", port)
		w.ServeEvents()
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return c, string(b[:n])
	}
	for round := range 3 {
		var conns []net.Conn
		for i := range most {
			c, reply := open(4000 + i)
			if !strings.HasPrefix(reply, "HTTP/1.1 200 ") {
				t.Fatalf("round %d, stream %d: %q", round, i, reply)
			}
			conns = append(conns, c)
		}
		if _, reply := open(4999); !strings.HasPrefix(reply, "HTTP/1.1 503 ") {
			t.Fatalf("round %d, one too many: %q", round, reply)
		}
		for _, c := range conns {
			c.Close()
		}
		w.ServeEvents()
		if l := list(t, tr, "k"); l != "" {
			t.Errorf("listed: %q", l)
		}
	}
}

// The system keeps only some KB of events for a client of a worker that does not read. This memory
// is not a part of the process.
func TestFaultWorkerSystemMemory(t *testing.T) {
	const (
		peers = 8000      // that join, with 350 KB of events
		most  = 128 << 10 // twice the size that the worker sets, because the system counts roughly
	)
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, Timeout: time.Hour})
	fast := watch(t, dial(t, addr), "/ntrk/k?port=0")
	slow := dialSmallBuffer(t, addr)
	if _, err := io.WriteString(slow, "GET /ntrk/k?port=0 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for i := range peers {
		join(t, tr, "k", 10_000+i)
		if i%1000 == 999 {
			if _, err := fast.untilJoin(fmt.Sprintf("192.0.2.7:%d;", 10_000+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := sendQueue(t, addr); n == 0 || n > most {
		t.Errorf("the system keeps %d bytes", n)
	}
}

// If a worker leaves some streams for later, it does not wait for other events before it serves them.
func TestFaultWorkerServesAll(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		var all []*polledClient
		for range 300 {
			all = append(all, openPolled(t, w, "/ntrk/k?port=0"))
		}
		check := func(what, want string) {
			t.Helper()
			rounds := 0
			for ; rounds == 0 || w.Due(); rounds++ {
				w.ServeEvents()
			}
			if rounds < 3 {
				t.Errorf("%s: only %d rounds", what, rounds)
			}
			for _, c := range all {
				c.expect(what, want)
			}
		}
		time.Sleep(time.Second)
		w.ServeEvents()
		for w.Due() {
			w.ServeEvents()
		}
		join(t, tr, "k", 5000)
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		if !w.Due() {
			t.Error("the streams have not woken the worker")
		}
		check("an event", joinEvent(5000))
		time.Sleep(15 * time.Second)
		check("heartbeats", ":\n\n")
	})
}

// A worker that sends much to its streams serves other connections in between.
func TestFaultWorkerServesInSlices(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		var all []*polledClient
		for range 40 {
			all = append(all, openPolled(t, w, "/ntrk/k?port=0"))
		}
		for i := range 1000 { // 40 KB of events for each stream
			join(t, tr, "k", 1+i)
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		for before, rounds := 0, 0; before < len(all); rounds++ {
			w.ServeEvents()
			served := 0
			for _, c := range all {
				if c.text += c.read(plenty); c.text != "" {
					served++
				}
			}
			if served == before || served-before > 16 {
				t.Fatalf("round %d: %d streams were served", rounds, served-before)
			}
			before = served
		}
	})
}

// If a stream begins with more bytes than the system takes, the client gets the rest when it reads.
func TestFaultWorkerLargeBeginning(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		const peers = 9000
		for i := range peers {
			join(t, tr, "k", 1+i)
		}
		for _, late := range []bool{false, true} { // whether the request comes after the connection
			request, from := streamRequest, netip.MustParseAddrPort("127.0.0.1:1")
			c := testClient{t, nil}
			if late {
				c.Conn = w.AddConn(from, 4096)
				c.send(request, 1)
			} else {
				c.Conn = w.AddRequest(from, 4096, request)
			}
			var got strings.Builder
			for range 50 {
				w.ServeEvents()
				got.WriteString(c.read(plenty))
			}
			if n := strings.Count(got.String(), "data: 192.0.2.7:"); n != peers || !strings.HasSuffix(got.String(), "\n\n") {
				t.Errorf("late %v: %d bytes with %d peers", late, got.Len(), n)
			}
			c.Close()
			w.ServeEvents()
			if s.Conns() != 0 {
				t.Errorf("%d connections", s.Conns())
			}
		}
	})
}

// One event reaches all of many streams, although nothing else happens.
func TestFaultWorkerOneEvent(t *testing.T) {
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })})
	var all []*watcher
	for range 400 {
		all = append(all, watch(t, dial(t, addr), "/ntrk/k?port=0"))
	}
	for port := 5000; port < 5003; port++ {
		join(t, tr, "k", port)
		for _, w := range all {
			if name, peer, err := w.next(); err != nil || name != "join" || peer != fmt.Sprintf("192.0.2.7:%d;", port) {
				t.Fatalf("%s %s, %v", name, peer, err)
			}
		}
	}
}

// An event of the only stream is sent at once, and not when the worker next visits its streams. The
// store needs 50 ms of the time.
func TestFaultWorkerIsPrompt(t *testing.T) {
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })})
	w := watch(t, dial(t, addr), "/ntrk/k?port=0")
	fastest := time.Hour // of several, because the machine may be busy
	for port := 5000; port < 5010; port++ {
		began := time.Now()
		join(t, tr, "k", port)
		if _, err := w.untilJoin(fmt.Sprintf("192.0.2.7:%d;", port)); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, time.Since(began))
	}
	if fastest > 150*time.Millisecond {
		t.Errorf("the fastest event took %v", fastest)
	}
}
