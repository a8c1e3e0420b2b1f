package announce_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// watched is a running watch with its reports since the last call of next.
type watched struct {
	mu       sync.Mutex
	reported []string
	you      []netip.AddrPort
	list     []netip.AddrPort
	stop     context.CancelFunc
	done     chan struct{}
}

func watch(t *testing.T, c *announce.Client, trackers []announce.Tracker, r announce.Request, every time.Duration) *watched {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{stop: cancel, done: make(chan struct{})}
	c.Poll = every
	go func() {
		defer close(w.done)
		for ev, err := range c.Watch(ctx, trackers, r) {
			w.mu.Lock()
			switch {
			case err != nil:
				w.reported = append(w.reported, "error")
			case ev.Type == announce.EventPeers:
				w.reported, w.list, w.you = append(w.reported, fmt.Sprint("peers ", ev.Peers)), ev.Peers, ev.You
			default:
				w.reported, w.list, w.you = append(w.reported, fmt.Sprintf("%s %v", ev.Type, ev.Peer)), ev.Peers, ev.You
			}
			w.mu.Unlock()
		}
	}()
	t.Cleanup(w.end)
	return w
}

func (w *watched) end() {
	w.stop()
	<-w.done
}

// next returns the reports since the last call. Several errors in a row count as one.
func (w *watched) next() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(slices.CompactFunc(w.reported, func(a, b string) bool { return a == "error" && b == "error" }), ", ")
	w.reported = nil
	return s
}

func (w *watched) expect(t *testing.T, want string) {
	t.Helper()
	if got := w.next(); got != want {
		t.Errorf("reported %q, want %q", got, want)
	}
}

// join joins, waits until the member is listed, and returns a function that leaves.
func join(t *testing.T, c *announce.Client, trackers []announce.Tracker, k announce.Key, port uint16) (leave func() error) {
	leave = start(t, c, trackers, k, port)
	synctest.Wait()
	return leave
}

// start is join without the wait.
func start(t *testing.T, c *announce.Client, trackers []announce.Tracker, k announce.Key, port uint16) (leave func() error) {
	m, err := c.Join(t.Context(), trackers, announce.Request{Key: k, Port: port}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() error { return m.Leave(context.WithoutCancel(t.Context())) }
}

// stay is a member until ctx or the membership ends. It returns the error of the membership or of its
// leave.
func stay(ctx context.Context, c *announce.Client, trackers []announce.Tracker, r announce.Request, news func(announce.Event, error)) error {
	m, err := c.Join(ctx, trackers, r, news)
	if err != nil {
		return err
	}
	<-m.Done()
	return cmp.Or(m.Err(), m.Leave(ctx))
}

const burst = 100 * time.Millisecond // longer than a tracker delays an event

// A stream reports joins and leaves immediately, and needs no renewals. The end of the stream is
// the leave. When Leave returns, the tracker no longer lists the member.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		var mu sync.Mutex
		var asked []string
		h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Accept"))
			mu.Unlock()
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, time.Second)
		w.expect(t, "peers []")
		leaveA := join(t, p.client("192.0.2.1"), one, k, 4000)
		time.Sleep(burst)
		w.expect(t, "join 192.0.2.1:4000")
		leaveB := join(t, p.client("192.0.2.2"), one, k, 0)
		time.Sleep(burst)
		b := w.next()
		if !strings.HasPrefix(b, "join 192.0.2.2:1") {
			t.Errorf("reported %q of a member with the port of origin", b)
		}
		time.Sleep(time.Hour)
		w.expect(t, "")
		if n := p.dials(); n != 3 {
			t.Errorf("%d connections in an hour, want 3: no client should renew or look again", n)
		}
		// After its connection has broken, the member connects from another port. Its endpoint is
		// still the same.
		p.cut("192.0.2.2")
		time.Sleep(time.Minute)
		if got := w.next(); got != strings.Replace(b, "join", "leave", 1)+", "+b || p.dials() != 4 {
			t.Errorf("reported %q of a member whose connection broke", got)
		}
		if err := leaveA(); err != nil {
			t.Error(err)
		}
		if got := "join " + listed(t, p, k); got != b {
			t.Errorf("after the leave the tracker lists %q, want %q", got, b)
		}
		time.Sleep(burst)
		w.expect(t, "leave 192.0.2.1:4000")
		if err := leaveB(); err != nil {
			t.Error(err)
		}
		w.end()
		mu.Lock()
		defer mu.Unlock()
		const accept = " text/event-stream, application/json;q=0.5"
		want := []string{"GET /ntrk/k?port=0&numwant=1000&age=1" + accept, "GET /ntrk/k?port=4000&numwant=1000&age=1" + accept,
			"GET /ntrk/k?numwant=1000&age=1" + accept, "GET /ntrk/k?port=" + b[strings.LastIndex(b, ":")+1:] + "&numwant=1000&age=1" + accept, "GET /ntrk/k?port=0&numwant=1000 application/json"}
		if !slices.Equal(asked, want) {
			t.Errorf("requests\n%s\nwant\n%s", strings.Join(asked, "\n"), strings.Join(want, "\n"))
		}
	})
}

