package server_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
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
