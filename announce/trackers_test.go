package announce_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// With several trackers, a peer joins when the first of them reports it, and leaves when the last
// of them no longer does. A tracker that goes away makes no peer leave.
func TestSeveralTrackers(t *testing.T) {
	for name, serve := range serving {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { severalTrackers(t, serve) }) })
	}
}

func severalTrackers(t *testing.T, serve func(*tracker.Tracker) http.Handler) {
	a, b, k := new(pipes), new(pipes), key(t, "k")
	a.start(serve(&tracker.Tracker{Interval: time.Minute}))
	b.start(serve(&tracker.Tracker{Interval: time.Minute}))
	defer a.stop()
	net := internet{"a.example": a, "b.example": b}
	both := []announce.Tracker{named(t, "a.example"), named(t, "b.example")}
	onlyA, onlyB := both[:1], both[1:]
	const every = time.Second
	settle := func() { time.Sleep(2 * every); synctest.Wait() }

	w := watch(t, net.client("192.0.2.9"), both, announce.Request{Key: k, Port: 4000}, every)
	w.expect(t, "peers []")
	if got := listed(t, a, k) + " " + listed(t, b, k) + fmt.Sprint(w.you); got != "192.0.2.9:4000 192.0.2.9:4000[192.0.2.9:4000]" {
		t.Errorf("a member of both: %s", got)
	}
	p := join(t, net.client("192.0.2.1"), both, k, 4000)
	settle()
	w.expect(t, "join 192.0.2.1:4000")
	q := join(t, net.client("192.0.2.2"), onlyA, k, 4000)
	settle()
	w.expect(t, "join 192.0.2.2:4000")
	q2 := join(t, net.client("192.0.2.2"), onlyB, k, 4000)
	settle()
	_ = q()
	settle()
	w.expect(t, "")
	_ = q2()
	settle()
	w.expect(t, "leave 192.0.2.2:4000")

	// One tracker restarts. No peer leaves.
	a.stop()
	a.start(serve(&tracker.Tracker{Interval: time.Minute}))
	time.Sleep(5 * time.Minute)
	if got := w.next(); got != "" && got != "error, peers [192.0.2.1:4000]" {
		t.Errorf("after the restart of one tracker: reported %q", got)
	}

	// This tracker goes away for good. The peer that only this tracker had leaves after a ttl.
	onA := join(t, net.client("192.0.2.3"), onlyA, k, 4000)
	settle()
	w.expect(t, "join 192.0.2.3:4000")
	a.stop()
	time.Sleep(140 * time.Second)
	w.expect(t, "error")
	time.Sleep(20 * time.Second)
	if got := w.next(); strings.Trim(strings.ReplaceAll(got, "error", ""), ", ") != "leave 192.0.2.3:4000" {
		t.Errorf("a ttl after one tracker went away: reported %q", got)
	}

	// The other tracker goes away, too. Now no tracker can report a leave.
	b.stop()
	time.Sleep(time.Hour)
	if got := w.next(); strings.Contains(got, "leave") {
		t.Errorf("without a tracker the watch reported %q", got)
	}
	a.start(serve(&tracker.Tracker{Interval: time.Minute}))
	b.start(serve(&tracker.Tracker{Interval: time.Minute}))
	defer b.stop()
	time.Sleep(5 * time.Minute)
	if got := w.next(); strings.Contains(got, "leave") || fmt.Sprint(w.list) != "[192.0.2.1:4000 192.0.2.3:4000]" {
		t.Errorf("both are back: reported %q, and the peers are %v", got, w.list)
	}
	_ = onA()
	_ = p()
	w.end()
	if got := listed(t, a, k) + listed(t, b, k); got != "" {
		t.Errorf("after all have left, the trackers list %q", got)
	}
}

// A tracker that is unreachable delays the first event only for a moment, and is reported.
func TestSeveralTrackersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newPipes(t), newPipes(t), key(t, "k")
		net := internet{"a.example": a, "b.example": b}
		b.lose("192.0.2.9", true)
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for ev, err := range net.client("192.0.2.9").Watch(ctx, []announce.Tracker{named(t, "b.example"), named(t, "a.example")}, announce.Request{Key: k}) {
			if err != nil {
				if d := time.Since(began); d < 10*time.Second || ev.Tracker != named(t, "b.example") || !strings.Contains(err.Error(), "b.example") {
					t.Errorf("after %v: %v of %v", d, err, ev.Tracker)
				}
				break
			}
			if d := time.Since(began); d != 300*time.Millisecond || ev.Type != announce.EventPeers || ev.Tracker != named(t, "a.example") {
				t.Errorf("after %v: %+v", d, ev)
			}
		}
	})
}

