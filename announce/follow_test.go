package announce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// settle does what the loop of f does for the time d. It returns the reports, each with its time.
func settle(f *follower, d time.Duration) string {
	began := time.Now()
	var all []string
	for {
		reported, next := f.take(time.Now())
		for _, n := range reported {
			text := fmt.Sprint(n.event.Type, " ", n.event.Peer)
			if n.event.Type == EventPeers {
				text = fmt.Sprint("peers ", n.event.Peers, " you ", n.event.You)
			}
			if n.err != nil {
				text = "error"
			}
			all = append(all, fmt.Sprint(time.Since(began), " ", text))
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

// The first event waits for the other sources, for at most connectWait after the first answer.
func TestTakeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		a, b := f.addSource(f.addTracker(Tracker{})), f.addSource(f.addTracker(Tracker{}))
		f.addSource(f.addTracker(Tracker{})) // never answers
		a.recordList("A", usualTTL, 0, netip.AddrPort{}, nil)
		if got := settle(f, 200*time.Millisecond); got != "" {
			t.Errorf("reported %q while the first event should wait", got)
		}
		b.recordList("B", usualTTL, 0, netip.AddrPort{}, nil)
		if got := settle(f, time.Second); got != "100ms peers [] you []" {
			t.Errorf("reported %q", got)
		}
	})
}

// The first event of Gathering.Follow is EventPeers. What the loop had taken before that is not news.
func TestFollowBeginsWithPeers(t *testing.T) {
	f := newFollower()
	var got []string
	b := &barrier{follower: f, self: f.addSource(f.addTracker(Tracker{})), calling: make(chan struct{}, 1), unlisted: true,
		news: func(ev Event, err error) { got = append(got, fmt.Sprint(ev.Type, err != nil)) }}
	b.callNews(Event{Type: EventJoin}, nil)
	b.callNews(Event{}, errNoOrigin)
	b.callNews(Event{Type: EventPeers}, nil)
	b.callNews(Event{Type: EventLeave}, nil)
	b.callNews(Event{}, errHiddenPort)
	if want := "peersfalse leavefalse true"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %s", got, want)
	}
}

// If a tracker is back, there is an EventPeers for it, even if another change causes one as well.
func TestTakeBack(t *testing.T) {
	classic, err := ParseTracker("http://localhost/announce")
	if err != nil {
		t.Fatal(err)
	}
	f := newFollower()
	a, b := f.addTracker(Tracker{}), f.addTracker(classic)
	sourceA, sourceB := f.addSource(a), f.addSource(b)
	sourceA.recordList("A", usualTTL, 0, endpointsOf(mine4)[0], nil)
	sourceB.recordList("B", usualTTL, 0, netip.AddrPort{}, nil)
	reports(f, 0)
	sourceB.recordFailure(errNoOrigin)
	reports(f, 0)
	sourceB.recordList("B", usualTTL, 0, netip.AddrPort{}, nil)
	sourceA.recordList("A", usualTTL, 0, endpointsOf(mine6)[0], nil)
	reported, _ := f.take(time.Now())
	var events []string
	for _, n := range reported {
		events = append(events, fmt.Sprint(n.event.Type, n.event.Tracker.Classic()))
	}
	if got := strings.Join(events, " "); got != "peersfalse peerstrue" {
		t.Errorf("reported %s", got)
	}
}

// If several trackers are back at the same time, there is one EventPeers for each. The order of their
// first answers does not matter.
func TestTakeAllBack(t *testing.T) {
	for _, first := range []int{0, 1} {
		f := newFollower()
		for range 2 {
			f.addSource(f.addTracker(Tracker{}))
		}
		f.sources[first].recordList("A", usualTTL, 0, netip.AddrPort{}, nil)
		f.sources[1-first].recordList("A", usualTTL, 0, netip.AddrPort{}, nil)
		if got := reports(f, time.Second); got != "peers []" {
			t.Errorf("the first reports are %q", got)
		}
		for _, s := range f.sources {
			s.recordFailure(errNoOrigin)
		}
		f.take(time.Now())
		for _, s := range f.sources {
			s.recordList("A", usualTTL, 0, netip.AddrPort{}, nil)
		}
		if got := reports(f, 0); got != "peers [], peers []" {
			t.Errorf("after both are back reported %q", got)
		}
	}
}

