package server_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store/memory"
)

// A polledClient is a client of a stream of a TestWorker, in virtual time.
type polledClient struct {
	testClient
	w    server.TestWorker
	text string // what it has read since the last call of expect
}

// openPolled opens a stream and reads its first events.
func openPolled(t *testing.T, w server.TestWorker, target string) *polledClient {
	t.Helper()
	c := &polledClient{testClient: connect(t, w, 4096), w: w}
	c.send("GET "+target+" HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", 1)
	for range 10 {
		w.ServeEvents()
		c.text += c.read(plenty)
	}
	if !strings.HasPrefix(c.text, "HTTP/1.1 200 OK\r\n") || !strings.Contains(c.text, "event: peers\n") || !strings.HasSuffix(c.text, "\n\n") {
		t.Fatalf("%s: the reply is %q", target, c.text)
	}
	c.text = ""
	return c
}

// pass lets time pass, and lets the worker work every 50 milliseconds. Meanwhile the client reads.
func (c *polledClient) pass(d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		c.w.Housekeeping()
		c.w.ServeEvents()
		c.text += c.read(plenty)
	}
}

// expect reads what has arrived, and compares it.
func (c *polledClient) expect(what, want string) {
	c.t.Helper()
	c.text += c.read(plenty)
	if c.text != want {
		c.t.Fatalf("%s: got %.200q, want %.200q", what, c.text, want)
	}
	c.text = ""
}

func joinEvent(port int) string { return fmt.Sprintf("event: join\ndata: 192.0.2.7:%d\n\n", port) }

func leaveEvent(port int) string { return fmt.Sprintf("event: leave\ndata: 127.0.0.1:%d\n\n", port) }

// testStreams runs a test of a worker in virtual time.
func testStreams(t *testing.T, test func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker)) {
	inBubble(t, func(t *testing.T) {
		tr := &tracker.Tracker{Interval: time.Hour} // so that nobody lapses
		s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
		test(t, tr, s, s.TestWorker(t, listen(t)))
	})
}

// A worker keeps a stream, and sends its events and heartbeats. The stream needs no goroutine. A
// heartbeat comes only if nothing was sent for 15 seconds, or up to half a second less.
func TestWorkerStream(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		c := openPolled(t, w, "/ntrk/k?port=4000")
		if n := s.Goroutines(); n != 0 {
			t.Errorf("%d connections have a goroutine", n)
		}
		c.pass(14500 * time.Millisecond)
		c.expect("before the first heartbeat", "")
		c.pass(500 * time.Millisecond)
		c.expect("the first heartbeat", ":\n\n")
		for i := range 10 { // an event every 10 seconds replaces the heartbeats
			c.pass(9900 * time.Millisecond)
			join(t, tr, "k", 5000+i)
			c.pass(100 * time.Millisecond)
			c.expect("an event", joinEvent(5000+i))
		}
		c.pass(14300 * time.Millisecond)
		c.expect("before another heartbeat", "")
		c.pass(700 * time.Millisecond)
		c.expect("another heartbeat", ":\n\n")
		c.pass(10 * time.Minute)
		if n := strings.Count(c.text, ":\n\n"); n != 40 && n != 41 {
			t.Errorf("%d heartbeats in ten minutes", n)
		}
		c.text = ""
		// All events of a batch, and of several batches that wait, come in one go.
		for i := range 100 {
			join(t, tr, "k", 6000+i)
		}
		var want strings.Builder
		for i := range 100 {
			want.WriteString(joinEvent(6000 + i))
		}
		c.pass(100 * time.Millisecond)
		c.expect("many events", want.String())
	})
}

// A client that does not read gets everything when it reads again. The worker keeps only a bounded
// rest for it, and other clients do not wait.
func TestWorkerStreamRest(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		slow, fast := openPolled(t, w, "/ntrk/k?port=0"), openPolled(t, w, "/ntrk/k?port=0")
		want := ""
		for round := range 8 {
			for i := range 1000 {
				join(t, tr, "k", 1+1000*round+i)
				want += joinEvent(1 + 1000*round + i)
			}
			fast.pass(time.Second)
		}
		fast.expect("the fast client", want)
		if n := w.LargestRest(); n == 0 || n > 128<<10 {
			t.Errorf("the worker keeps %d bytes for a client that does not read", n)
		}
		// It reads a little at a time. Events that happen meanwhile come last.
		for i := range 1000 {
			if i%100 == 50 {
				join(t, tr, "k", 20_000+i)
				want += joinEvent(20_000 + i)
			}
			slow.text += slow.read(1 << 10)
			fast.pass(50 * time.Millisecond)
		}
		slow.expect("the slow client", want)
		if n := w.LargestRest(); n != 0 {
			t.Errorf("the worker keeps %d bytes for a client that has read all", n)
		}
	})
}

