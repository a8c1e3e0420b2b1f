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

// peer is a client of a TestLoop.
type peer struct {
	t *testing.T
	net.Conn
}

// meet has a loop meet a client of this machine.
func meet(t *testing.T, w server.TestWorker, buffer int) peer {
	return peer{t, w.AddConn(netip.MustParseAddrPort("127.0.0.1:1"), buffer)}
}

func (p peer) send(request string, n int) {
	p.t.Helper()
	if _, err := io.WriteString(p, strings.Repeat(request, n)); err != nil {
		p.t.Fatal(err)
	}
}

// read is what is there, at most that many bytes.
func (p peer) read(most int) string {
	p.t.Helper()
	raw, err := p.Conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	var all bytes.Buffer
	for b := make([]byte, min(most, 64<<10)); all.Len() < most; {
		var n int
		ctlErr := raw.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), b[:min(len(b), most-all.Len())]) })
		if err = errors.Join(ctlErr, err); errors.Is(err, syscall.EAGAIN) || err == nil && n == 0 {
			break
		} else if err != nil {
			p.t.Fatal(err)
		}
		all.Write(b[:n])
	}
	return all.String()
}

// replies counts those that are there.
func (p peer) replies() int { return strings.Count(p.read(1<<30), "HTTP/1.1 2") }

const plenty = 1 << 20

// What a client pipelines is answered in turns, and between two of these everybody else is.
func TestLoopTurns(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Logf: t.Errorf}
	w := s.TestWorker(t, listen(t))
	var many [20]peer
	for i := range many {
		many[i] = meet(t, w, plenty)
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
	if n := count(); n != 21*16 { // each has had a turn, and one a second
		t.Errorf("%d replies in the first round", n)
	}
	for range 50 {
		one := meet(t, w, plenty)
		one.send(hello, 1)
		w.ServeEvents()
		if n := one.replies(); n != 1 {
			t.Errorf("%d replies to a client with one request", n)
		}
		if n := count(); n != 16 {
			t.Errorf("%d replies meanwhile to those with many", n)
		}
	}
	for range 1000 {
		w.ServeEvents()
		count()
	}
	if total != 20*700 || s.Goroutines() != 0 {
		t.Errorf("%d replies in the end; %d connections have a goroutine", total, s.Goroutines())
	}
	many[0].send(hello, 1) // it goes on
	w.ServeEvents()
	if n := count(); n != 1 {
		t.Errorf("%d replies to one more request", n)
	}
}

// Replies that take long wait for a turn of their own, whatever they come after.
func TestLoopLargeReplies(t *testing.T) {
	tr := &tracker.Tracker{}
	for i := range 1000 {
		join(t, tr, "k", 1+i)
	}
	s := &server.Server{Tracker: tr, Logf: t.Errorf}
	w := s.TestWorker(t, listen(t))
	const large = "GET /ntrk/k?port=0&numwant=1000&format=text HTTP/1.1\r\nHost: t\r\n\r\n"
	var greedy [200]peer
	for i := range greedy {
		greedy[i] = meet(t, w, plenty)
		greedy[i].send(hello, i%3) // the replies to these come at once
		greedy[i].send(large, 2)
	}
	one := meet(t, w, plenty)
	one.send(hello, 1)
	for range 4 { // a round has 64 events
		w.ServeEvents()
	}
	if n := one.replies(); n != 1 {
		t.Errorf("%d replies to a client with a small request", n)
	}
	sum := func() (small, big int) {
		for _, p := range greedy {
			b := p.read(1 << 30)
			small += strings.Count(b, "Content-Length: 93\r\n")
			big += strings.Count(b, "Content-Length: 1")
		}
		return small, big
	}
	if small, big := sum(); small != 199 || big != 4 {
		t.Errorf("meanwhile %d small and %d large replies to the greedy", small, big)
	}
	for range 396 {
		w.ServeEvents()
	}
	if small, big := sum(); small != 0 || big != 396 {
		t.Errorf("%d small and %d large replies in as many rounds", small, big)
	}
}

// A turn is so many bytes, too.
func TestLoopTurnBytes(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Logf: t.Errorf}
	for i := range 200 {
		join(t, s.Tracker, "k", 1+i)
	}
	w := s.TestWorker(t, listen(t))
	p := meet(t, w, plenty)
	const request = "GET /ntrk/k?port=0&numwant=200 HTTP/1.1\r\nHost: t\r\n\r\n" // for 12 KB
	p.send(request, 200)
	for i := range 33 {
		w.ServeEvents()
		want := 6
		if i == 0 {
			want = 12 // a turn for the event, and one more
		}
		if n := p.replies(); n != want && i < 32 {
			t.Fatalf("%d replies in round %d", n, i)
		}
	}
}

