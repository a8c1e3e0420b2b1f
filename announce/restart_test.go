package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// replyOf returns a complete reply with these peers.
func replyOf(ttl time.Duration, peers ...netip.AddrPort) *Reply {
	return &Reply{TTL: ttl, Interval: time.Minute, Count: len(peers), Peers: peers}
}

// A missing peer has left at once if the tracker is known to be the same run. If it may be another
// run, the peer has one ttl to join again: after a new epoch or none, and between streams and
// replies. After that, all is as before.
func TestSourcesDoubt(t *testing.T) {
	p, q := endpointsOf(peer)[0], endpointsOf(inside)[0]
	list := func(epoch string, peers ...netip.AddrPort) func(*source) {
		return func(r *source) { r.recordList(epoch, netip.AddrPort{}, peers) }
	}
	answer := func(restarted bool, peers ...netip.AddrPort) func(*source) {
		return func(r *source) { r.recordReply(replyOf(150*time.Second, peers...), restarted) }
	}
	lost := func(r *source) { r.recordStreamEnd() }
	for _, tt := range []struct {
		about string
		steps []func(*source) // the last one misses p
		at    time.Duration   // when it has left; 0 for at once
	}{
		{"the same epoch", []func(*source){list("E", p, q), lost, list("E", q)}, 0},
		{"a new epoch", []func(*source){list("E", p, q), lost, list("F", q)}, 150 * time.Second},
		{"no epoch", []func(*source){list("", p, q), lost, list("", q)}, 150 * time.Second},
		{"an epoch and then none", []func(*source){list("E", p, q), lost, list("", q)}, 150 * time.Second},
		{"none and then an epoch", []func(*source){list("", p, q), lost, list("E", q)}, 150 * time.Second},
		{"a reply and the next", []func(*source){answer(true, p, q), answer(false, q)}, 0},
		{"a reply and one of another run", []func(*source){answer(true, p, q), answer(true, q)}, 150 * time.Second},
		{"a stream and a reply", []func(*source){list("E", p, q), lost, answer(false, q)}, 150 * time.Second},
		{"a stream and two replies", []func(*source){list("E", p, q), lost, answer(false, p, q), answer(false, q)}, 0},
		{"a reply and a stream", []func(*source){answer(true, p, q), list("E", q)}, 150 * time.Second},
		{"a stream, a reply and the stream", []func(*source){list("E", p, q), lost, answer(false, p, q), list("E", q)}, 150 * time.Second},
		{"a reply and two streams", []func(*source){answer(true, p, q), list("E", p, q), lost, list("E", q)}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFollower()
			r := f.addSource(f.addTracker(Tracker{}))
			for _, step := range tt.steps[:len(tt.steps)-1] {
				step(r)
			}
			reports(f, 0)
			began := time.Now()
			last := tt.steps[len(tt.steps)-1]
			last(r)
			for reported := ""; ; {
				if reported = reports(f, 0); reported != "" {
					if d := time.Since(began); reported != "leave "+peer || d != tt.at {
						t.Errorf("%s: reported %q after %v, want the leave after %v", tt.about, reported, d, tt.at)
					}
					break
				}
				if time.Since(began) > time.Hour {
					t.Errorf("%s: reported nothing", tt.about)
					break
				}
				_, next := f.take(time.Now())
				if next.IsZero() { // only the next reply can show it
					next = time.Now().Add(time.Second)
				}
				time.Sleep(time.Until(next))
				if r.reply != nil {
					r.recordReply(replyOf(150*time.Second, q), false)
				}
			}
		})
	}
}

