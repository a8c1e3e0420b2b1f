package server_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// A client that asks for much and never reads costs the system a bounded number of bytes.
func TestFaultNeverReadsSystemMemory(t *testing.T) { bothWays(t, testFaultNeverReadsSystemMemory) }

func testFaultNeverReadsSystemMemory(t *testing.T, serve serveFunc) {
	const most = 192 << 10 // bytes sent and not acknowledged: sendBuffer, and the packet that exceeds it
	tr := &tracker.Tracker{}
	for i := range 1000 {
		join(t, tr, "k", 1+i)
	}
	addr := serve(t, &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })})
	c := dial(t, addr)
	for range 20 { // a fast reader, to whose speed the system may adapt its buffers
		get(t, c, bufio.NewReader(c), "/ntrk/k?port=0&numwant=1000")
	}
	const large = "GET /ntrk/k?port=0&numwant=1000 HTTP/1.1\r\nHost: t\r\n\r\n" // 60 KB of reply
	if _, err := c.Write([]byte(strings.Repeat(large, 100))); err != nil {
		t.Fatal(err)
	}
	queued := 0
	eventually(t, "the buffer is full", func() bool {
		before := queued
		queued = sendQueue(t, addr)
		return queued > 16<<10 && queued == before
	})
	if queued > most {
		t.Errorf("the system keeps %d bytes", queued)
	}
}

// If the idle connections take all memory, a new one still gets its reply. The sum stays below the
// limit.
func TestMaxMemory(t *testing.T) { bothWays(t, testMaxMemory) }

func testMaxMemory(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxMemory: 1 << 20, MaxConns: 1000}
	addr := serve(t, s)
	var all []visitor
	for range 300 {
		v := visit(t, addr)
		v.look(t)
		if st := s.Stats(); st.Memory > st.MaxMemory || st.Memory <= 0 {
			t.Fatalf("the connections take %d bytes", st.Memory)
		}
		all = append(all, v)
	}
	all[0].gone(t, "the oldest")
	if n := s.Conns(); n < 20 || n > 128 {
		t.Errorf("%d connections are open", n)
	}
	for _, v := range all {
		v.Close()
	}
	eventually(t, "no memory is counted", func() bool { return s.Stats().Memory == 0 })
}

// However many clients ask for much and never read, their connections take no more than MaxMemory,
// and others are served.
func TestMaxMemoryNeverRead(t *testing.T) { bothWays(t, testMaxMemoryNeverRead) }

func testMaxMemoryNeverRead(t *testing.T, serve serveFunc) {
	const most = 16 << 20
	tr := &tracker.Tracker{}
	for i := range 2000 {
		join(t, tr, "k", 1+i)
	}
	for name, request := range map[string]string{
		"looks":    strings.Repeat("GET /ntrk/k?port=0&numwant=1000 HTTP/1.1\r\nHost: t\r\n\r\n", 20),
		"one look": "GET /ntrk/k?port=0&numwant=1000 HTTP/1.1\r\nHost: t\r\n\r\n",
		"streams":  streamRequest,
		"requests": strings.Repeat("GET /ntrk/k?port=0 HTTP/1.1\r\nHost: t\r\n\r\n", 400),
		"parts":    "GET /ntrk/" + strings.Repeat("k", 8000),
	} {
		t.Run(name, func(t *testing.T) {
			s := &server.Server{Tracker: tr, MaxMemory: most, MaxConns: 10_000}
			addr := serve(t, s)
			before := heap()
			var highest int64
			var grown int
			for i := range 600 {
				c := dial(t, addr)
				_, _ = c.Write([]byte(request)) // it may be evicted meanwhile
				if i%10 == 9 {
					v := visit(t, addr)
					v.look(t)
					v.Close()
				}
				highest = max(highest, s.Stats().Memory)
				if i%100 == 99 {
					grown = max(grown, heap()-before)
				}
			}
			t.Logf("at most %d KB by weights, %d KB of heap, %d connections at the end", highest>>10, grown>>10, s.Conns())
			if highest > most || grown > most+2<<20 {
				t.Errorf("%d bytes by their weights, %d bytes of heap", highest, grown)
			}
		})
	}
}

// When a client has read a large reply, its connection takes as little memory as before.
func TestMemoryAfterReading(t *testing.T) { bothWays(t, testMemoryAfterReading) }

func testMemoryAfterReading(t *testing.T, serve serveFunc) {
	tr := &tracker.Tracker{}
	for i := range 1000 {
		join(t, tr, "k", 1+i)
	}
	s := &server.Server{Tracker: tr, MaxMemory: 16 << 20}
	v := visit(t, serve(t, s))
	v.look(t)
	before := s.Stats().Memory
	for range 5 {
		get(t, v, v.r, "/ntrk/k?port=0&numwant=1000")
	}
	eventually(t, "it takes as little as before", func() bool {
		get(t, v, v.r, "/ntrk/k?port=0&numwant=1")
		return s.Stats().Memory == before
	})
}

