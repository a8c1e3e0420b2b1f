package server_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// A testClient is a client of a TestWorker.
type testClient struct {
	t *testing.T
	net.Conn
}

// connect gives a worker a client on this machine.
func connect(t *testing.T, w server.TestWorker, buffer int) testClient {
	return testClient{t, w.AddConn(netip.MustParseAddrPort("127.0.0.1:1"), buffer)}
}

func (c testClient) send(request string, n int) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Repeat(request, n)); err != nil {
		c.t.Fatal(err)
	}
}

// read returns the bytes that have arrived, but at most limit bytes. It does not wait.
func (c testClient) read(limit int) string {
	c.t.Helper()
	raw, err := c.Conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var all bytes.Buffer
	for b := make([]byte, min(limit, 64<<10)); all.Len() < limit; {
		var n int
		ctlErr := raw.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), b[:min(len(b), limit-all.Len())]) })
		if err = errors.Join(ctlErr, err); errors.Is(err, syscall.EAGAIN) || err == nil && n == 0 {
			break
		} else if err != nil {
			c.t.Fatal(err)
		}
		all.Write(b[:n])
	}
	return all.String()
}

// replies reads the replies that have arrived, and returns their number.
func (c testClient) replies() int { return strings.Count(c.read(1<<30), "HTTP/1.1 2") }

// plenty is a buffer in which all replies of a test have room.
const plenty = 1 << 20

// A worker serves the requests that a client pipelines in batches, and other clients between them.
func TestWorkerBatches(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	w := s.TestWorker(t, listen(t))
	var many [20]testClient
	for i := range many {
		many[i] = connect(t, w, plenty)
		many[i].send(hello, 700)
	}
	w.ServeEvents()
	total := 0
	count := func() (n int) {
		for _, p := range many {
			n += p.replies()
		}
		total += n
		return n
	}
	if n := count(); n != 21*16 { // one batch for each client, and another for one of them
		t.Errorf("%d replies in the first step", n)
	}
	for range 50 {
		one := connect(t, w, plenty)
		one.send(hello, 1)
		w.ServeEvents()
		if n := one.replies(); n != 1 {
			t.Errorf("%d replies to a client with one request", n)
		}
		if n := count(); n != 16 {
			t.Errorf("meanwhile %d replies to the clients with many requests", n)
		}
	}
	for range 1000 {
		w.ServeEvents()
		count()
	}
	if total != 20*700 || s.Goroutines() != 0 {
		t.Errorf("%d replies in the end; %d connections have a goroutine", total, s.Goroutines())
	}
	many[0].send(hello, 1) // the connection is still open
	w.ServeEvents()
	if n := count(); n != 1 {
		t.Errorf("%d replies to one more request", n)
	}
}

// A large reply is a batch of its own, whatever requests come before it.
func TestWorkerLargeReplies(t *testing.T) {
	tr := &tracker.Tracker{}
	for i := range 1000 {
		join(t, tr, "k", 1+i)
	}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	w := s.TestWorker(t, listen(t))
	const large = "GET /ntrk/k?port=0&numwant=1000&format=text HTTP/1.1\r\nHost: t\r\n\r\n"
	var many [200]testClient
	for i := range many {
		many[i] = connect(t, w, plenty)
		many[i].send(hello, i%3) // the worker serves these at once
		many[i].send(large, 2)
	}
	one := connect(t, w, plenty)
	one.send(hello, 1)
	for range 4 { // a step handles 64 events
		w.ServeEvents()
	}
	if n := one.replies(); n != 1 {
		t.Errorf("%d replies to the client with a small request", n)
	}
	sum := func() (small, big int) {
		for _, p := range many {
			b := p.read(1 << 30)
			small += strings.Count(b, "Content-Length: 93\r\n")
			big += strings.Count(b, "Content-Length: 1")
		}
		return small, big
	}
	if small, big := sum(); small != 199 || big != 4 {
		t.Errorf("meanwhile %d small and %d large replies to the clients with large requests", small, big)
	}
	for range 396 {
		w.ServeEvents()
	}
	if small, big := sum(); small != 0 || big != 396 {
		t.Errorf("%d small and %d large replies in as many steps", small, big)
	}
}

