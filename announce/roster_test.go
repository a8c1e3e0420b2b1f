package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// After a restart, a peer has one ttl of grace, whatever samples omitted it before.
func TestGraceAfterSamples(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	reported := ""
	var r roster
	r.notify = func(e netip.AddrPort) { reported += fmt.Sprint(e, r.peers[e] != nil, " ") }
	update := func(now time.Time, share float64, peers ...netip.AddrPort) string {
		reported = ""
		r.update(peers, share, now)
		return reported
	}
	now := time.Now()
	update(now, 1, a, b)
	for range 10 {
		now = now.Add(time.Minute)
		if ev := update(now, 0.5, b); ev != "" {
			t.Fatalf("a sample: %v", ev)
		}
	}
	now = now.Add(time.Minute)
	r.restarted()
	if ev := update(now, 1, b); ev != "" {
		t.Errorf("at once after a restart: %v", ev)
	}
	now = now.Add(149 * time.Second)
	if ev := update(now, 1, b); ev != "" {
		t.Errorf("within a ttl of a restart: %v", ev)
	}
	now = now.Add(time.Second)
	if got := update(now, 1, b); got != "192.0.2.1:1 false " {
		t.Errorf("after it: %v", got)
	}
}

// A process that was stopped, for whatever time, reads what has arrived meanwhile before it reports
// leaves.
func TestStoppedWatch(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	self := netip.MustParseAddrPort("192.0.2.9:9")
	for _, c := range []struct {
		what  string
		begin func(r, other *source)
	}{
		{"a tracker was restarted", func(r, _ *source) { r.listed("later", self, []netip.AddrPort{a}) }},
		{"one of two is away", func(r, other *source) {
			other.listed("other", self, []netip.AddrPort{a})
			r.lost()
		}},
	} {
		for _, stopped := range []time.Duration{time.Second, time.Minute, 10 * time.Hour} {
			for _, back := range []bool{true, false} {
				f := newFollower()
				r, other := f.addSource(f.addTracker(Tracker{})), f.addSource(f.addTracker(Tracker{}))
				other.state = up
				r.listed("run", self, []netip.AddrPort{a, b})
				f.take(time.Now().Add(time.Hour)) // peers
				f.expires, f.resumed = time.Time{}, time.Time{}
				c.begin(r, other)
				reported, next := f.take(time.Now())
				if len(reported) > 0 || next.IsZero() {
					t.Fatalf("%s: %v, next at %v", c.what, reported, next)
				}
				now := next.Add(stopped)
				for range 3 { // whatever the reason
					if reported, next = f.take(now); len(reported) > 0 || next.IsZero() || next.After(now.Add(3*time.Second)) {
						t.Errorf("%s, stopped for %v: %v, next at %v of %v", c.what, stopped, reported, next, now)
					}
				}
				if back {
					r.joined([]netip.AddrPort{b})
					other.joined([]netip.AddrPort{b})
				}
				reported, _ = f.take(next.Add(100 * time.Millisecond))
				if left := len(reported) == 1 && reported[0].event.Type == EventLeave && reported[0].event.Peer == b; left == back || back && len(reported) > 0 {
					t.Errorf("%s, stopped for %v, come back %v: %v", c.what, stopped, back, reported)
				}
			}
		}
	}
}

// A peer that samples omit has left once they have done so for a ttl, and so often that chance does
// not explain it. One of the two is not enough.
func TestSamples(t *testing.T) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, tt := range []struct {
		share float64
		every time.Duration
		polls int // after which it has left
	}{
		{0.99, time.Second, 151},  // 149 s after the first of them
		{0.5, time.Minute, 28},    // twice as many as of all of it
		{0.125, time.Minute, 112}, // the shares add up to 14
		{0.05, 10 * time.Minute, 280},
		{0.99, 10 * time.Minute, 15},
		{1, time.Second, 1},
	} {
		left := false
		r := roster{ttl: 150 * time.Second}
		r.notify = func(e netip.AddrPort) { left = r.peers[e] == nil }
		now := time.Now()
		r.update([]netip.AddrPort{e}, tt.share, now)
		polls := 0
		for ; !left && polls < 1000; polls++ {
			now = now.Add(tt.every)
			r.update(nil, tt.share, now)
		}
		if polls != tt.polls {
			t.Errorf("samples of %v every %v: it has left after %d, want %d", tt.share, tt.every, polls, tt.polls)
		}
		// After a sample with the peer, they begin anew.
		for range 2 {
			r.update([]netip.AddrPort{e}, tt.share, now)
			for range tt.polls - 1 {
				now = now.Add(tt.every)
				r.update(nil, tt.share, now)
			}
		}
		if left {
			t.Errorf("samples of %v every %v: it was seen, and has left early", tt.share, tt.every)
		}
	}
}

