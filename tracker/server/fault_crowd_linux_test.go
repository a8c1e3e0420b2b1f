package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
)

// noLeaks makes a test fail if it leaves goroutines or open files behind. It must be called first.
func noLeaks(t *testing.T) {
	t.Helper()
	listen(t).Close() // the first socket of a process opens files for Go's poller
	files, current := openFiles(t), goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, current, goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep"), goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep-fm"))
		defer func() {
			if now := openFiles(t); len(now) > len(files) {
				t.Errorf("open files: %q, before: %q", now, files)
			}
		}()
		eventually(t, "no more open files than before", func() bool { return len(openFiles(t)) <= len(files) })
	})
}

// A process of 5000 members is killed. Every watcher gets the leaves of all of them within a few
// seconds, and no leave of another peer.
func TestFaultKilled(t *testing.T) {
	const (
		members = 5000
		oneKey  = 1000 // members with the same key
		keys    = 400  // of the others
		watched = 40   // of these keys
		soon    = 5 * time.Second
	)
	noLeaks(t)
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })})
	var watchers []*watcher
	left := make(map[*watcher]map[string]bool) // the peers that will leave
	p := &crowd{Addr: addr, Streams: members, Members: members, OneKey: oneKey, Keys: keys}
	for i := range watched {
		key := fmt.Sprint("key", i)
		if i < 10 {
			key = "one"
		}
		// A watcher that looks, and one that is a member and stays.
		for _, port := range []int{0, 5000 + i} {
			w := watch(t, dial(t, addr), fmt.Sprintf("/ntrk/%s?port=%d", key, port))
			watchers, left[w] = append(watchers, w), p.of(key)
		}
	}
	p.start(t)
	for _, w := range watchers { // a peer that joins and leaves within 50 ms is not reported
		_ = w.SetDeadline(time.Now().Add(2 * patience))
		for joined := 0; joined < len(left[w]); {
			name, peer, err := w.next()
			if err != nil || name != "join" {
				t.Fatalf("%s %s, %v", name, peer, err)
			}
			if left[w][peer] {
				joined++
			}
		}
	}

	began := time.Now()
	p.kill(t)
	done := make(chan error)
	for _, w := range watchers {
		go func() {
			for gone := left[w]; len(gone) > 0; {
				name, peer, err := w.next()
				if err == nil && (name != "leave" || !gone[peer]) {
					err = fmt.Errorf("%s %s, which was not killed", name, peer)
				}
				if err != nil {
					done <- err
					return
				}
				delete(gone, peer)
			}
			done <- nil
		}()
	}
	for range watchers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	took := time.Since(began)
	t.Logf("%d members of a killed process have left after %v", members, took)
	if took > soon {
		t.Errorf("the last leave came after %v", took)
	}
	for i := range watched {
		join(t, tr, fmt.Sprint("key", i), 9)
	}
	join(t, tr, "one", 9)
	for _, w := range watchers {
		if more, err := w.untilJoin("192.0.2.7:9;"); err != nil || len(more) > 0 {
			t.Errorf("then %q left, %v", more, err)
		}
	}
}