// A batch also ends when its replies have 64 KB.
func TestWorkerBatchBytes(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	for i := range 200 {
		join(t, s.Tracker, "k", 1+i)
	}
	w := s.TestWorker(t, listen(t))
	p := connect(t, w, plenty)
	const request = "GET /ntrk/k?port=0&numwant=200 HTTP/1.1\r\nHost: t\r\n\r\n" // 12 KB of reply
	p.send(request, 200)
	for i := range 33 {
		w.ServeEvents()
		want := 6
		if i == 0 {
			want = 12 // a batch for the event, and a batch because the connection is busy then
		}
		if n := p.replies(); n != want && i < 32 {
			t.Fatalf("%d replies in step %d", n, i)
		}
	}
}

// A client loses its connection ten seconds after it stops reading its replies. A client that reads
// slowly gets all replies. Until it has read them, the worker serves no more requests of this
// client.
func TestWorkerReplyNotRead(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every int // seconds from one read to the next
		times int // how often the client reads
		cut   int // after how many seconds the connection ends; 0 for never
	}{
		{"nothing", 1, 0, 10},
		{"something", 2, 4, 16}, // after 0, 2, 4 and 6 seconds
		{"everything", 9, 1000, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
				for i := range 200 {
					join(t, s.Tracker, "k", 1+i)
				}
				w := s.TestWorker(t, listen(t))
				p := connect(t, w, 4096)
				time.Sleep(5 * time.Second) // the ten seconds begin later, with the first reply
				const n = 50                // replies of 3 KB each
				p.send("GET /ntrk/k?port=0&numwant=200&format=text HTTP/1.1\r\nHost: t\r\n\r\n", n)
				replies, second := 0, 0
				for ; s.Conns() > 0 && replies < n; second++ {
					if second%tt.every == 0 && second/tt.every < tt.times {
						replies += p.replies()
					}
					for range 5 {
						w.ServeEvents()
					}
					w.Housekeeping()
					time.Sleep(time.Second)
				}
				second-- // now the second in which the connection ended
				switch {
				case tt.cut == 0 && (s.Conns() != 1 || replies != n || second < 27):
					t.Errorf("%d replies read in %d seconds, %d connections", replies, second, s.Conns())
				case tt.cut > 0 && second != tt.cut:
					t.Errorf("cut after %d seconds, %d replies were read", second, replies)
				}
			})
		})
	}
}

// In a shutdown a busy connection gets one more reply. A client that has not read all replies still
// has time to read them.
func TestWorkerEnd(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	w := s.TestWorker(t, listen(t))
	busy, slow := connect(t, w, plenty), connect(t, w, 4096)
	busy.send(hello, 100)
	slow.send(hello, 100)
	for range 3 {
		w.ServeEvents()
	}
	if n := busy.replies(); n != 2*16 && n != 3*16 && n != 4*16 {
		t.Errorf("%d replies", n)
	}
	w.End()
	const last = "Connection: close\r\n"
	if b := busy.read(plenty); strings.Count(b, "HTTP/1.1 200") != 1 || strings.Count(b, last) != 1 {
		t.Errorf("the busy connection got %d bytes, at the end %.80q", len(b), b[max(0, len(b)-80):])
	}
	_ = slow.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(slow); err != nil || strings.Count(string(b), "HTTP/1.1 200") < 17 || strings.Count(string(b), last) != 1 {
		t.Errorf("the slow client got %d bytes, at the end %.80q, %v", len(b), b[max(0, len(b)-80):], err)
	}
	busy.Close()
	slow.Close()
	eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
}

// A worker closes a connection at once if the client asked for that and has sent nothing else. If
// the client may send more, a goroutine lingers before it closes the connection.
func TestWorkerLastReply(t *testing.T) {
	const end = " HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
	for request, lingers := range map[string]bool{
		"GET /ntrk/k?port=0" + end:                                                false,
		"GET /ntrk/k?port=0 HTTP/1.0\r\n\r\n":                                     false,
		hello + "GET /ntrk/k?port=0" + end:                                        false,
		"GET /ntrk/k?port=0" + end + "GET":                                        true,
		strings.Repeat(hello, 1000) + hello[:20] + "x" + end:                      false,
		"GET /ntrk/" + strings.Repeat("k", 9000) + " HTTP/1.1\r\nHost: t\r\n\r\n": true,
	} {
		s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
		w := s.TestWorker(t, listen(t))
		p := connect(t, w, plenty)
		p.send(request, 1)
		for range 100 {
			w.ServeEvents()
		}
		if n := s.Goroutines(); (n == 1) != lingers || !lingers && s.Conns() != 0 {
			t.Errorf("%.80q: %d connections, %d with a goroutine", request, s.Conns(), n)
		}
		p.Close()
		eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
	}
}

