package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// leaveAs makes a peer leave that joined with join.
func leaveAs(t *testing.T, tr *tracker.Tracker, key string, port int) {
	t.Helper()
	call := tracker.Call{Method: "DELETE", Target: fmt.Appendf(nil, "/ntrk/%s?port=%d", key, port), Remote: netip.MustParseAddrPort("192.0.2.7:1")}
	if resp, body := tr.Answer(t.Context(), &call, nil); resp.Status != 204 {
		t.Fatalf("%d %s", resp.Status, body)
	}
}

// fastReaders open streams that are read all the time. send makes a change, and returns how long the
// slowest of them waited for it.
func fastReaders(t *testing.T, tr *tracker.Tracker, addr string, n int) (send func(port int) time.Duration) {
	t.Helper()
	type seen struct {
		port int
		at   time.Time
	}
	got := make([]chan seen, n)
	for i := range got {
		w := watch(t, dial(t, addr), "/ntrk/k?port=0")
		got[i] = make(chan seen, 20_000)
		_ = w.SetDeadline(time.Time{})
		go func() {
			defer close(got[i])
			for {
				name, data, err := event(w.r)
				if err != nil {
					return
				}
				if port, ok := strings.CutPrefix(data, "192.0.2.7:"); ok && name == "join" {
					p, _ := strconv.Atoi(strings.TrimSuffix(port, ";"))
					got[i] <- seen{p, time.Now()}
				}
			}
		}()
	}
	return func(port int) time.Duration {
		t.Helper()
		began, slowest := time.Now(), time.Duration(0)
		join(t, tr, "k", port)
		for _, c := range got {
			for s := await(t, "the event", c); s.port != port; s = await(t, "the event", c) {
				if s.port == 0 {
					t.Fatal("a fast reader lost its stream")
				}
			}
			slowest = max(slowest, time.Since(began))
		}
		return slowest
	}
}

// setSmallBuffers makes the system buffer only some KB of a connection, and send small packets, so
// that it notices when the client reads a little.
func setSmallBuffers(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 32<<10)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1000)
	})
}

// dialSlow opens a stream for a client that does not read yet.
func dialSlow(t *testing.T, addr, target string) *watcher {
	t.Helper()
	c, err := (&net.Dialer{Control: setSmallBuffers}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return watch(t, c, target)
}

// smallBuffers runs a test both ways, with small buffers for what the server sends.
func smallBuffers(t *testing.T, test func(*testing.T, serveFunc)) {
	small := func(t *testing.T) net.Listener {
		l, err := (&net.ListenConfig{Control: setSmallBuffers}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	t.Run("worker", func(t *testing.T) {
		test(t, func(t *testing.T, s *server.Server) string { return serveOn(t, s, small(t)) })
	})
	t.Run("goroutine", func(t *testing.T) {
		test(t, func(t *testing.T, s *server.Server) string { return serveOn(t, s, notTCP{small(t)}) })
	})
}

// A client that reads nothing for the Timeout loses its stream. Until then the others get each event
// after little more than the 50 ms in which a store collects changes.
func TestFaultSlowIsCut(t *testing.T) { bothWays(t, testFaultSlowIsCut) }

func testFaultSlowIsCut(t *testing.T, serve serveFunc) {
	const (
		timeout = 2 * time.Second
		slow    = 5
		fast    = 20
		burst   = 1000 // events, which are more than a slow client's system buffers
	)
	noLeaks(t)
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Timeout: timeout, Log: server.LogTo(func(line string) { t.Error(line) })}
	addr := serve(t, s)
	send := fastReaders(t, tr, addr, fast)
	for i := range slow {
		dialSlow(t, addr, fmt.Sprintf("/ntrk/k?port=%d", 4000+i))
	}
	began := time.Now()
	for i := range burst {
		join(t, tr, "k", 10_000+i)
	}
	stuck := time.Now()
	cut := stuck
	var took []time.Duration
	for n := 0; s.Conns() > fast || n < 10; n++ {
		took = append(took, send(5000+n))
		if s.Conns() > fast {
			cut = time.Now()
		}
		if time.Since(stuck) > timeout*10 {
			t.Fatal("the slow clients are still there")
		}
	}
	d, shortest := cut.Sub(stuck), time.Since(began)
	slices.Sort(took)
	t.Logf("cut after %v; events took %v, at most %v", d, took[len(took)/2], took[len(took)-1])
	if shortest < timeout || d > 3*timeout {
		t.Errorf("the slow clients were cut after %v to %v", d, shortest)
	}
	if took[len(took)/2] > 500*time.Millisecond {
		t.Errorf("half of the events took more than %v", took[len(took)/2])
	}
}

// A client that reads too slowly for the events, but reads, keeps its stream. It gets all events in
// order when it reads faster.
func TestFaultSlowCatchesUp(t *testing.T) { smallBuffers(t, testFaultSlowCatchesUp) }

func testFaultSlowCatchesUp(t *testing.T, serve serveFunc) {
	const (
		timeout = 2 * time.Second
		steps   = 60  // of 50 ms, which are longer than the Timeout
		changes = 300 // in a step
		reads   = 60  // events in a step
	)
	noLeaks(t)
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, Timeout: timeout, Log: server.LogTo(func(line string) { t.Error(line) })})
	send := fastReaders(t, tr, addr, 1)
	w := dialSlow(t, addr, "/ntrk/k?port=4000")
	w.r = bufio.NewReaderSize(w.Conn, 16)
	began, events := time.Now(), 0
	next := func() {
		if name, data, err := w.next(); err != nil {
			t.Fatalf("after %d events and %v: %s %s, %v", events, time.Since(began), name, data, err)
		}
		events++
	}
	for step := range steps {
		for i := range changes {
			// It reads all the time, but from the second step on less than there is.
			if step > 0 && i%(changes/reads) == 0 {
				next()
			}
			if port := 10_000 + step/2*changes + i; step%2 == 0 {
				join(t, tr, "k", port)
			} else {
				leaveAs(t, tr, "k", port)
			}
		}
		send(5000 + step)
	}
	if d := time.Since(began); d < timeout*5/4 {
		t.Errorf("only %v have passed", d)
	}
	send(6000)
	for !w.peers["192.0.2.7:6000;"] {
		next()
	}
	if events != steps*changes+steps+1 || len(w.peers) != steps+1 {
		t.Errorf("%d events and %d peers, want %d and %d", events, len(w.peers), steps*changes+steps+1, steps+1)
	}
}