// A tracker that accepts connections but does not answer delays the first event only for a moment.
// Its error is reported after the timeout.
func TestSeveralTrackersSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newPipes(t), new(pipes), key(t, "k")
		b.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		defer b.stop()
		net := internet{"a.example": a, "b.example": b}
		both := []announce.Tracker{named(t, "b.example"), named(t, "a.example")}
		began := time.Now()
		for ev, err := range net.client("192.0.2.9").Watch(t.Context(), both, announce.Request{Key: k}) {
			if d := time.Since(began); err != nil || d != 300*time.Millisecond || ev.Tracker != both[1] {
				t.Errorf("after %v: %+v, %v", d, ev, err)
			}
			break
		}
	})
}

// A member is listed over both families, with one endpoint for each, and is not its own peer.
func TestBothFamilies(t *testing.T) {
	for name, serve := range serving {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { bothFamilies(t, serve) }) })
	}
}

func bothFamilies(t *testing.T, serve func(*tracker.Tracker) http.Handler) {
	p, k := new(pipes), key(t, "k")
	p.start(serve(&tracker.Tracker{Interval: time.Minute}))
	w := watch(t, p.both("192.0.2.1", "2001:db8::1"), one, announce.Request{Key: k, Port: 4000}, time.Second)
	w.expect(t, "peers []")
	const you = "192.0.2.1:4000 [2001:db8::1]:4000"
	if got := listed(t, p, k); got != you || fmt.Sprint(w.you) != "["+you+"]" {
		t.Errorf("listed %q, reported %v", got, w.you)
	}
	dials := p.dials()
	x := watch(t, p.both("192.0.2.9", "2001:db8::9"), one, announce.Request{Key: k}, time.Second)
	x.expect(t, "peers ["+you+"]")
	if n := p.dials() - dials; n != 1 {
		t.Errorf("a watch that only looks has made %d connections, want 1", n)
	}
	leave := join(t, p.both("192.0.2.2", ""), one, k, 4000)
	time.Sleep(2 * time.Second)
	w.expect(t, "join 192.0.2.2:4000")
	x.expect(t, "join 192.0.2.2:4000")
	time.Sleep(10 * time.Minute)
	w.expect(t, "")
	x.expect(t, "") // want no leave and no join

	// One family breaks. The other one still reports changes. With polls, the peers of the broken one
	// count for another ttl. No error is reported.
	p.lose("192.0.2.1", true)
	p.cut("192.0.2.1")
	_ = leave()
	time.Sleep(12*time.Second + 150*time.Second) // a request over the broken family ends after ten seconds
	w.expect(t, "leave 192.0.2.2:4000")
	p.lose("192.0.2.1", false)
	time.Sleep(10 * time.Minute)
	w.expect(t, "")
	if got := listed(t, p, k); got != you {
		t.Errorf("back over both families, listed %q", got)
	}
	x.next()

	// With two families, a restart is not a leave either.
	leave = join(t, p.both("192.0.2.2", "2001:db8::2"), one, k, 4000)
	time.Sleep(2 * time.Second)
	w.next()
	p.stop()
	time.Sleep(10 * time.Second)
	p.start(serve(&tracker.Tracker{Interval: time.Minute}))
	defer p.stop()
	time.Sleep(10 * time.Minute)
	if got := w.next(); strings.Contains(got, "leave") || strings.Contains(got, "join") || !strings.HasSuffix(got, "peers [192.0.2.2:4000 [2001:db8::2]:4000]") {
		t.Errorf("after a restart reported %q", got)
	}
	_ = leave()
	w.end()
	if got := listed(t, p, k); got != "" {
		t.Errorf("after all have left, the tracker lists %q", got)
	}
}

// A tracker reports private peers only to a private address. A watch that has a private address
// over one family gets these peers only over that family. They join and remain, whichever family
// answers or breaks first.
func TestFamiliesOfTwoScopes(t *testing.T) {
	for name, serve := range serving {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { familiesOfTwoScopes(t, serve) }) })
	}
}