// A client that receives nothing for ten seconds loses its stream. The events wait in the system's
// buffer, or in the worker if they are too many.
func TestWorkerStreamNotRead(t *testing.T) {
	for _, events := range []int{1, 8000} {
		for _, tt := range []struct {
			name  string
			every time.Duration // between two reads
			times int           // how often it reads
			cut   time.Duration // how long after the events, or a second more or two less; 0 for never
		}{
			{"nothing", time.Second, 0, 12 * time.Second},
			{"for 15 seconds", 5 * time.Second, 4, 27 * time.Second},
			{"slowly", 8 * time.Second, 1000, 0},
		} {
			if events == 1 && tt.times > 0 {
				continue // it has read all at once
			}
			t.Run(fmt.Sprint(events, " events, read: ", tt.name), func(t *testing.T) {
				testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
					c, watcher := openPolled(t, w, "/ntrk/k?port=4000"), openPolled(t, w, "/ntrk/k?port=0")
					for range 60 {
						watcher.pass(time.Second)
						c.read(plenty)
					}
					for i := range events {
						join(t, tr, "k", 1+i)
					}
					began, left := time.Now(), time.Duration(0)
					for i := 0; left == 0 && time.Since(began) < 10*time.Minute; i++ {
						if d := time.Since(began); d >= time.Duration(i)*tt.every && i < tt.times {
							c.read(40 << 10)
						} else {
							i--
						}
						watcher.pass(250 * time.Millisecond)
						if strings.Contains(watcher.text, leaveEvent(4000)) {
							left = time.Since(began)
						}
					}
					if (left > 0) != (tt.cut > 0) || tt.cut > 0 && (left < tt.cut-2*time.Second || left > tt.cut+time.Second) {
						t.Errorf("cut after %v, want about %v", left, tt.cut)
					}
				})
			})
		}
	}
}

// A stream may wake the worker, and end before the worker serves it. Its connection's memory is not
// used again meanwhile.
func TestWorkerStreamClosedWhileWoken(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		watcher := openPolled(t, w, "/ntrk/k?port=0")
		var clients []*polledClient
		for i := range 20 {
			clients = append(clients, openPolled(t, w, fmt.Sprint("/ntrk/k?port=", 4000+i)))
		}
		watcher.pass(100 * time.Millisecond)
		watcher.text = ""
		for i, c := range clients {
			c.read(plenty)
			join(t, tr, "k", 5000+i)
			time.Sleep(50 * time.Millisecond)
			synctest.Wait() // the streams have woken the worker
			c.Close()
			next := openPolled(t, w, "/ntrk/other?port=0")
			watcher.pass(200 * time.Millisecond)
			watcher.expect("a join and a leave", joinEvent(5000+i)+leaveEvent(4000+i))
			next.expect("another key", "")
		}
		if n := s.Conns(); n != 21 {
			t.Errorf("%d connections", n)
		}
	})
}

// A worker serves other connections after some streams. So a client with a request does not wait
// for thousands of streams.
func TestWorkerStreamsInSlices(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		const n = 500
		var all []*polledClient
		for range n {
			all = append(all, openPolled(t, w, "/ntrk/k?port=0"))
		}
		served := func() (k int) {
			for _, c := range all {
				if c.text += c.read(plenty); c.text != "" {
					k++
				}
			}
			return k
		}
		check := func(what, want string) {
			t.Helper()
			for before, rounds := 0, 0; before < n; rounds++ {
				one := connect(t, w, plenty)
				one.send(hello, 1)
				w.ServeEvents()
				if k := one.replies(); k != 1 {
					t.Fatalf("%s: %d replies to a client with one request", what, k)
				}
				one.Close()
				after := served()
				if after-before > 64 || rounds > 3*n/64 {
					t.Fatalf("%s: the worker serves %d streams in step %d", what, after-before, rounds)
				}
				before = after
			}
			for _, c := range all {
				c.expect(what, want)
			}
		}
		join(t, tr, "k", 5000)
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		check("an event", joinEvent(5000))
		time.Sleep(15 * time.Second)
		check("heartbeats", ":\n\n")
		// After a long stop of the process, the worker catches up.
		time.Sleep(time.Hour)
		check("heartbeats after a stop", ":\n\n")
	})
}