// A tracker with thousands of streams restarts. The clients return over the time for which it asked
// them. A watch of the client library reports nobody as having left, until somebody does.
func TestFaultRestart(t *testing.T) {
	const (
		members = 1000
		keys    = 10
		most    = 2 * time.Second // to wait, because each track has fewer than 1000 peers
	)
	streams := 9000 // with those of the members
	if underRace {
		streams = 4000
	}
	noLeaks(t)
	// The port of a listener that is closed may be given to a client. So the address of the tracker
	// is one from which nobody connects.
	serveAt := func(at string) (*server.Server, string, chan error) {
		s, ended := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}, make(chan error, 1)
		l := listenAt(t, at)
		go func() { ended <- s.Serve(l) }()
		return s, l.Addr().String(), ended
	}
	s, addr, ended := serveAt("127.0.200.1:0")
	p := &crowd{Addr: addr, Streams: streams, Members: members, Keys: keys, Returns: true}
	p.start(t)

	tr, err := announce.ParseTracker(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, watched := make(chan announce.Event, 1000), make(chan struct{})
	var client announce.Client
	go func() {
		defer close(watched)
		defer client.Close()
		for ev, err := range client.Watch(ctx, []announce.Tracker{tr}, announce.Request{Key: wire.KeyOf([]byte("key3"))}) {
			if err == nil {
				events <- ev
			}
		}
	}()
	want := len(p.of("key3"))
	if ev := await(t, "the watch", events); len(ev.Peers) != want {
		t.Fatalf("the watch has %d peers, want %d", len(ev.Peers), want)
	}

	began := time.Now()
	if err := shutdown(s); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "Serve", ended); err != server.ErrClosed {
		t.Error(err)
	}
	t.Logf("shutdown took %v", time.Since(began))
	s, _, ended = serveAt(addr)
	var asked, came []time.Duration
	for range streams {
		var retry, after int
		if _, err := fmt.Sscan(p.expect(t, "back"), &retry, &after); err != nil {
			t.Fatal(err)
		}
		asked, came = append(asked, time.Duration(retry)*time.Millisecond), append(came, time.Duration(after)*time.Millisecond)
	}
	slices.Sort(asked)
	slices.Sort(came)
	t.Logf("asked to wait %v to %v, median %v; returned after %v to %v, median %v", asked[0], asked[streams-1], asked[streams/2],
		came[0], came[streams-1], came[streams/2])
	// Each tenth of the time gets a tenth of the clients. The deviation of 400 is 19.
	for i := range 10 {
		from, _ := slices.BinarySearch(asked, most/10*time.Duration(i))
		to, _ := slices.BinarySearch(asked, most/10*time.Duration(i+1))
		if n := to - from; n < streams/10*3/4 || n > streams/10*5/4 {
			t.Errorf("%d of %d clients should return in tenth %d", n, streams, i)
		}
	}
	if d := came[streams*9/10] - came[streams/10]; d < most/4 { // a busy machine delays the first ones
		t.Errorf("eight tenths of the clients returned within %v", d)
	}

	// One member leaves. It is the only one.
	gone := netip.AddrPortFrom(p.addr(3), 4000)
	c, err := dialFrom(gone.Addr(), addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "DELETE /ntrk/key3?port=4000 HTTP/1.0\r\n\r\n")
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	for {
		ev := await(t, "the leave", events)
		if ev.Type == announce.EventLeave && ev.Peer == gone {
			break
		}
		if t.Failed() || ev.Type == announce.EventLeave || len(ev.Peers) != want && len(ev.Peers) != want-1 {
			t.Fatalf("%s %s, %d peers", ev.Type, ev.Peer, len(ev.Peers))
		}
	}
	cancel()
	await(t, "the end of the watch", watched)
	p.kill(t)
	if err := shutdown(s); err != nil || await(t, "Serve", ended) != server.ErrClosed {
		t.Error(err)
	}
}

// Many members join one key at once. Each sees all others in the end. Meanwhile announces of
// another key are answered.
func TestFaultBurst(t *testing.T) {
	const members = 500
	noLeaks(t)
	addr := serve(t, &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })})
	other := visit(t, addr)
	stop, slowest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for n := 0; ; n++ {
			select {
			case <-stop:
				t.Logf("%d announces of another key, each within %v", n, most)
				slowest <- most
				return
			default:
			}
			at := time.Now()
			get(t, other, other.r, "/ntrk/other?port=1")
			most = max(most, time.Since(at))
		}
	}()
	began := time.Now()
	(&crowd{Addr: addr, Streams: members, Members: members, OneKey: members, Keys: 1, Sees: members - 1}).start(t)
	t.Logf("%d members see each other after %v", members, time.Since(began))
	close(stop)
	if d := <-slowest; d > 2*time.Second {
		t.Errorf("an announce of another key took %v", d)
	}
}

// When many clients end their connections at the same time, a request that arrives after that is
// served before the worker has closed half of them. All are closed in the end.
func TestFaultManyHangUps(t *testing.T) {
	const clients = 400
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	w := s.TestWorker(t, listen(t))
	from := netip.MustParseAddrPort("192.0.2.1:1")
	var crowd []net.Conn
	for range clients {
		crowd = append(crowd, w.AddConn(from, 4096))
	}
	c := w.AddConn(from, 4096)
	_ = c.SetDeadline(time.Now().Add(patience))
	for _, c := range crowd {
		c.Close()
	}
	if _, err := io.WriteString(c, hello); err != nil {
		t.Fatal(err)
	}
	reply := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		reply <- err
	}()
	for {
		w.ServeEvents()
		if s.Stats().Idle == 1 { // the one that has had a reply
			break
		}
	}
	if err := await(t, "the reply", reply); err != nil {
		t.Fatal(err)
	}
	if n := s.Conns(); n < clients/2 {
		t.Errorf("the request is served after %d of %d connections are closed", clients+1-n, clients)
	}
	for w.Due() {
		w.ServeEvents()
	}
	if n := s.Conns(); n != 1 {
		t.Errorf("in the end %d connections are left, want 1", n)
	}
}
