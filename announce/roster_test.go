package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// After a restart, a peer has one ttl of grace, even if samples omitted it before the restart.
func TestGraceAfterSamples(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	reported := ""
	r := roster{ttl: usualTTL}
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
			t.Fatalf("a sample omits a peer: %v", ev)
		}
	}
	now = now.Add(time.Minute)
	r.restarted()
	if ev := update(now, 1, b); ev != "" {
		t.Errorf("right after a restart: %v", ev)
	}
	now = now.Add(149 * time.Second)
	if ev := update(now, 1, b); ev != "" {
		t.Errorf("less than a ttl after a restart: %v", ev)
	}
	now = now.Add(time.Second)
	if got := update(now, 1, b); got != "192.0.2.1:1 false " {
		t.Errorf("a ttl after a restart: %v", got)
	}
}

// A process that was suspended, however long, reports no leaves before it has read the events that
// have arrived since.
func TestSuspendedWatch(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	self := netip.MustParseAddrPort("192.0.2.9:9")
	for _, c := range []struct {
		name  string
		begin func(s, other *source)
	}{
		{"a tracker was restarted", func(s, _ *source) { s.recordList("later", usualTTL, 0, self, []netip.AddrPort{a}) }},
		{"one of two is away", func(s, other *source) {
			other.recordList("other", usualTTL, 0, self, []netip.AddrPort{a})
			s.recordStreamEnd()
		}},
	} {
		for _, suspended := range []time.Duration{time.Second, time.Minute, 10 * time.Hour} {
			for _, joinsAgain := range []bool{true, false} {
				f := newFollower()
				s, other := f.addSource(f.addTracker(Tracker{})), f.addSource(f.addTracker(Tracker{}))
				other.state = up
				s.recordList("run", usualTTL, 0, self, []netip.AddrPort{a, b})
				f.take(time.Now().Add(time.Hour)) // the first event
				f.expires, f.resumed = time.Time{}, time.Time{}
				c.begin(s, other)
				reported, next := f.take(time.Now())
				if len(reported) > 0 || next.IsZero() {
					t.Fatalf("%s: %v, next at %v", c.name, reported, next)
				}
				now := next.Add(suspended)
				for range 3 { // the loop may look again for any reason
					if reported, next = f.take(now); len(reported) > 0 || next.IsZero() || next.After(now.Add(3*time.Second)) {
						t.Errorf("%s, suspended for %v: %v, next at %v of %v", c.name, suspended, reported, next, now)
					}
				}
				if joinsAgain {
					s.recordJoins([]netip.AddrPort{b})
					other.recordJoins([]netip.AddrPort{b})
				}
				reported, _ = f.take(next.Add(100 * time.Millisecond))
				if departed := len(reported) == 1 && reported[0].event.Type == EventLeave && reported[0].event.Peer == b; departed == joinsAgain || joinsAgain && len(reported) > 0 {
					t.Errorf("%s, suspended for %v, joins again %v: %v", c.name, suspended, joinsAgain, reported)
				}
			}
		}
	}
}

// A peer that samples omit counts as gone under two conditions: they have omitted it for a ttl, and
// so often that chance does not explain it.
func TestSamples(t *testing.T) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, tt := range []struct {
		share float64
		every time.Duration
		polls int // the poll after which the peer counts as gone
	}{
		{0.99, time.Second, 151},  // 150 s after the first of them
		{0.5, time.Minute, 28},    // the shares add up to 14
		{0.125, time.Minute, 112}, // the same
		{0.05, 10 * time.Minute, 280},
		{0.99, 10 * time.Minute, 15},
		{1, time.Second, 1},
	} {
		gone := false
		r := roster{ttl: usualTTL}
		r.notify = func(e netip.AddrPort) { gone = r.peers[e] == nil }
		now := time.Now()
		r.update([]netip.AddrPort{e}, tt.share, now)
		polls := 0
		for ; !gone && polls < 1000; polls++ {
			now = now.Add(tt.every)
			r.update(nil, tt.share, now)
		}
		if polls != tt.polls {
			t.Errorf("samples of %v every %v: the peer is gone after %d, want %d", tt.share, tt.every, polls, tt.polls)
		}
		// A sample that has the peer resets the absence.
		for range 2 {
			r.update([]netip.AddrPort{e}, tt.share, now)
			for range tt.polls - 1 {
				now = now.Add(tt.every)
				r.update(nil, tt.share, now)
			}
		}
		if gone {
			t.Errorf("samples of %v every %v: a listed peer is gone early", tt.share, tt.every)
		}
	}
}