// The coverage of a sample is its part of the track, and never all of it.
func TestShare(t *testing.T) {
	for _, tt := range []struct {
		sample       bool
		peers, count int
		want         float64
	}{{false, 2, 3, 1}, {false, 0, -1, 1}, {true, 2, 4, 0.5}, {true, 2, 2, 0.99}, {true, 9, 2, 0.99}, {true, 0, 4, 0}, {true, 3, -1, 0.05}, {true, 3, 0, 0.05}} {
		r := Reply{Sample: tt.sample, Count: tt.count, Peers: make([]netip.AddrPort, tt.peers)}
		if got := r.Coverage(); got != tt.want {
			t.Errorf("%d of %d, a sample %v: %v, want %v", tt.peers, tt.count, tt.sample, got, tt.want)
		}
	}
}

// The grace is the longest ttl that was reported, before or after a restart, or the ttl of the
// usual interval. A ttl that is longer than any peer's renewals does not count.
func TestGrace(t *testing.T) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, tt := range []struct{ before, since, want time.Duration }{
		{0, 0, 150 * time.Second}, {time.Minute, 0, time.Minute}, {time.Minute, time.Second, time.Minute},
		{time.Second, time.Minute, time.Minute}, {1 << 30 * time.Second, time.Minute, 150 * time.Minute}, {0, 1 << 30 * time.Second, 150 * time.Minute},
	} {
		for _, stream := range []bool{false, true} {
			left := false
			r := roster{ttl: tt.before}
			r.notify = func(e netip.AddrPort) { left = r.peers[e] == nil }
			now := time.Now()
			r.update([]netip.AddrPort{e}, 1, now)
			r.restarted()
			r.ttl = tt.since
			for range 2 { // a second restart does not shorten it
				r.restarted()
				r.update(nil, 1, now)
				if r.due != now.Add(tt.want) {
					t.Errorf("%+v: due after %v", tt, r.due.Sub(now))
				}
			}
			for _, d := range []time.Duration{tt.want - 1, tt.want} {
				if stream {
					r.endGrace(now.Add(d))
				} else {
					r.update(nil, 1, now.Add(d))
				}
				if left != (d == tt.want) {
					t.Errorf("%+v, stream %v: left %v after %v", tt, stream, left, d)
				}
			}
			if !r.due.IsZero() {
				t.Errorf("%+v: no peer is missing, and one is due", tt)
			}
		}
	}
}

// Peers that are missing since different moments are due one after the other.
func TestGraceOfSeveral(t *testing.T) {
	var reported []string
	r := roster{ttl: time.Minute}
	r.notify = func(e netip.AddrPort) { reported = append(reported, fmt.Sprint(e.Port(), r.peers[e] != nil)) }
	now := time.Now()
	a, b, c := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2"), netip.MustParseAddrPort("192.0.2.1:3")
	r.update([]netip.AddrPort{a, b, c}, 1, now)
	r.restarted()
	r.update([]netip.AddrPort{b, c}, 0.5, now)
	r.update([]netip.AddrPort{c}, 0.5, now.Add(10*time.Second))
	reported = nil
	expire := func(after time.Duration, want string, due time.Duration) {
		t.Helper()
		r.endGrace(now.Add(after))
		if got := fmt.Sprint(reported); got != want || due > 0 && r.due != now.Add(due) || due == 0 && !r.due.IsZero() {
			t.Errorf("after %v reported %s, due after %v; want %s, %v", after, got, r.due.Sub(now), want, due)
		}
		reported = nil
	}
	expire(59*time.Second, "[]", time.Minute)
	expire(time.Minute, "[1 false]", 70*time.Second)
	expire(69*time.Second, "[]", 70*time.Second)
	expire(70*time.Second, "[2 false]", 0)
	expire(time.Hour, "[]", 0)
}

// However many peers a tracker sends, a watch remembers a bounded number, and goes on with those.
func TestWatchedBound(t *testing.T) {
	f := newFollower()
	r := f.addSource(f.addTracker(Tracker{}))
	r.listed("E", netip.AddrPort{}, nil)
	endpoint := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
	}
	for i := range maxRoster + 1000 {
		r.joined([]netip.AddrPort{endpoint(i)})
	}
	f.take(time.Now())
	more := &Reply{Count: 1 << 30, Sample: true}
	for i := range 1000 {
		more.Peers = append(more.Peers, netip.AddrPortFrom(endpoint(i).Addr(), 5))
	}
	r.replied(more, false)
	if f.take(time.Now()); len(f.list) != maxRoster || f.size != maxRoster || len(r.roster.peers) != maxRoster || len(f.changed) > 0 {
		t.Errorf("it remembers %d, %d, %d and %d peers", len(f.list), f.size, len(r.roster.peers), len(f.changed))
	}
	r.listed("F", netip.AddrPort{}, nil)
	r.departed([]netip.AddrPort{endpoint(7)})
	r.joined([]netip.AddrPort{endpoint(1 << 23)})
	if f.take(time.Now()); len(f.list) != maxRoster || f.isThere(endpoint(7)) || !f.isThere(endpoint(1<<23)) {
		t.Errorf("it does not go on: %d peers", len(f.list))
	}
}