// If there is no memory for the goroutine that a connection needs, its client gets a 503, and nothing
// is left of it.
func TestNoMemoryForGoroutine(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxMemory: 32 << 10} // enough for connections of a worker
	addr := serve(t, s)
	for range 10 {
		v := visit(t, addr)
		v.look(t)
		if _, err := v.Write([]byte("POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx")); err != nil {
			t.Fatal(err)
		}
		if status, body := readReply(t, v.r); status != 503 || body != "too many connections\n" {
			t.Errorf("status %d, %q", status, body)
		}
		v.gone(t, "the connection")
	}
	if n, st := s.Conns(), s.Stats(); n != 0 || st.Memory != 0 {
		t.Errorf("%d connections are open, and take %d bytes", n, st.Memory)
	}
}

// A reply that does not fit in MaxMemory is refused, and no other client loses its connection for it.
func TestReplyBeyondMaxMemory(t *testing.T) { bothWays(t, testReplyBeyondMaxMemory) }

func testReplyBeyondMaxMemory(t *testing.T, serve serveFunc) {
	tr := &tracker.Tracker{Index: true}
	for i := range 6000 { // 1.5 MB of index
		join(t, tr, fmt.Sprint(strings.Repeat("k", 200), i), 1)
	}
	s := &server.Server{Tracker: tr, MaxMemory: 1 << 20}
	addr := serve(t, s)
	other := visit(t, addr)
	other.look(t)
	for range 3 {
		v := visit(t, addr)
		v.look(t)
		status, body := getReply(t, v, v.r, "/ntrk/", "")
		if status != 503 || body != "too little memory for this reply\n" {
			t.Errorf("status %d, %q", status, body)
		}
		v.gone(t, "the connection")
		other.look(t)
	}
	if n := s.Stats().Evicted; n != 0 {
		t.Errorf("%d connections are evicted", n)
	}
	other.Close()
	eventually(t, "no memory is counted", func() bool { return s.Stats().Memory == 0 })
}

// If there are too many connections, a client that does not read loses its own, although others have
// been silent or idle for longer.
func TestUnreadMakesRoom(t *testing.T) {
	for name, n := range map[string]int{"more than the system keeps": 20, "what the system keeps": 5} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, serve serveFunc) { testUnreadMakesRoom(t, serve, n) })
		})
	}
}

func testUnreadMakesRoom(t *testing.T, serve serveFunc, replies int) {
	tr := &tracker.Tracker{}
	for i := range 1000 {
		join(t, tr, "k", 1+i)
	}
	s := &server.Server{Tracker: tr, MaxConns: 8}
	addr := serve(t, s)
	var others []visitor
	for i := range 7 {
		v := visit(t, addr)
		if i >= 3 { // the first three stay silent, which are enough to be evicted at once
			v.look(t)
		}
		others = append(others, v)
	}
	eventually(t, "silent: 3", func() bool { return s.Silent() == 3 })
	const large = "GET /ntrk/k?port=0&numwant=1000 HTTP/1.1\r\nHost: t\r\n\r\n"
	for i := range 5 {
		unread, err := (&net.Dialer{Control: setSmallBuffers}).Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer unread.Close()
		if _, err := unread.Write([]byte(strings.Repeat(large, replies))); err != nil {
			t.Fatal(err)
		}
		queued := 0
		eventually(t, "unread: 1, with a full buffer", func() bool {
			before := queued
			queued = sendQueue(t, addr)
			return queued > 16<<10 && queued == before && s.Stats().Accepted == uint64(8+i) && s.Unread() == 1 && s.Conns() == 8
		})
	}
	v := visit(t, addr)
	v.look(t)
	if n := s.Unread(); n != 0 {
		t.Error("the unread connection is still open")
	}
	for _, v := range append(others, v) {
		v.look(t)
	}
}

// However many clients open streams and never read, those that read keep their streams, and get each
// event.
func TestMaxMemoryStreams(t *testing.T) { bothWays(t, testMaxMemoryStreams) }

func testMaxMemoryStreams(t *testing.T, serve serveFunc) {
	const most = 16 << 20
	tr := &tracker.Tracker{}
	for i := range 1500 { // 40 KB, which the system keeps for a client that does not read
		join(t, tr, "k", 1+i)
	}
	s := &server.Server{Tracker: tr, MaxMemory: most, MaxConns: 10_000}
	addr := serve(t, s)
	send := fastReaders(t, tr, addr, 20)
	for i := range 600 {
		c, err := (&net.Dialer{Control: setSmallBuffers}).Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte(streamRequest))
		if i%50 == 49 {
			send(5000 + i)
		}
		if n := s.Stats().Memory; n > most {
			t.Fatalf("the connections take %d bytes", n)
		}
	}
	send(6000)
	t.Logf("%d KB, %d connections", s.Stats().Memory>>10, s.Conns())
	if n := s.Stats().Evicted; n == 0 {
		t.Error("no connection was evicted")
	}
}
