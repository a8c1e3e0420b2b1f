package announce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// settle lets a watch of m take what there is whenever it would, until d has passed, and returns
// what that tells and when.
func settle(m *follower, d time.Duration) string {
	began := time.Now()
	var all []string
	for {
		told, next := m.take(time.Now())
		for _, n := range told {
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

// The first event waits for others from the first answer on, not from each again.
func TestTakeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFollower()
		a, b := m.add(Tracker{}).add(), m.add(Tracker{}).add()
		m.add(Tracker{}).add() // says nothing
		a.listed("A", netip.AddrPort{}, nil)
		if got := settle(m, 200*time.Millisecond); got != "" {
			t.Errorf("told %q at once", got)
		}
		b.listed("B", netip.AddrPort{}, nil)
		if got := settle(m, time.Second); got != "100ms peers [] you []" {
			t.Errorf("told %q", got)
		}
	})
}

// A tracker that is back has an event of its own, though one is due for another reason.
func TestTakeBack(t *testing.T) {
	classic, err := ParseTracker("http://localhost/announce")
	if err != nil {
		t.Fatal(err)
	}
	m := newFollower()
	a, b := m.add(Tracker{}), m.add(classic)
	ra, rb := a.add(), b.add()
	ra.listed("A", endpointsOf(mine4)[0], nil)
	rb.listed("B", netip.AddrPort{}, nil)
	tells(m, 0)
	rb.failed(errNoOrigin)
	tells(m, 0)
	rb.listed("B", netip.AddrPort{}, nil)
	ra.listed("A", endpointsOf(mine6)[0], nil)
	told, _ := m.take(time.Now())
	var of []string
	for _, n := range told {
		of = append(of, fmt.Sprint(n.event.Type, n.event.Tracker.Classic()))
	}
	if got := strings.Join(of, " "); got != "peersfalse peerstrue" {
		t.Errorf("told %s", got)
	}
}

// A peer that samples leave out is not dropped by the clock: only further samples may tell.
func TestTakeSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFollower()
		r := m.add(Tracker{}).add()
		p, q := endpointsOf(peer)[0], endpointsOf(inside)[0]
		sample := func(e netip.AddrPort) {
			reply := replyOf(time.Minute, e)
			reply.Count, reply.Sample = 2, true
			r.replied(reply, false)
		}
		sample(p)
		sample(q)
		if got := settle(m, time.Hour); got != "0s peers ["+inside+" "+peer+"] you []" {
			t.Errorf("told %q", got)
		}
	})
}

// A route that stays away while others are there for a ttl is forgotten, with its own endpoint and
// what it alone knew: by the one that has been there longest, and each in its time.
func TestTakeAway(t *testing.T) {
	p, q, you := endpointsOf(peer)[0], endpointsOf(inside)[0], endpointsOf(mine4)[0]
	none := netip.AddrPort{}
	for _, tt := range []struct {
		about string
		do    func(m *follower)
		want  string // after the first event
	}{
		{"its own endpoint", func(m *follower) {
			r, other := m.sites[0].sources[0], m.sites[1].sources[0]
			r.listed("A", you, nil)
			other.listed("B", none, nil)
			m.take(time.Now())
			r.lost()
		}, "2m30s peers [] you []"},
		{"others that came one after the other", func(m *follower) {
			r, other, last := m.sites[0].sources[0], m.sites[1].sources[0], m.sites[2].sources[0]
			r.listed("A", none, []netip.AddrPort{p})
			other.listed("B", none, nil)
			last.failed(errNoOrigin)
			m.take(time.Now())
			r.lost()
			time.Sleep(time.Minute)
			last.listed("C", none, nil)
			settle(m, 0)
		}, "1m30s leave " + peer},
		{"two with different ttls", func(m *follower) {
			r, other, last := m.sites[0].sources[0], m.sites[1].sources[0], m.sites[2].sources[0]
			r.replied(replyOf(2*time.Minute, p), true)
			last.replied(replyOf(time.Minute, q), true)
			other.listed("B", none, nil)
			m.take(time.Now())
			r.lost()
			last.lost()
		}, "1m0s leave " + inside + ", 2m0s leave " + peer},
		{"two with different ttls, the other way round", func(m *follower) {
			r, other, last := m.sites[0].sources[0], m.sites[1].sources[0], m.sites[2].sources[0]
			r.replied(replyOf(time.Minute, p), true)
			last.replied(replyOf(2*time.Minute, q), true)
			other.listed("B", none, nil)
			m.take(time.Now())
			r.lost()
			last.lost()
		}, "1m0s leave " + peer + ", 2m0s leave " + inside},
		{"one that connects again from where it was", func(m *follower) {
			r, other := m.sites[0].sources[0], m.sites[1].sources[0]
			r.connected(you)
			r.listed("A", none, nil)
			other.listed("B", none, nil)
			m.take(time.Now())
			r.lost()
			settle(m, time.Hour)
			r.connected(you)
			settle(m, time.Second)
			other.changed([]netip.AddrPort{you}, true)
		}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newFollower()
			for range 3 {
				r := m.add(Tracker{}).add()
				r.state = away
			}
			tt.do(m)
			if got := settle(m, time.Hour); got != tt.want {
				t.Errorf("%s: told %q, want %q", tt.about, got, tt.want)
			}
		})
	}
}