// A peer that a sample omits does not leave by time alone: further samples have to omit it, too.
func TestTakeSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		s := f.addSource(f.addTracker(Tracker{}))
		p, q := endpointsOf(peer)[0], endpointsOf(inside)[0]
		sample := func(e netip.AddrPort) {
			reply := replyOf(time.Minute, e)
			reply.Count, reply.Sample = 2, true
			s.recordReply(reply, false)
		}
		sample(p)
		sample(q)
		if got := settle(f, time.Hour); got != "0s peers ["+inside+" "+peer+"] you []" {
			t.Errorf("reported %q", got)
		}
	})
}

// The peers of a source that stays away leave when another source has been up for a ttl, and so does
// its own endpoint. If several others are up, the one that has been up longest counts. Each source
// that is away has its own ttl.
func TestTakeAway(t *testing.T) {
	p, q, you := endpointsOf(peer)[0], endpointsOf(inside)[0], endpointsOf(mine4)[0]
	none := netip.AddrPort{}
	for _, tt := range []struct {
		about string
		do    func(f *follower)
		want  string // the reports after the first event
	}{
		{"its own endpoint", func(f *follower) {
			s, other := f.sources[0], f.sources[1]
			s.recordList("A", usualTTL, 0, you, nil)
			other.recordList("B", usualTTL, 0, none, nil)
			f.take(time.Now())
			s.recordStreamEnd()
		}, "2m30s peers [] you []"},
		{"two others that are up for different times", func(f *follower) {
			s, other, last := f.sources[0], f.sources[1], f.sources[2]
			s.recordList("A", usualTTL, 0, none, []netip.AddrPort{p})
			other.recordList("B", usualTTL, 0, none, nil)
			last.recordFailure(errNoOrigin)
			f.take(time.Now())
			s.recordStreamEnd()
			time.Sleep(time.Minute)
			last.recordList("C", usualTTL, 0, none, nil)
			settle(f, 0)
		}, "1m30s leave " + peer},
		{"two with different ttls", func(f *follower) {
			s, other, last := f.sources[0], f.sources[1], f.sources[2]
			s.recordReply(replyOf(2*time.Minute, p), true)
			last.recordReply(replyOf(time.Minute, q), true)
			other.recordList("B", usualTTL, 0, none, nil)
			f.take(time.Now())
			s.recordStreamEnd()
			last.recordStreamEnd()
		}, "1m0s leave " + inside + ", 2m0s leave " + peer},
		{"two with different ttls, in reverse", func(f *follower) {
			s, other, last := f.sources[0], f.sources[1], f.sources[2]
			s.recordReply(replyOf(time.Minute, p), true)
			last.recordReply(replyOf(2*time.Minute, q), true)
			other.recordList("B", usualTTL, 0, none, nil)
			f.take(time.Now())
			s.recordStreamEnd()
			last.recordStreamEnd()
		}, "1m0s leave " + peer + ", 2m0s leave " + inside},
		{"one that connects again from the same local end", func(f *follower) {
			s, other := f.sources[0], f.sources[1]
			s.recordConnection(you)
			s.recordList("A", usualTTL, 0, none, nil)
			other.recordList("B", usualTTL, 0, none, nil)
			f.take(time.Now())
			s.recordStreamEnd()
			settle(f, time.Hour)
			s.recordConnection(you)
			settle(f, time.Second)
			other.recordJoins([]netip.AddrPort{you})
		}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFollower()
			for range 3 {
				s := f.addSource(f.addTracker(Tracker{}))
				s.state = away
			}
			tt.do(f)
			if got := settle(f, time.Hour); got != tt.want {
				t.Errorf("%s: reported %q, want %q", tt.about, got, tt.want)
			}
		})
	}
}
