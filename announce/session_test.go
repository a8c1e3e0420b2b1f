package announce_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// listed returns the peers that the tracker lists. Its request does not change the track.
func listed(t *testing.T, p *pipes, k announce.Key) string {
	t.Helper()
	c := p.client("192.0.2.250")
	defer c.Close()
	r, err := c.List(t.Context(), named(t, ""), announce.Request{Key: k, Want: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return endpoints(r)
}

// one is a list of one tracker, for tests that need no more.
var one, _ = announce.ParseTrackers("")

// A member renews at the tracker's interval and leaves at the end. It keeps the port of its first
// connection: with another port it would be a second peer.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		var mu sync.Mutex
		var renewed []time.Time
		h := polled(&tracker.Tracker{Interval: time.Minute})
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" && r.FormValue("port") != "0" {
				mu.Lock()
				renewed = append(renewed, time.Now())
				mu.Unlock()
			}
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		you := ""
		go func() {
			left <- stay(ctx, p.client("192.0.2.1"), one, announce.Request{Key: k}, func(ev announce.Event, err error) {
				if err != nil || ev.Type != announce.EventPeers || len(ev.You) != 1 || you != "" {
					t.Errorf("reported %+v, %v", ev, err)
					return
				}
				you = ev.You[0].String()
			})
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := listed(t, p, k); got != you || you == "" {
			t.Errorf("after an hour the tracker lists %q, want %q", got, you)
		}
		mu.Lock()
		if n := len(renewed); n < 60 || n > 76 {
			t.Errorf("%d announces in an hour at an interval of a minute", n)
		}
		var gaps []time.Duration
		for i := 1; i < len(renewed); i++ {
			gaps = append(gaps, renewed[i].Sub(renewed[i-1]))
		}
		mu.Unlock()
		if slices.Min(gaps) < 48*time.Second || slices.Max(gaps) > time.Minute || slices.Max(gaps)-slices.Min(gaps) < time.Second {
			t.Errorf("renewals every %v to %v, want 48s to 60s and spread", slices.Min(gaps), slices.Max(gaps))
		}
		cancel()
		if err := <-left; err != nil {
			t.Error(err)
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after the leave the tracker lists %q", got)
		}
	})
}

// A tracker is away for ten minutes, and then has forgotten its peers. A member joins again within a
// minute.
func TestJoinThroughRestart(t *testing.T) {
	for name, serve := range serving {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { joinThroughRestart(t, serve) }) })
	}
}

func joinThroughRestart(t *testing.T, serve func(*tracker.Tracker) http.Handler) {
	p, k := new(pipes), key(t, "k")
	p.start(serve(&tracker.Tracker{Interval: time.Minute}))
	ctx, cancel := context.WithCancel(t.Context())
	var errs atomic.Int32
	left := make(chan error)
	go func() {
		left <- stay(ctx, p.client("192.0.2.1"), one, announce.Request{Key: k, Port: 4000}, func(_ announce.Event, err error) {
			if err != nil {
				errs.Add(1)
			}
		})
	}()
	time.Sleep(90 * time.Second)
	p.stop()
	time.Sleep(10 * time.Minute)
	if n := errs.Load(); n < 5 || n > 80 {
		t.Errorf("%d attempts in ten minutes, want 5 to 80", n)
	}
	p.start(serve(&tracker.Tracker{Interval: time.Minute}))
	time.Sleep(61 * time.Second)
	if got := listed(t, p, k); got != "192.0.2.1:4000" {
		t.Errorf("a minute after the restart the tracker lists %q", got)
	}
	p.stop()
	time.Sleep(time.Minute)
	cancel()
	// The end of a stream removes the member. After an announce the tracker may still list it.
	if err := <-left; (err == nil) != (t.Name() == "TestJoinThroughRestart/stream") {
		t.Errorf("leaving while the tracker is away: %v", err)
	}
}

// If the tracker is absent at first, Join reports this and waits.
func TestJoinFirstFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		p.stop()
		ctx, cancel := context.WithCancel(t.Context())
		var reported []string
		left := make(chan error)
		go func() {
			left <- stay(ctx, p.client("192.0.2.1"), one, announce.Request{Key: k, Port: 4000}, func(ev announce.Event, err error) {
				if _, ok := errors.AsType[*announce.UnreachableError](err); ok && ev.Tracker == one[0] {
					reported = append(reported, "unreachable")
				} else {
					reported = append(reported, fmt.Sprint(ev.Type, ev.Peers, ev.You, err))
				}
			})
		}()
		time.Sleep(1100 * time.Millisecond)
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := strings.Join(slices.Compact(reported), ", "); got != "unreachable, peers[] [192.0.2.1:4000] <nil>" {
			t.Errorf("reported %s", got)
		}
		cancel()
		if err := <-left; err != nil {
			t.Error(err)
		}
	})
}