// A worker limits the connections of each address.
func TestWorkerMaxConnsPerAddr(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 2, Log: server.LogTo(func(line string) { t.Log(line) })}
	w := s.TestWorker(t, listen(t))
	from := func(addr string) net.Conn { return w.AddConn(netip.MustParseAddrPort(addr), plenty) }
	from("192.0.2.1:1")
	from("192.0.2.1:2")
	refused := from("192.0.2.1:3")
	_ = refused.SetReadDeadline(time.Now().Add(time.Minute))
	if b, err := io.ReadAll(refused); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
		t.Errorf("the third connection of one address: %q, %v", b, err)
	}
	from("192.0.2.2:1")
	refused.Close()
	eventually(t, "connections: 3", func() bool { return s.Conns() == 3 })
}

// A connection with a part of a request needs no goroutine, wherever its bytes are cut. Otherwise
// the clients of a worker would wait for as many goroutines as there are such connections.
func TestWorkerRequestBegun(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	w := s.TestWorker(t, listen(t))
	for at := 1; at < len(hello); at++ {
		p := connect(t, w, plenty)
		for i, step := range []struct {
			part           string
			replies, begun int
		}{{hello + hello[:at], 1, 1}, {hello[at:], 1, 0}, {hello[:at], 0, 1}, {hello[at:], 1, 0}} {
			p.send(step.part, 1)
			w.ServeEvents()
			if n := p.replies(); n != step.replies || s.Begun() != step.begun || s.Goroutines() != 0 {
				t.Errorf("cut at %d, part %d: %d replies, %d begun, %d goroutines", at, i, n, s.Begun(), s.Goroutines())
			}
		}
		p.Close()
		w.ServeEvents()
	}
	if n := s.Conns(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// If the client ends its connection within a request, the worker itself refuses that.
func TestWorkerCutShort(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	w := s.TestWorker(t, listen(t))
	for _, at := range []int{1, 20, len(hello) - 1} {
		p := connect(t, w, plenty)
		p.send(hello+hello[:at], 1)
		w.ServeEvents()
		if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		w.ServeEvents()
		if b := p.read(plenty); !strings.Contains(b, "HTTP/1.1 400 ") || !strings.Contains(b, "the request is cut short") || s.Conns() != 0 {
			t.Errorf("cut at %d: %q; %d connections", at, b, s.Conns())
		}
	}
}

// A request has Timeout from its first byte, also if it comes byte by byte.
func TestWorkerSlowRequest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
		w := s.TestWorker(t, listen(t))
		p := connect(t, w, plenty)
		time.Sleep(5 * time.Second) // without a byte
		began := time.Now()
		for i := 0; s.Conns() > 0 && i < len(hello)-1; i++ {
			p.send(hello[i:i+1], 1)
			w.ServeEvents()
			w.Housekeeping()
			time.Sleep(time.Second)
		}
		if d := time.Since(began); d != 11*time.Second {
			t.Errorf("the connection ended after %v", d)
		}
	})
}

// Many connections that are overdue at once end in several steps, with others between them.
func TestWorkerOverdue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
		w := s.TestWorker(t, listen(t))
		for range 300 {
			connect(t, w, plenty)
		}
		time.Sleep(11 * time.Second)
		w.Housekeeping()
		for left := 300 - 64; left > 0; left = max(0, left-64) {
			if n := s.Conns(); n != left || !w.Due() {
				t.Fatalf("%d connections, want %d; due %v", n, left, w.Due())
			}
			one := w.AddRequest(netip.MustParseAddrPort("127.0.0.1:1"), plenty, strings.Replace(hello, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			if n := (testClient{t, one}).replies(); n != 1 {
				t.Errorf("%d replies", n)
			}
			w.ServeEvents()
		}
		if n := s.Conns(); n != 0 || w.Due() {
			t.Errorf("%d connections", n)
		}
	})
}

// A connection that is evicted just when a part of its first request arrives is not to blame.
func TestWorkerEvictedAtFirstBytes(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 1}
	w := s.TestWorker(t, listen(t))
	evicted := w.AddConn(netip.MustParseAddrPort("192.0.2.1:1"), plenty)
	if _, err := io.WriteString(evicted, "GET /ntrk/k?po"); err != nil {
		t.Fatal(err)
	}
	w.AddConn(netip.MustParseAddrPort("192.0.2.2:1"), plenty) // before the worker reads from the first one
	w.ServeEvents()
	_ = evicted.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(evicted); !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}