// While the streams of a shutdown read, the worker goes on. Each gets a retry and an end. Then the
// connection is closed.
func TestWorkerStreamsShutdown(t *testing.T) {
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	addr := serve(t, s)
	r := openStream(t, dial(t, addr), "/ntrk/k?port=4000")
	if err := shutdown(s); err != nil {
		t.Error(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(rest), "retry: ") || !strings.HasSuffix(string(rest), "\n\n") {
		t.Errorf("the end of the stream is %q, %v", rest, err)
	}
	if l := list(t, tr, "k"); l != "" || s.Conns() != 0 {
		t.Errorf("listed: %q, and %d connections", l, s.Conns())
	}
}

// Shutdown closes the stream of a client that does not read when its time is over.
func TestStreamsShutdownInTime(t *testing.T) { bothWays(t, testStreamsShutdownInTime) }

func testStreamsShutdownInTime(t *testing.T, serve serveFunc) {
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr}
	addr := serve(t, s)
	for i := range 10_000 {
		join(t, tr, "k", 1+i)
	}
	c := dialSmallBuffer(t, addr)
	if _, err := io.WriteString(c, "GET /ntrk/k?port=0 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Errorf("Shutdown: %v", err)
	}
	eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
}

// A panic of the store ends only the stream for which it happens.
func TestWorkerStreamPanics(t *testing.T) {
	var logged atomic.Int32
	store := &brokenStore{Store: memory.New()}
	tr := &tracker.Tracker{Store: store}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(string) { logged.Add(1) })}
	addr := serve(t, s)
	other := openStream(t, dial(t, addr), "/ntrk/other?port=0")
	r := openStream(t, dial(t, addr), "/ntrk/k?port=4000")
	store.broken.Store(true)
	join(t, tr, "k", 5000)
	if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	eventually(t, "its peer has left", func() bool { return list(t, tr, "k") == "192.0.2.7:5000\n" })
	join(t, tr, "other", 5000)
	expectEvent(t, other, "join 192.0.2.7:5000;")
	if n := logged.Load(); n != 1 {
		t.Errorf("%d panics were logged", n)
	}
}

// A client that closes its connection for sending with the request gets the beginning of the
// stream, and then the end.
func TestStreamHalfClosed(t *testing.T) { bothWays(t, testStreamHalfClosed) }

func testStreamHalfClosed(t *testing.T, serve serveFunc) {
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr})
	for _, before := range []string{"", hello} { // hello makes a worker have the connection before
		c := dial(t, addr)
		request := "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n"
		if _, err := io.WriteString(c, before+request); err != nil {
			t.Fatal(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil || !strings.HasSuffix(string(b), "\n\nevent: peers\ndata: \n\n") {
			t.Errorf("%q, %v", b, err)
		}
		eventually(t, "its peer has left", func() bool { return list(t, tr, "k") == "" })
	}
}

// A worker ignores what a client sends after its request, up to 64 KiB.
func TestWorkerStreamIgnoresInput(t *testing.T) {
	testStreams(t, func(t *testing.T, tr *tracker.Tracker, s *server.Server, w server.TestWorker) {
		c := connect(t, w, plenty)
		request := "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n"
		c.send(request, 2) // both at once
		w.ServeEvents()
		w.ServeEvents()
		if b := c.read(plenty); strings.Count(b, "HTTP/1.1 200") != 1 {
			t.Fatalf("got %q", b)
		}
		sent := 0
		for ; s.Conns() > 0 && sent < 1<<20; sent += 1000 {
			c.send(strings.Repeat("x", 1000), 1)
			w.ServeEvents()
			if l := list(t, tr, "k"); sent < 63_000 && l != "127.0.0.1:4000\n" {
				t.Fatalf("after %d bytes, %q is listed", sent, l)
			}
		}
		if sent < 64_000 || sent > 70_000 {
			t.Errorf("the stream ends after %d bytes", sent)
		}
	})
}

// Streams that are served by a worker keep their order of events among each other: two peers that
// watch each other's joins see all of them once. Many goroutines wake the streams.
func TestWorkerStreamsConcurrent(t *testing.T) {
	const peers, rounds = 30, 20
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	addr := serve(t, s)
	done := make(chan error, peers)
	for range peers {
		r := openStream(t, dial(t, addr), "/ntrk/k?port=0")
		go func() {
			var got []string
			for range peers * rounds {
				name, data, err := event(r)
				if err != nil || name != "join" {
					done <- fmt.Errorf("%s %s, %v", name, data, err)
					return
				}
				got = append(got, data)
			}
			slices.Sort(got)
			if got = slices.Compact(got); len(got) != peers*rounds {
				done <- fmt.Errorf("%d different joins", len(got))
				return
			}
			done <- nil
		}()
	}
	for i := range peers {
		go func() {
			for j := range rounds {
				call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/k?numwant=0&port=%d", 1+rounds*i+j), Remote: netip.MustParseAddrPort("192.0.2.7:1")}
				tr.Answer(context.Background(), &call, nil)
			}
		}()
	}
	for range peers {
		if err := await(t, "all joins", done); err != nil {
			t.Error(err)
		}
	}
}