// A client that does not take its replies is cut ten seconds after it last took something, and one
// that takes them slowly gets them all. Nothing more is answered meanwhile.
func TestLoopReplyNotTaken(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every int // seconds: it takes what is there this often
		times int
		cut   int // after that many seconds; 0 for not
	}{
		{"nothing", 1, 0, 10},
		{"something", 2, 4, 16}, // after 0, 2, 4 and 6 seconds
		{"everything", 9, 1000, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &server.Server{Tracker: &tracker.Tracker{}, Logf: t.Errorf}
				for i := range 200 {
					join(t, s.Tracker, "k", 1+i)
				}
				w := s.TestWorker(t, listen(t))
				p := meet(t, w, 4096)
				time.Sleep(5 * time.Second) // that does not count
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
				second-- // that in which it ended
				switch {
				case tt.cut == 0 && (s.Conns() != 1 || replies != n || second < 27):
					t.Errorf("%d replies taken in %d seconds, %d connections", replies, second, s.Conns())
				case tt.cut > 0 && second != tt.cut:
					t.Errorf("cut after %d seconds, %d replies were taken", second, replies)
				}
			})
		})
	}
}

// A shutdown gives a connection with more to answer one more turn, with a last reply, and one with
// replies to take the time for these.
func TestLoopEnd(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, Logf: t.Errorf}
	w := s.TestWorker(t, listen(t))
	busy, lazy := meet(t, w, plenty), meet(t, w, 4096)
	busy.send(hello, 100)
	lazy.send(hello, 100)
	for range 3 {
		w.ServeEvents()
	}
	if n := busy.replies(); n != 2*16 && n != 3*16 && n != 4*16 {
		t.Errorf("%d replies", n)
	}
	w.End()
	const last = "Connection: close\r\n"
	if b := busy.read(plenty); strings.Count(b, "HTTP/1.1 200") != 1 || strings.Count(b, last) != 1 {
		t.Errorf("the busy one got %d bytes, in the end %.80q", len(b), b[max(0, len(b)-80):])
	}
	_ = lazy.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(lazy); err != nil || strings.Count(string(b), "HTTP/1.1 200") < 17 || strings.Count(string(b), last) != 1 {
		t.Errorf("the lazy one got %d bytes, in the end %.80q, %v", len(b), b[max(0, len(b)-80):], err)
	}
	busy.Close()
	lazy.Close()
	eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
}

// A connection that a loop ends with a reply is closed at once where its client has asked for the
// end. In every other case the client may send more, and that takes a goroutine.
func TestLoopLastReply(t *testing.T) {
	const end = " HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
	for request, lingers := range map[string]bool{
		"GET /ntrk/k?port=0" + end:                                                false,
		"GET /ntrk/k?port=0 HTTP/1.0\r\n\r\n":                                     false,
		hello + "GET /ntrk/k?port=0" + end:                                        false,
		"GET /ntrk/k?port=0" + end + "GET":                                        true,
		strings.Repeat(hello, 1000) + hello[:20] + "x" + end:                      false,
		"GET /ntrk/" + strings.Repeat("k", 9000) + " HTTP/1.1\r\nHost: t\r\n\r\n": true,
	} {
		s := &server.Server{Tracker: &tracker.Tracker{}, Logf: t.Errorf}
		w := s.TestWorker(t, listen(t))
		p := meet(t, w, plenty)
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

// A loop counts the connections of each address, as the portable way does.
func TestLoopMaxConnsPerAddr(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 2, Logf: t.Logf}
	w := s.TestWorker(t, listen(t))
	from := func(addr string) net.Conn { return w.AddConn(netip.MustParseAddrPort(addr), plenty) }
	from("192.0.2.1:1")
	from("192.0.2.1:2")
	refused := from("192.0.2.1:3")
	_ = refused.SetReadDeadline(time.Now().Add(time.Minute))
	if b, err := io.ReadAll(refused); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
		t.Errorf("one too many: %q, %v", b, err)
	}
	from("192.0.2.2:1")
	refused.Close()
	eventually(t, "connections: 3", func() bool { return s.Conns() == 3 })
}