// Two members may have the same endpoint. If one leaves, the other is still listed.
func TestStreamSharedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		first := join(t, p.client("192.0.2.1"), one, k, 4000)
		second := join(t, p.client("192.0.2.1"), one, k, 4000)
		if err := first(); err != nil {
			t.Error(err)
		}
		for range 2 { // immediately, and not only after the other has joined again
			if got := listed(t, p, k); got != "192.0.2.1:4000" {
				t.Errorf("after one of two has left, the tracker lists %q", got)
			}
			time.Sleep(time.Minute)
		}
		if err := second(); err != nil {
			t.Error(err)
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after both have left, the tracker lists %q", got)
		}
	})
}

// The member of a slow loop is still listed. When the loop goes on, it gets the sum of the changes.
func TestSlowLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		passes := 0
		for ev, err := range p.client("192.0.2.9").Watch(t.Context(), one, announce.Request{Key: k, Port: 4000}) {
			if passes++; passes == 1 {
				time.Sleep(time.Minute)
				leave := join(t, p.client("192.0.2.1"), one, k, 4000)
				join(t, p.client("192.0.2.2"), one, k, 4000)
				for range 200 { // more than fits into any buffer
					time.Sleep(time.Minute)
					if err := join(t, p.client("192.0.2.3"), one, k, 4000)(); err != nil {
						t.Error(err)
					}
				}
				_ = leave()
				time.Sleep(time.Minute)
				if got := listed(t, p, k); got != "192.0.2.2:4000 192.0.2.9:4000" {
					t.Errorf("after hours in one pass of the loop the tracker lists %q", got)
				}
				continue
			}
			if got := fmt.Sprint(ev.Type, ev.Peer, ev.Peers, err); got != "join192.0.2.2:4000 [192.0.2.2:4000] <nil>" {
				t.Errorf("reported %s", got)
			}
			break
		}
		if got := listed(t, p, k); got != "192.0.2.2:4000" {
			t.Errorf("after the loop the tracker lists %q", got)
		}
		if p.dials() > 210 {
			t.Errorf("%d connections", p.dials())
		}
	})
}

// After a connection has broken, the watch makes a new one, and reports the changes that it missed.
func TestStreamBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, 0)
		leave := join(t, p.client("192.0.2.1"), one, k, 4000)
		join(t, p.client("192.0.2.2"), one, k, 4000)
		time.Sleep(time.Minute)
		w.next()
		p.lose("192.0.2.9", true)
		p.cut("192.0.2.9")
		if err := leave(); err != nil {
			t.Error(err)
		}
		join(t, p.client("192.0.2.3"), one, k, 4000)
		time.Sleep(3 * time.Second)
		w.expect(t, "")
		p.lose("192.0.2.9", false)
		time.Sleep(time.Minute)
		w.expect(t, "error, peers [192.0.2.2:4000 192.0.2.3:4000], leave 192.0.2.1:4000, join 192.0.2.3:4000")

		// If there was no error, only the differences are reported.
		p.cut("192.0.2.9")
		join(t, p.client("192.0.2.4"), one, k, 4000)
		time.Sleep(3 * time.Second)
		w.expect(t, "join 192.0.2.4:4000")
	})
}

// silent makes a stream send nothing after its first events.
type silent struct{ http.ResponseWriter }

func (s silent) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s silent) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "event: peers") {
		return s.ResponseWriter.Write(b)
	}
	return len(b), nil
}

// After 35 s without a byte, the client gives up a stream.
func TestStreamSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(silent{w}, r) }))
		defer p.stop()
		w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, 0)
		time.Sleep(34900 * time.Millisecond)
		if n := p.dials(); n != 1 {
			t.Errorf("%d connections within 35 s", n)
		}
		join(t, p.client("192.0.2.1"), one, k, 4000) // 2
		time.Sleep(3 * time.Second)
		if n := p.dials(); n != 3 {
			t.Errorf("%d connections after 35 s of silence, want 3", n)
		}
		w.expect(t, "peers [], join 192.0.2.1:4000")
	})
}