// The coverage of a sample is its part of the track. It is always below 1.
func TestCoverage(t *testing.T) {
	for _, tt := range []struct {
		sample       bool
		peers, count int
		want         float64
	}{{false, 2, 3, 1}, {false, 0, -1, 1}, {true, 2, 4, 0.5}, {true, 2, 2, 0.99}, {true, 9, 2, 0.99}, {true, 0, 4, 0}, {true, 3, -1, 0.05}, {true, 3, 0, 0.05}} {
		r := Reply{Sample: tt.sample, Count: tt.count, Peers: make([]netip.AddrPort, tt.peers)}
		if got := r.Coverage(); got != tt.want {
			t.Errorf("%d peers of %d, a sample %v: coverage %v, want %v", tt.peers, tt.count, tt.sample, got, tt.want)
		}
	}
}

// The grace is the longest ttl that was reported before or after a restart. Without one, it is
// maxTTL. The grace is at most maxTTL.
func TestGrace(t *testing.T) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, tt := range []struct{ before, since, want time.Duration }{
		{0, 0, maxTTL}, {time.Minute, 0, time.Minute}, {time.Minute, time.Second, time.Minute},
		{time.Second, time.Minute, time.Minute}, {1 << 30 * time.Second, time.Minute, 150 * time.Minute}, {0, 1 << 30 * time.Second, 150 * time.Minute},
	} {
		for _, stream := range []bool{false, true} {
			gone := false
			var r roster
			r.recordTTL(tt.before)
			r.notify = func(e netip.AddrPort) { gone = r.peers[e] == nil }
			now := time.Now()
			r.update([]netip.AddrPort{e}, 1, now)
			r.restarted()
			r.recordTTL(tt.since)
			for range 2 { // a second restart does not shorten the grace
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
				if gone != (d == tt.want) {
					t.Errorf("%+v, stream %v: gone %v after %v", tt, stream, gone, d)
				}
			}
			if !r.due.IsZero() {
				t.Errorf("%+v: no peer is missing, but due is set", tt)
			}
		}
	}
}

// Peers that have been missing for different times are removed one after the other.
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

// A watch remembers a bounded number of peers, however many a tracker sends. It goes on with these
// peers.
func TestMaxRoster(t *testing.T) {
	f := newFollower()
	s := f.addSource(f.addTracker(Tracker{}))
	s.recordList("E", usualTTL, 0, netip.AddrPort{}, nil)
	endpoint := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
	}
	for i := range maxRoster + 1000 {
		s.recordJoins([]netip.AddrPort{endpoint(i)})
	}
	f.take(time.Now())
	more := &Reply{Count: 1 << 30, Sample: true}
	for i := range 1000 {
		more.Peers = append(more.Peers, netip.AddrPortFrom(endpoint(i).Addr(), 5))
	}
	s.recordReply(more, false)
	if f.take(time.Now()); len(f.list) != maxRoster || f.size != maxRoster || len(s.roster.peers) != maxRoster || len(f.changed) > 0 {
		t.Errorf("it remembers %d, %d, %d and %d peers", len(f.list), f.size, len(s.roster.peers), len(f.changed))
	}
	s.recordList("F", usualTTL, 0, netip.AddrPort{}, nil)
	s.recordLeaves([]netip.AddrPort{endpoint(7)})
	s.recordJoins([]netip.AddrPort{endpoint(1 << 23)})
	if f.take(time.Now()); len(f.list) != maxRoster || f.isPresent(endpoint(7)) || !f.isPresent(endpoint(1<<23)) {
		t.Errorf("it does not go on: %d peers", len(f.list))
	}
}