// A client that does not read costs a bounded amount of memory, in the process and in the system,
// however many events there are.
func TestFaultSlowMemory(t *testing.T) { bothWays(t, testFaultSlowMemory) }

func testFaultSlowMemory(t *testing.T, serve serveFunc) {
	const (
		slow       = 5
		peers      = 2000
		rounds     = 14      // in each of which these peers join or leave
		mostUnsent = 8 << 20 // bytes in the system, for each client
		mostHeap   = 2 << 20 // bytes in this process, for each client: 20,000 rendered changes
	)
	noLeaks(t)
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Timeout: time.Hour, Log: server.LogTo(func(line string) { t.Error(line) })}
	s.SetStreamTCPTimeout(time.Hour)
	addr := serve(t, s)
	send := fastReaders(t, tr, addr, 1)
	var clients []*watcher
	for range slow {
		clients = append(clients, dialSlow(t, addr, "/ntrk/k?port=0"))
	}
	var grown, unsent int
	before := heap()
	for n := range rounds {
		for i := range peers {
			if n%2 == 0 {
				join(t, tr, "k", 10_000+i)
			} else {
				leaveAs(t, tr, "k", 10_000+i)
			}
		}
		send(5000 + n)
		if n%4 == 3 {
			unsent, grown = max(unsent, sendQueue(t, addr)), max(grown, heap()-before)
		}
	}
	t.Logf("%d changes; at most %d KB unsent in the system; %d KB of heap for each client", rounds*peers, unsent>>10, grown/slow>>10)
	if unsent > mostUnsent || grown/slow > mostHeap {
		t.Errorf("%d bytes unsent, %d bytes of heap", unsent, grown/slow)
	}
	for _, w := range clients { // the stream has ended, because too many changes waited
		events := 0
		for err := error(nil); err == nil; events++ {
			_, _, err = event(w.r)
		}
		if events > rounds*peers/2 {
			t.Errorf("a slow client still got %d events", events)
		}
	}
	eventually(t, "connections: 1", func() bool { return s.Conns() == 1 })
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// sendQueue returns the longest send queue of a connection of the server, in bytes.
func sendQueue(t *testing.T, addr string) (most int) {
	t.Helper()
	port := netip.MustParseAddrPort(addr).Port()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line) // number, local, remote, state, tx_queue:rx_queue
		if len(f) < 5 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) || f[3] != "01" {
			continue
		}
		tx, _, _ := strings.Cut(f[4], ":")
		n, err := strconv.ParseInt(tx, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, int(n))
	}
	return most
}

// A shutdown ends by itself although some clients do not read, and at the latest when its context
// ends.
func TestFaultSlowShutdown(t *testing.T) { smallBuffers(t, testFaultSlowShutdown) }

func testFaultSlowShutdown(t *testing.T, serve serveFunc) {
	const (
		slow  = 10
		peers = 3000 // so that more events wait than the system buffers
	)
	for _, tt := range []struct {
		timeout, patience, most time.Duration
		err                     error
	}{
		{3 * time.Second, patience, 7 * time.Second, nil},
		{time.Hour, 300 * time.Millisecond, 2 * time.Second, context.DeadlineExceeded},
	} {
		noLeaks(t)
		tr := &tracker.Tracker{}
		s := &server.Server{Tracker: tr, Timeout: tt.timeout, Log: server.LogTo(func(line string) { t.Error(line) })}
		addr := serve(t, s)
		send := fastReaders(t, tr, addr, 1)
		var conns []net.Conn
		for i := range slow {
			conns = append(conns, dialSlow(t, addr, fmt.Sprintf("/ntrk/k?port=%d", 4000+i)).Conn)
		}
		silent := dial(t, addr)
		for i := range peers {
			join(t, tr, "k", 10_000+i)
		}
		send(5000)
		ctx, cancel := context.WithTimeout(context.Background(), tt.patience)
		began := time.Now()
		err := s.Shutdown(ctx)
		cancel()
		d := time.Since(began)
		t.Logf("Timeout %v: %v after %v", tt.timeout, err, d)
		if d > tt.most || err != nil && err != tt.err {
			t.Errorf("Timeout %v: %v after %v", tt.timeout, err, d)
		}
		eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
		for i := range peers {
			leaveAs(t, tr, "k", 10_000+i)
		}
		if l := list(t, tr, "k"); l != "192.0.2.7:5000\n" {
			t.Errorf("listed: %q", l)
		}
		for _, c := range append(conns, silent) {
			c.Close()
		}
	}
}
