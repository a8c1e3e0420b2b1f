package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// usualTTL is the ttl at the usual interval of a minute.
const usualTTL = 150 * time.Second

// replyOf returns a reply that is not a sample, with these peers.
func replyOf(ttl time.Duration, peers ...netip.AddrPort) *Reply {
	return &Reply{TTL: ttl, Interval: time.Minute, Count: len(peers), Peers: peers}
}

// The grace is the ttl of the reply or, without one, two and a half intervals. If there is no
// interval, the grace is as long as possible.
func TestSourcesTTL(t *testing.T) {
	for _, tt := range []struct{ ttl, interval, want time.Duration }{
		{100 * time.Second, time.Hour, 100 * time.Second}, {0, 20 * time.Second, 50 * time.Second}, {0, 0, maxTTL},
	} {
		f := newFollower()
		s := f.addSource(f.addTracker(Tracker{}))
		s.recordReply(&Reply{TTL: tt.ttl, Interval: tt.interval}, true)
		if got := s.roster.grace(); got != tt.want {
			t.Errorf("ttl %v, interval %v: a grace of %v", tt.ttl, tt.interval, got)
		}
	}
}

// An EventPeers has the longest ttl that the tracker has reported, in a stream or in a reply.
func TestEventTTL(t *testing.T) {
	f := newFollower()
	s := f.addSource(f.addTracker(Tracker{}))
	for _, tt := range []struct {
		record func()
		want   time.Duration
	}{
		{func() { s.recordList("E", 0, 0, netip.AddrPort{}, nil) }, maxTTL},
		{func() { s.recordList("E", time.Minute, 0, netip.AddrPort{}, nil) }, time.Minute},
		{func() { s.recordReply(replyOf(usualTTL), true) }, usualTTL},
		{func() { s.recordList("F", time.Minute, 0, netip.AddrPort{}, nil) }, usualTTL},
	} {
		s.recordFailure(errNoOrigin)
		tt.record()
		reported, _ := f.take(time.Now().Add(time.Hour))
		if last := reported[len(reported)-1].event; last.Type != EventPeers || last.TTL != tt.want {
			t.Errorf("reported %s with the ttl %v, want %v", last.Type, last.TTL, tt.want)
		}
	}
}

// An EventPeers has the age of the tracker's table, which goes on after the tracker has reported it.
func TestEventAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		s := f.addSource(f.addTracker(Tracker{}))
		for _, tt := range []struct {
			record func()
			want   time.Duration
		}{
			{func() { s.recordList("E", usualTTL, 0, netip.AddrPort{}, nil) }, 0},
			{func() { s.recordList("F", usualTTL, time.Minute, netip.AddrPort{}, nil) }, time.Minute + time.Second},
			{func() { s.recordList("G", usualTTL, 0, netip.AddrPort{}, nil) }, 0}, // without an age
			{func() { s.recordList("H", usualTTL, time.Hour, netip.AddrPort{}, nil) }, time.Hour + time.Second},
			{func() { s.recordReply(replyOf(usualTTL), true) }, 0},
		} {
			s.recordFailure(errNoOrigin)
			tt.record()
			time.Sleep(time.Second)
			reported, _ := f.take(time.Now())
			if last := reported[len(reported)-1].event; last.Type != EventPeers || last.Age != tt.want {
				t.Errorf("reported %s with the age %v, want %v", last.Type, last.Age, tt.want)
			}
		}
	})
}

// The failure of one of two families is not reported. If both fail, the error that says most is
// reported.
func TestSourcesErrors(t *testing.T) {
	refusal, noRoute := &RefusalError{Status: 401, Reason: "no"}, &UnreachableError{Err: errNoOrigin}
	f := newFollower()
	s := f.addTracker(Tracker{})
	v4, v6 := f.addSource(s), f.addSource(s)
	expect := func(when, want string) {
		t.Helper()
		reported, _ := f.take(time.Now().Add(time.Hour))
		got := ""
		for _, n := range reported {
			got += fmt.Sprintf("%s %v, ", n.event.Type, n.err)
		}
		if got != want {
			t.Errorf("%s: reported %q, want %q", when, got, want)
		}
	}
	v4.recordFailure(refusal)
	expect("one of two fails", "")
	v6.recordFailure(noRoute)
	expect("both fail, the refusal is first", " no, ")
	v6.recordFailure(noRoute)
	v4.recordFailure(refusal)
	expect("both fail, the refusal is last", " no, ")
	v4.recordReply(replyOf(0), true)
	expect("one is back", "peers <nil>, ")
	v4.recordFailure(refusal)
	expect("it fails again", " no, ")
	v4.recordReply(replyOf(0), true)
	v4.recordFailure(refusal)
	expect("it was back for a moment", " no, ")
	v4.recordReply(replyOf(0), true)
	v6.recordReply(replyOf(0), true)
	expect("both are back", "peers <nil>, ")
}

// After the own endpoint has changed, another source may still list the old one. While that source is
// up, the old endpoint counts as a peer.
func TestSourcesOldEndpoint(t *testing.T) {
	old4, me6, new4 := endpointsOf(mine4)[0], endpointsOf(mine6)[0], endpointsOf("198.51.100.5:4000")[0]
	for away, want := range map[bool]string{false: "peers [" + mine4 + "], join " + mine4, true: "peers []"} {
		f := newFollower()
		s := f.addTracker(Tracker{})
		v4, v6 := f.addSource(s), f.addSource(s)
		v4.recordList("E", usualTTL, 0, old4, nil)
		v6.recordList("E", usualTTL, 0, me6, []netip.AddrPort{old4})
		reports(f, 0)
		if away {
			v6.recordStreamEnd()
		}
		v4.recordStreamEnd()
		v4.recordList("E", usualTTL, 0, new4, nil)
		if got := reports(f, 0); got != want {
			t.Errorf("the other source away %v: reported %q, want %q", away, got, want)
		}
	}
}

// After the own endpoint of an absent source has expired, the source connects again from the same
// local end. This is an own endpoint again.
func TestSourcesConnectAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		s := f.addTracker(Tracker{})
		v4, v6 := f.addSource(s), f.addSource(s)
		me4 := endpointsOf(mine4)[0]
		v4.recordConnection(me4)
		v4.recordList("E", usualTTL, 0, netip.AddrPort{}, nil)
		v6.recordList("E", usualTTL, 0, netip.AddrPort{}, nil)
		if got := reports(f, 0); got != "peers []" {
			t.Errorf("at first reported %q", got)
		}
		v4.recordStreamEnd()
		v6.recordStreamEnd()
		other := f.addSource(f.addTracker(Tracker{}))
		other.recordList("F", usualTTL, 0, netip.AddrPort{}, nil)
		f.mu.Lock()
		f.setOwn(&v4.local, netip.AddrPort{}) // as expire does
		f.mu.Unlock()
		v4.recordConnection(me4)
		other.recordJoins([]netip.AddrPort{me4})
		if got := reports(f, 0); got != "" {
			t.Errorf("after the new connection reported %q", got)
		}
	})
}