func familiesOfTwoScopes(t *testing.T, serve func(*tracker.Tracker) http.Handler) {
	p, k := new(pipes), key(t, "k")
	p.start(serve(&tracker.Tracker{Interval: time.Minute}))
	defer p.stop()
	leave := join(t, p.client("10.0.0.7"), one, k, 4000)
	defer func() { _ = leave() }()
	p.lose("10.0.0.5", true)
	w := watch(t, p.both("10.0.0.5", "2001:db8::5"), one, announce.Request{Key: k, Port: 4000}, time.Second)
	defer w.end()
	time.Sleep(time.Second)
	w.expect(t, "peers []")
	p.lose("10.0.0.5", false)
	time.Sleep(20 * time.Second) // the lost request ends after ten seconds
	w.expect(t, "peers [10.0.0.7:4000], join 10.0.0.7:4000")
	leave8 := join(t, p.client("10.0.0.8"), one, k, 4000)
	time.Sleep(2 * time.Second)
	w.expect(t, "join 10.0.0.8:4000")

	// The family with the private peers breaks, and is back within a ttl.
	p.lose("10.0.0.5", true)
	p.cut("10.0.0.5")
	time.Sleep(15 * time.Second)
	w.expect(t, "")
	_ = leave8()
	p.lose("10.0.0.5", false)
	time.Sleep(4 * time.Minute) // after a failed poll the tracker may have been restarted
	w.expect(t, "leave 10.0.0.8:4000")

	// This family breaks for good.
	p.lose("10.0.0.5", true)
	p.cut("10.0.0.5")
	time.Sleep(140 * time.Second)
	w.expect(t, "")
	time.Sleep(time.Minute)
	w.expect(t, "leave 10.0.0.7:4000")
	if got := fmt.Sprint(w.you); got != "[10.0.0.5:4000 [2001:db8::5]:4000]" {
		t.Errorf("own endpoints: %s", got)
	}
	p.lose("10.0.0.5", false)
}

// One announce lists both endpoints, and one leave removes both. A family that does not work delays
// them only for a moment, and is not an error.
func TestAnnounceBothFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		r := announce.Request{Key: k, Port: 4000}
		leave := join(t, p.client("192.0.2.7"), one, k, 7)
		defer func() { _ = leave() }()
		expect := func(what string, c *announce.Client, within time.Duration, want string) {
			t.Helper()
			began := time.Now()
			reply, err := c.Announce(t.Context(), one[0], r)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := fmt.Sprintf("%v %v %v %d %v", reply.Endpoints, reply.You, endpoints(reply), reply.Count, reply.Sample); got != want || time.Since(began) > within {
				t.Errorf("%s: after %v: %s\nwant %s", what, time.Since(began), got, want)
			}
			c.Close()
		}
		c := p.both("192.0.2.1", "2001:db8::1")
		for range 2 {
			expect("both", c, 0, "[192.0.2.1:4000 [2001:db8::1]:4000] 192.0.2.1:4000 192.0.2.7:7 3 false")
		}
		if err := c.Leave(t.Context(), one[0], r); err != nil {
			t.Error(err)
		}
		c.Close()
		if got := listed(t, p, k); got != "192.0.2.7:7" {
			t.Errorf("after the leave the tracker lists %q", got)
		}
		only6 := "[[2001:db8::1]:4000] [2001:db8::1]:4000 192.0.2.7:7 2 false"
		expect("no route by IPv4", p.both("", "2001:db8::1"), 0, only6)
		p.lose("192.0.2.1", true)
		expect("nothing gets through by IPv4", p.both("192.0.2.1", "2001:db8::1"), 300*time.Millisecond, only6)
		_, err := p.both("", "").Announce(t.Context(), one[0], r)
		if err == nil || !strings.Contains(err.Error(), "network is unreachable") {
			t.Errorf("no route over either family: %v", err)
		}
		p.stop()
		_, err = p.both("", "2001:db8::1").Announce(t.Context(), one[0], r)
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("no route over one, no tracker over the other: %v", err)
		}
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute, Tokens: []string{"t"}}))
		_, err = p.both("", "2001:db8::1").Announce(t.Context(), one[0], r)
		if f, ok := err.(*announce.RefusalError); !ok || f.Status != 401 {
			t.Errorf("no route over one, a refusal over the other: %v", err)
		}
	})
}
