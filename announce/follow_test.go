package announce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// settle plays the loop of f for d, and returns what it reports and when.
func settle(f *follower, d time.Duration) string {
	began := time.Now()
	var all []string
	for {
		reported, next := f.take(time.Now())
		for _, n := range reported {
			what := fmt.Sprint(n.event.Type, " ", n.event.Peer)
			if n.event.Type == EventPeers {
				what = fmt.Sprint("peers ", n.event.Peers, " you ", n.event.You)
			}
			if n.err != nil {
				what = "error"
			}
			all = append(all, fmt.Sprint(time.Since(began), " ", what))
		}
		rest := d - time.Since(began)
		if !next.IsZero() {
			rest = min(rest, time.Until(next))
		}
		if time.Since(began) >= d {
			return strings.Join(all, ", ")
		}
		time.Sleep(max(rest, time.Nanosecond))
	}
}

// The first event waits for the other sources, counted from the first answer and not from each.
func TestTakeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		a, b := f.addSource(f.addTracker(Tracker{})), f.addSource(f.addTracker(Tracker{}))
		f.addSource(f.addTracker(Tracker{})) // does not answer
		a.recordList("A", netip.AddrPort{}, nil)
		if got := settle(f, 200*time.Millisecond); got != "" {
			t.Errorf("reported %q at once", got)
		}
		b.recordList("B", netip.AddrPort{}, nil)
		if got := settle(f, time.Second); got != "100ms peers [] you []" {
			t.Errorf("reported %q", got)
		}
	})
}

// A tracker that is back has an event of its own, even if there is another reason for one.
func TestTakeBack(t *testing.T) {
	classic, err := ParseTracker("http://localhost/announce")
	if err != nil {
		t.Fatal(err)
	}
	f := newFollower()
	a, b := f.addTracker(Tracker{}), f.addTracker(classic)
	ra, rb := f.addSource(a), f.addSource(b)
	ra.recordList("A", endpointsOf(mine4)[0], nil)
	rb.recordList("B", netip.AddrPort{}, nil)
	reports(f, 0)
	rb.recordFailure(errNoOrigin)
	reports(f, 0)
	rb.recordList("B", netip.AddrPort{}, nil)
	ra.recordList("A", endpointsOf(mine6)[0], nil)
	reported, _ := f.take(time.Now())
	var of []string
	for _, n := range reported {
		of = append(of, fmt.Sprint(n.event.Type, n.event.Tracker.Classic()))
	}
	if got := strings.Join(of, " "); got != "peersfalse peerstrue" {
		t.Errorf("reported %s", got)
	}
}

// Each of several trackers that are back at once has an event, in whatever order they answered first.
func TestTakeAllBack(t *testing.T) {
	for _, first := range []int{0, 1} {
		f := newFollower()
		for range 2 {
			f.addSource(f.addTracker(Tracker{}))
		}
		f.sources[first].recordList("A", netip.AddrPort{}, nil)
		f.sources[1-first].recordList("A", netip.AddrPort{}, nil)
		if got := reports(f, time.Second); got != "peers []" {
			t.Errorf("at first reported %q", got)
		}
		for _, s := range f.sources {
			s.recordFailure(errNoOrigin)
		}
		f.take(time.Now())
		for _, s := range f.sources {
			s.recordList("A", netip.AddrPort{}, nil)
		}
		if got := reports(f, 0); got != "peers [], peers []" {
			t.Errorf("with both back reported %q", got)
		}
	}
}

// A peer that samples omit does not leave by the clock alone: it takes further samples.
func TestTakeSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		r := f.addSource(f.addTracker(Tracker{}))
		p, q := endpointsOf(peer)[0], endpointsOf(inside)[0]
		sample := func(e netip.AddrPort) {
			reply := replyOf(time.Minute, e)
			reply.Count, reply.Sample = 2, true
			r.recordReply(reply, false)
		}
		sample(p)
		sample(q)
		if got := settle(f, time.Hour); got != "0s peers ["+inside+" "+peer+"] you []" {
			t.Errorf("reported %q", got)
		}
	})
}

// A source that stays away is given up once others have been there for a ttl. Its own endpoint
// goes, and so do the peers that it alone had. The other that has been there longest counts, and
// each source has its own time.
func TestTakeAway(t *testing.T) {
	p, q, you := endpointsOf(peer)[0], endpointsOf(inside)[0], endpointsOf(mine4)[0]
	none := netip.AddrPort{}
	for _, tt := range []struct {
		about string
		do    func(f *follower)
		want  string // after the first event
	}{
		{"its own endpoint", func(f *follower) {
			r, other := f.sources[0], f.sources[1]
			r.recordList("A", you, nil)
			other.recordList("B", none, nil)
			f.take(time.Now())
			r.recordStreamEnd()
		}, "2m30s peers [] you []"},
		{"others that came one after the other", func(f *follower) {
			r, other, last := f.sources[0], f.sources[1], f.sources[2]
			r.recordList("A", none, []netip.AddrPort{p})
			other.recordList("B", none, nil)
			last.recordFailure(errNoOrigin)
			f.take(time.Now())
			r.recordStreamEnd()
			time.Sleep(time.Minute)
			last.recordList("C", none, nil)
			settle(f, 0)
		}, "1m30s leave " + peer},
		{"two with different ttls", func(f *follower) {
			r, other, last := f.sources[0], f.sources[1], f.sources[2]
			r.recordReply(replyOf(2*time.Minute, p), true)
			last.recordReply(replyOf(time.Minute, q), true)
			other.recordList("B", none, nil)
			f.take(time.Now())
			r.recordStreamEnd()
			last.recordStreamEnd()
		}, "1m0s leave " + inside + ", 2m0s leave " + peer},
		{"two with different ttls, the other way round", func(f *follower) {
			r, other, last := f.sources[0], f.sources[1], f.sources[2]
			r.recordReply(replyOf(time.Minute, p), true)
			last.recordReply(replyOf(2*time.Minute, q), true)
			other.recordList("B", none, nil)
			f.take(time.Now())
			r.recordStreamEnd()
			last.recordStreamEnd()
		}, "1m0s leave " + peer + ", 2m0s leave " + inside},
		{"one that connects again from where it was", func(f *follower) {
			r, other := f.sources[0], f.sources[1]
			r.recordConnection(you)
			r.recordList("A", none, nil)
			other.recordList("B", none, nil)
			f.take(time.Now())
			r.recordStreamEnd()
			settle(f, time.Hour)
			r.recordConnection(you)
			settle(f, time.Second)
			other.recordJoins([]netip.AddrPort{you})
		}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFollower()
			for range 3 {
				r := f.addSource(f.addTracker(Tracker{}))
				r.state = away
			}
			tt.do(f)
			if got := settle(f, time.Hour); got != tt.want {
				t.Errorf("%s: reported %q, want %q", tt.about, got, tt.want)
			}
		})
	}
}