// A restarted tracker has no peers, but this makes no peer leave. A peer that does not join again
// within a ttl leaves.
func TestStreamRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, 0)
		w.expect(t, "peers []")
		c := p.client("192.0.2.1")
		if _, err := c.Announce(t.Context(), named(t, ""), announce.Request{Key: k, Port: 4000}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		leave := join(t, p.client("192.0.2.2"), one, k, 4000)
		time.Sleep(time.Minute)
		w.expect(t, "join 192.0.2.1:4000, join 192.0.2.2:4000")
		p.stop()
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		time.Sleep(140 * time.Second)
		w.expect(t, "")
		time.Sleep(20 * time.Second)
		w.expect(t, "leave 192.0.2.1:4000")
		_ = leave()
		time.Sleep(burst)
		w.expect(t, "leave 192.0.2.2:4000")
	})
}

// A tracker with 100 members and 10 watchers restarts, first immediately and then after a while. No
// leave is reported, and all members are listed again.
func TestStreamRestartUnderMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members, watchers = 100, 10
		p, k := newPipes(t), key(t, "k")
		for i := range members {
			leave := join(t, p.client(fmt.Sprintf("192.0.2.%d", i)), one, k, 4000)
			defer func() { _ = leave() }()
		}
		var watches []*watched
		for i := range watchers {
			watches = append(watches, watch(t, p.client(fmt.Sprintf("198.51.100.%d", i)), one, announce.Request{Key: k}, 0))
		}
		check := func(what string) {
			t.Helper()
			if n := len(strings.Fields(listed(t, p, k))); n != members {
				t.Errorf("%s: %d members, want %d", what, n, members)
			}
			for i, w := range watches {
				if got := w.next(); strings.Contains(got, "leave") || strings.Contains(got, "join") || len(w.list) != members {
					t.Errorf("%s: watcher %d has %d, and reported %.200q", what, i, len(w.list), got)
				}
			}
		}
		time.Sleep(time.Minute)
		check("before")
		p.stop()
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		time.Sleep(10 * time.Second)
		check("ten seconds after a restart")
		time.Sleep(10 * time.Minute)
		check("ten minutes after a restart")
		p.stop()
		time.Sleep(5 * time.Minute)
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		time.Sleep(30 * time.Second)
		check("half a minute after it was away for five")
		time.Sleep(10 * time.Minute)
		check("ten minutes after it was away for five")
	})
}

// After a tracker has ended its streams, its clients return at random times: each thousand spreads
// over two seconds, even if the tracker asks for no wait.
func TestStreamSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients, peers = 40, 10_000
		p, k := new(pipes), key(t, "k")
		var mu sync.Mutex
		asked := 0
		var back []time.Duration
		began := time.Now()
		list := new(strings.Builder)
		for i := range peers {
			fmt.Fprintf(list, "data: 192.0.2.%d:%d\n", i/1000, 1000+i%1000)
		}
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			mu.Lock()
			asked++
			first := asked <= clients
			if !first {
				back = append(back, time.Since(began)-time.Minute)
			}
			mu.Unlock()
			_, _ = fmt.Fprintf(w, "event: you\nid: e\nretry: 0\ndata:\ndata: 150\n\nevent: peers\n%s\n", list)
			if !first {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return
			}
			for range 6 {
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Second)
				_, _ = fmt.Fprint(w, "event: leave\ndata: 192.0.2.0:1000\n\nevent: join\ndata: 192.0.2.0:1000\n\n")
			}
		}))
		defer p.stop()
		for range clients {
			watch(t, p.client("192.0.2.1"), one, announce.Request{Key: k}, 0)
		}
		time.Sleep(85 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(back)
		if len(back) != clients {
			t.Fatalf("%d are back, want %d", len(back), clients)
		}
		if first, middle, last := back[0], back[clients/2], back[clients-1]; last > 21*time.Second || middle < 3*time.Second || middle > 17*time.Second || last < 10*time.Second {
			t.Errorf("back after %v to %v, half of them by %v; want to see 20 s", first, last, middle)
		}
	})
}

// Nothing is reported after the end of the context, even if more events are waiting.
func TestWatchEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		passes := 0
		for range p.client("192.0.2.9").Watch(ctx, one, announce.Request{Key: k}) {
			switch passes++; passes {
			case 1:
				defer join(t, p.client("192.0.2.1"), one, k, 4000)()
				defer join(t, p.client("192.0.2.2"), one, k, 4000)()
				time.Sleep(time.Second) // the loop then gets both joins
			case 2:
				cancel()
			}
		}
		if passes != 2 {
			t.Errorf("%d passes of the loop, want none after the end of the context", passes)
		}
	})
}