// A watch by polls reports joins and leaves, also when the tracker restarts or is away for a while.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		a, b := p.client("192.0.2.1"), p.client("192.0.2.2")
		join := func(c *announce.Client) {
			t.Helper()
			if _, err := c.Announce(t.Context(), named(t, ""), announce.Request{Key: k, Port: 4000}); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var reported []string
		next := func() string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			s := strings.Join(reported, ", ")
			reported = nil
			return s
		}
		expect := func(want string) {
			t.Helper()
			if got := next(); got != want {
				t.Errorf("reported %q, want %q", got, want)
			}
		}
		join(a)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() {
			defer close(done)
			c := p.client("192.0.2.3")
			c.Poll = 10 * time.Second
			for ev, err := range c.Watch(ctx, one, announce.Request{Key: k}) {
				mu.Lock()
				if err != nil {
					reported = append(reported, "error")
				} else {
					reported = append(reported, fmt.Sprintf("%s %v of %v", ev.Type, ev.Peer, ev.Peers))
				}
				mu.Unlock()
			}
		}()
		time.Sleep(time.Second)
		expect("peers invalid AddrPort of [192.0.2.1:4000]")
		join(b)
		time.Sleep(10 * time.Second)
		expect("join 192.0.2.2:4000 of [192.0.2.1:4000 192.0.2.2:4000]")
		if err := a.Leave(t.Context(), named(t, ""), announce.Request{Key: k, Port: 4000}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		expect("leave 192.0.2.1:4000 of [192.0.2.2:4000]")

		// The tracker restarts between two polls, so no poll fails. b joins again within the ttl.
		join(a)
		time.Sleep(10 * time.Second)
		expect("join 192.0.2.1:4000 of [192.0.2.1:4000 192.0.2.2:4000]")
		p.stop()
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		join(a)
		time.Sleep(time.Minute)
		expect("")
		join(b)
		time.Sleep(time.Minute)
		expect("")

		// The tracker is away for a while, and b does not join again.
		p.stop()
		time.Sleep(time.Minute)
		if got := next(); !strings.HasPrefix(got, "error") || strings.Contains(got, "leave") {
			t.Errorf("reported %q while the tracker is away", got)
		}
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		join(a)
		time.Sleep(100 * time.Second)
		join(a)
		if got := next(); strings.Contains(got, "leave") || strings.Contains(got, "join") ||
			!strings.HasSuffix(got, "peers invalid AddrPort of [192.0.2.1:4000 192.0.2.2:4000]") {
			t.Errorf("reported %q within a ttl after the tracker came back", got)
		}
		time.Sleep(70 * time.Second)
		expect("leave 192.0.2.2:4000 of [192.0.2.1:4000]")
		// From now on, the end of a ttl is a leave again.
		time.Sleep(3 * time.Minute)
		expect("leave 192.0.2.1:4000 of []")
		cancel()
		<-done
	})
}

// If a track is larger than a reply, a peer that one sample omits has not left.
func TestWatchSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		p.start(polled(&tracker.Tracker{Interval: time.Minute, MaxWant: 20}))
		defer p.stop()
		stay := func(i int) (leave func()) {
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := p.client("192.0.2.1").Join(ctx, one, announce.Request{Key: k, Port: uint16(4000 + i)}, nil); err != nil {
				t.Fatal(err)
			}
			return cancel
		}
		for i := range 40 {
			defer stay(i)()
		}
		leave := stay(40)
		synctest.Wait()
		joined, left := map[string]bool{}, []string{}
		done := make(chan bool)
		watch, stop := context.WithCancel(t.Context())
		go func() {
			defer close(done)
			c := p.client("192.0.2.3")
			c.Poll = 10 * time.Second
			for ev, err := range c.Watch(watch, one, announce.Request{Key: k}) {
				switch {
				case err != nil:
					t.Error(err)
				case ev.Type == announce.EventLeave:
					left = append(left, ev.Peer.String())
				default:
					for _, e := range ev.Peers {
						joined[e.String()] = true
					}
				}
			}
		}()
		time.Sleep(10 * time.Minute) // 60 samples of half the track: together they show every peer
		leave()
		time.Sleep(20 * time.Minute)
		stop()
		<-done
		if len(joined) != 41 {
			t.Errorf("the samples of half an hour show %d peers, want 41", len(joined))
		}
		if got := strings.Join(left, " "); got != "192.0.2.1:4040" {
			t.Errorf("reported leaves of %q, want 192.0.2.1:4040", got)
		}
	})
}