// The grace is the ttl of the reply, or else follows from its interval.
func TestSourcesTTL(t *testing.T) {
	for _, tt := range []struct{ ttl, interval, want time.Duration }{
		{100 * time.Second, time.Hour, 100 * time.Second}, {0, 20 * time.Second, 50 * time.Second}, {0, 0, defaultTTL},
	} {
		f := newFollower()
		r := f.addSource(f.addTracker(Tracker{}))
		r.recordReply(&Reply{TTL: tt.ttl, Interval: tt.interval}, true)
		if got := r.roster.grace(); got != tt.want {
			t.Errorf("ttl %v, interval %v: a grace of %v", tt.ttl, tt.interval, got)
		}
	}
}

// Of the errors of a tracker's families, the one that says most is reported, and none once the
// tracker is back.
func TestSourcesErrors(t *testing.T) {
	refusal, noRoute := &RefusalError{Status: 401, Reason: "no"}, &UnreachableError{Err: errNoOrigin}
	f := newFollower()
	s := f.addTracker(Tracker{})
	v4, v6 := f.addSource(s), f.addSource(s)
	expect := func(what, want string) {
		t.Helper()
		reported, _ := f.take(time.Now().Add(time.Hour))
		got := ""
		for _, n := range reported {
			got += fmt.Sprintf("%s %v, ", n.event.Type, n.err)
		}
		if got != want {
			t.Errorf("%s: reported %q, want %q", what, got, want)
		}
	}
	v4.recordFailure(refusal)
	expect("one of two", "")
	v6.recordFailure(noRoute)
	expect("both, the refusal first", " no, ")
	v6.recordFailure(noRoute)
	v4.recordFailure(refusal)
	expect("both, the refusal last", " no, ")
	v4.recordReply(replyOf(0), true)
	expect("one is back", "peers <nil>, ")
	v4.recordFailure(refusal)
	expect("it has failed", " no, ")
	v4.recordReply(replyOf(0), true)
	v4.recordFailure(refusal)
	expect("it was back for a moment", " no, ")
	v4.recordReply(replyOf(0), true)
	v6.recordReply(replyOf(0), true)
	expect("both are back", "peers <nil>, ")
}

// After a move, another source may still list the old own endpoint. It is a peer for as long as
// that source is up and lists it.
func TestSourcesOldEndpoint(t *testing.T) {
	old4, me6, new4 := endpointsOf(mine4)[0], endpointsOf(mine6)[0], endpointsOf("198.51.100.5:4000")[0]
	for away, want := range map[bool]string{false: "peers [" + mine4 + "], join " + mine4, true: "peers []"} {
		f := newFollower()
		s := f.addTracker(Tracker{})
		v4, v6 := f.addSource(s), f.addSource(s)
		v4.recordList("E", old4, nil)
		v6.recordList("E", me6, []netip.AddrPort{old4})
		reports(f, 0)
		if away {
			v6.recordStreamEnd()
		}
		v4.recordStreamEnd()
		v4.recordList("E", new4, nil)
		if got := reports(f, 0); got != want {
			t.Errorf("the other source away %v: reported %q, want %q", away, got, want)
		}
	}
}

// A source was given up after a ttl and connects again from the same place. Its local end is an own
// endpoint again.
func TestSourcesConnectAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower()
		s := f.addTracker(Tracker{})
		v4, v6 := f.addSource(s), f.addSource(s)
		me4 := endpointsOf(mine4)[0]
		v4.recordConnection(me4)
		v4.recordList("E", netip.AddrPort{}, nil)
		v6.recordList("E", netip.AddrPort{}, nil)
		if got := reports(f, 0); got != "peers []" {
			t.Errorf("begun: reported %q", got)
		}
		v4.recordStreamEnd()
		v6.recordStreamEnd()
		other := f.addSource(f.addTracker(Tracker{}))
		other.recordList("F", netip.AddrPort{}, nil)
		f.mu.Lock()
		f.setOwn(&v4.local, netip.AddrPort{}) // as expire does
		f.mu.Unlock()
		v4.recordConnection(me4)
		other.recordJoins([]netip.AddrPort{me4})
		if got := reports(f, 0); got != "" {
			t.Errorf("connected again from the same place: reported %q", got)
		}
	})
}
