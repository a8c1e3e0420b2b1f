package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A follower is a subscriber that applies each change to the peers that it was given.
type follower struct {
	s        *tester
	key      string
	self     netip.AddrPort
	sub      store.Subscription
	notified atomic.Int32
	sees     map[netip.AddrPort]bool
	live     bool
}

// subscribe also returns the peers that the follower was given.
func (s *tester) subscribe(key, self string) (f *follower, given string) {
	s.t.Helper()
	f = &follower{s: s, key: key, self: netip.MustParseAddrPort(self), sees: map[netip.AddrPort]bool{}, live: true}
	mine := []byte(key)
	before := wire.Peer{Endpoint: netip.MustParseAddrPort("203.0.113.99:9")}
	peers, sub, err := s.Subscribe(context.Background(), mine, wire.Peer{Endpoint: f.self}, func() { f.notified.Add(1) }, []wire.Peer{before})
	if err != nil {
		s.t.Fatal(err)
	}
	clear(mine)
	if len(peers) == 0 || peers[0] != before {
		s.t.Fatalf("not appended: %v", peers)
	}
	f.sub = sub
	for _, p := range peers[1:] {
		if f.sees[p.Endpoint] {
			s.t.Errorf("%v is given twice", p.Endpoint)
		}
		f.sees[p.Endpoint] = true
	}
	return f, show(peers[1:])
}

// next returns the changes of the follower, such as "+192.0.2.1:1 -192.0.2.2:1", and "end" if it
// has ended.
func (f *follower) next() string {
	f.s.t.Helper()
	notified := f.notified.Swap(0) > 0
	changes, live := f.sub.Next(nil)
	var out []string
	for _, c := range changes {
		sign := "-"
		if c.Joined {
			sign = "+"
		}
		out = append(out, sign+c.Endpoint.String())
		if f.sees[c.Endpoint] == c.Joined || c.Endpoint == f.self {
			f.s.t.Errorf("%v of %q has a change of %v (joined: %v) that is none", f.self, f.key, c.Endpoint, c.Joined)
		}
		if f.sees[c.Endpoint] = true; !c.Joined {
			delete(f.sees, c.Endpoint)
		}
	}
	if f.live && !live {
		out = append(out, "end")
		f.live = false
	}
	if len(out) > 0 && !notified {
		f.s.t.Errorf("%v of %q was not notified of %v", f.self, f.key, out)
	}
	return strings.Join(out, " ")
}

// expect waits until every change must be there, and compares the changes.
func (f *follower) expect(what, want string) {
	f.s.t.Helper()
	time.Sleep(late)
	synctest.Wait()
	f.s.expect(fmt.Sprintf("%s: the changes of %v", what, f.self), f.next(), want)
}

func subscribe(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	s.announce("k", "[2001:db8::1]:1", 0)
	s.announce("other", "192.0.2.5:5", 0)
	w, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given without a port", given, "192.0.2.1:1 [2001:db8::1]:1")
	m, given := s.subscribe("k", "192.0.2.2:2")
	s.expect("given with a port", given, "192.0.2.1:1 [2001:db8::1]:1")
	w.expect("one with a port", "+192.0.2.2:2")
	s.expectLook("it is listed, and one without a port is not", "k", "192.0.2.9", "192.0.2.1:1 192.0.2.2:2 [2001:db8::1]:1")
	s.announce("k", "192.0.2.3:3", 0)
	s.announce("other", "192.0.2.6:5", 0)
	w.expect("a join", "+192.0.2.3:3")
	m.expect("a join", "+192.0.2.3:3")
	s.announce("k", "192.0.2.3:3", 0)
	w.expect("a renewal", "")
	s.leave("k", "[2001:db8::1]:1")
	s.leave("k", "[2001:db8::1]:1")
	s.leave("other", "192.0.2.5:5")
	w.expect("a leave", "-[2001:db8::1]:1")
	m.expect("a leave", "-[2001:db8::1]:1")
	m.sub.Close()
	m.sub.Close()
	s.announce("k", "192.0.2.3:4", 0)
	w.expect("the end of a subscription", "-192.0.2.2:2 +192.0.2.3:4")
	if changes, live := m.sub.Next(nil); len(changes) > 0 {
		t.Errorf("after Close: %v, %v", changes, live)
	}
	w.sub.Close()
	s.leave("k", "192.0.2.1:1")
	s.leave("k", "192.0.2.3:3")
	s.leave("k", "192.0.2.3:4")
	s.expect("nothing is left", s.index("127.0.0.1"), `"other":1`)

	// A subscription lists its peer as an announce does: with its ID, and in a new track if need
	// be.
	id := wire.ID{1}
	_, sub, err := s.Subscribe(t.Context(), []byte("id"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:2"), ID: id}, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if peers, _ := s.look("id", "192.0.2.9", 1); len(peers) != 1 {
		t.Errorf("given %v", peers)
	} else {
		s.expectID("subscribed", peers[0].ID, id)
	}
	sub.Close()
	w, given = s.subscribe("new", "192.0.2.9:0")
	s.expect("given of nothing", given, "")
	s.expect("without a port there is no track", s.index("127.0.0.1", "new"), `"new":0`)
	m, _ = s.subscribe("new", "192.0.2.2:2")
	s.expect("with a port there is one", s.index("127.0.0.1", "new"), `"new":1`)
	w.expect("the first peer", "+192.0.2.2:2")
	m.sub.Close()
	w.expect("the last is gone", "-192.0.2.2:2")
	s.announce("new", "192.0.2.2:2", 0)
	w.expect("it comes again", "+192.0.2.2:2")
	w.sub.Close()
}

func subscribeScopes(t *testing.T, s *tester) {
	s.announce("k", "10.0.0.1:1", 0)
	public, given := s.subscribe("k", "192.0.2.9:9")
	s.expect("given outside", given, "")
	private, given := s.subscribe("k", "10.0.0.9:9")
	s.expect("given inside", given, "10.0.0.1:1 192.0.2.9:9")
	s.leave("k", "10.0.0.1:1")
	s.announce("k", "10.0.0.2:1", 0)
	s.announce("k", "192.0.2.1:1", 0)
	public.expect("outside", "+192.0.2.1:1")
	private.expect("inside", "-10.0.0.1:1 +10.0.0.2:1 +192.0.2.1:1")
	private.sub.Close()
	public.expect("outside", "")
	public.sub.Close()
}

func subscribeLapse(t *testing.T, s *tester) {
	for _, n := range []int{1, 3000} {
		key := fmt.Sprint("of ", n)
		time.Sleep(300 * time.Millisecond) // lapses are between whole seconds
		for i := range n {
			s.announceFor(time.Hour, key, numbered(i), 0)
		}
		s.announceFor(20*time.Second, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		for i := range 8 { // one in each second, because a store may do some work only every few seconds
			s.announceFor(time.Duration(40+i)*time.Second, key, wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(1+i))}, 0)
		}
		w, _ := s.subscribe(key, "192.0.2.9:0")
		time.Sleep(19 * time.Second)
		s.expect("before", w.next(), "")
		time.Sleep(2 * time.Second) // a second for the lapse, and one for its change
		w.expect("a lapse", "-192.0.2.1:1")
		time.Sleep(17 * time.Second)
		w.expect("before the next", "")
		for i := range 8 {
			w.expect("another", fmt.Sprintf("-[2001:db8::1]:%d", 1+i))
		}
		w.sub.Close()
		// Without a join there is no leave.
		s.announceFor(10*time.Second, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		time.Sleep(11 * time.Second)
		w, _ = s.subscribe(key, "192.0.2.9:0")
		s.expect("a lapsed peer is given", fmt.Sprint(w.sees[netip.MustParseAddrPort("192.0.2.1:1")]), "false")
		w.expect("at rest", "")
		s.announceFor(ttl, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		w.expect("it comes again", "+192.0.2.1:1")
		w.sub.Close()
	}
}

// subscribeHolds goes through the ways in which subscriptions and announces keep a peer listed.
func subscribeHolds(t *testing.T, s *tester) {
	const p = "192.0.2.1:1"
	w, _ := s.subscribe("k", "192.0.2.9:0")
	expect := func(what, changes string, listed bool) {
		t.Helper()
		w.expect(what, changes)
		s.expect(what, s.index("192.0.2.9", "k"), map[bool]string{true: `"k":1`, false: `"k":0`}[listed])
	}
	a, _ := s.subscribe("k", p)
	expect("a subscription", "+"+p, true)
	time.Sleep(30 * time.Hour)
	expect("a long one", "", true)
	b, given := s.subscribe("k", p)
	s.expect("given to the same peer", given, "")
	a.sub.Close()
	expect("the first of two has ended", "", true)
	c, _ := s.subscribe("k", p)
	c.sub.Close()
	expect("another began and ended", "", true)
	time.Sleep(10 * time.Hour)
	b.sub.Close()
	expect("the last has ended", "-"+p, false)

	s.announce("k", p, 0)
	expect("an announce", "+"+p, true)
	a, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	time.Sleep(100 * time.Second)
	a.sub.Close()
	expect("the announce lasts longer than the subscription", "", true)
	time.Sleep(ttl - 100*time.Second - 4*time.Second)
	expect("until its time", "", true)
	time.Sleep(4 * time.Second)
	expect("has come", "-"+p, false)

	s.announceFor(2*ttl, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	expect("a long announce", "+"+p, true)
	a, _ = s.subscribe("k", p)
	b, _ = s.subscribe("k", p)
	s.announce("k", p, 0) // shortens nothing
	b.sub.Close()
	a.sub.Close()
	time.Sleep(2*ttl - 4*time.Second)
	expect("lists for as long as before", "", true)
	time.Sleep(4 * time.Second)
	expect("and no longer", "-"+p, false)

	a, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	expect("an announce during a subscription", "+"+p, true)
	time.Sleep(2 * ttl)
	a.sub.Close()
	expect("that has lapsed before its end", "-"+p, false)

	s.announce("k", p, 0)
	expect("an announce again", "+"+p, true)
	a, _ = s.subscribe("k", p)
	time.Sleep(ttl - 20*time.Second)
	s.announce("k", p, 0)
	time.Sleep(100 * time.Second)
	expect("its first announce has lapsed", "", true)
	a.sub.Close()
	time.Sleep(ttl - 100*time.Second - 4*time.Second)
	expect("its second has not", "", true)
	time.Sleep(4 * time.Second)
	expect("and now it has", "-"+p, false)

	s.announceFor(time.Second, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	a, _ = s.subscribe("k", p)
	s.announceFor(3*time.Hour, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	time.Sleep(20 * time.Hour)
	a.sub.Close()
	expect("an announce that lapsed long ago", "+"+p+" -"+p, false)

	// Each key and each port by itself.
	a, _ = s.subscribe("k", p)
	b, _ = s.subscribe("k", "192.0.2.1:2")
	c, _ = s.subscribe("l", p)
	w.expect("two ports", "+"+p+" +192.0.2.1:2")
	a.sub.Close()
	w.expect("one of them", "-"+p)
	s.expect("two keys", s.index("192.0.2.9", "k", "l"), `"k":1 "l":1`)
	b.sub.Close()
	c.sub.Close()
	w.sub.Close()
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// subscribeLeave ends several holds on a peer by Leave.
func subscribeLeave(t *testing.T, s *tester) {
	w, _ := s.subscribe("k", "192.0.2.9:0")
	same, _ := s.subscribe("k", "192.0.2.1:0")
	a, _ := s.subscribe("k", "192.0.2.1:1")
	b, _ := s.subscribe("k", "192.0.2.1:1")
	c, _ := s.subscribe("k", "192.0.2.1:2")
	l, _ := s.subscribe("l", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	w.expect("two join", "+192.0.2.1:1 +192.0.2.1:2")
	a.expect("one of them", "+192.0.2.1:2")
	s.leave("k", "192.0.2.1:1")
	s.expectLook("at once", "k", "192.0.2.9", "192.0.2.1:2")
	if a.notified.Load() == 0 || b.notified.Load() == 0 {
		t.Error("the end is not notified at once")
	}
	w.expect("one leaves", "-192.0.2.1:1")
	a.expect("its subscription", "end")
	b.next()
	if b.live {
		t.Error("its second subscription goes on")
	}
	for _, f := range []*follower{same, c, l} {
		if f.next(); !f.live {
			t.Errorf("%v of %q has ended, too", f.self, f.key)
		}
	}
	a.sub.Close()
	d, _ := s.subscribe("k", "192.0.2.1:1")
	b.sub.Close() // does not end the hold of d
	w.expect("it comes again", "+192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	w.expect("it leaves and joins at once", "")
	d.sub.Close()
	w.expect("its announce lists it", "")
	for _, f := range []*follower{w, same, c, l} {
		f.sub.Close()
	}
	time.Sleep(ttl + late)
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// subscribeBurst makes changes that undo each other within 50 milliseconds.
func subscribeBurst(t *testing.T, s *tester) {
	const p, q = "192.0.2.1:1", "192.0.2.1:2"
	w, _ := s.subscribe("k", "192.0.2.9:0")
	s.announce("k", p, 0)
	s.leave("k", p)
	w.expect("a join and a leave", "")
	s.announce("k", p, 0)
	time.Sleep(45 * time.Millisecond)
	s.leave("k", p)
	w.expect("a join and a moment later a leave", "")
	s.announce("k", p, 0)
	s.announce("k", q, 0)
	s.leave("k", p)
	w.expect("a join and a leave beside another peer", "+"+q)
	s.leave("k", q)
	s.announce("k", q, 0)
	w.expect("a leave and a join", "")
	s.leave("k", q)
	s.announce("k", q, 0)
	s.leave("k", q)
	w.expect("a leave, a join and a leave", "-"+q)
	// A subscription that begins in between is given the peers of that moment.
	s.announce("k", p, 0)
	m, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given in between", given, p)
	s.leave("k", p)
	s.announce("k", q, 0)
	n, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given in between", given, q)
	s.announce("k", p, 0)
	s.leave("k", q)
	w.expect("from the start", "+"+p)
	s.expect("from the middle", m.next(), "")
	s.expect("from the end", n.next(), "+"+p+" -"+q)
	for _, f := range []*follower{w, m, n} {
		f.sub.Close()
	}
}

// subscribeSlow has one subscriber that never calls Next.
func subscribeSlow(t *testing.T, s *tester) {
	slow, _ := s.subscribe("k", "192.0.2.9:0")
	w, _ := s.subscribe("k", "192.0.2.8:0")
	m, _ := s.subscribe("k", "192.0.2.7:7")
	m.sub.Close()
	for i := range 40 {
		for j := range 1000 {
			s.announceFor(time.Hour, "k", numbered(1000*i+j), 0)
		}
		time.Sleep(late)
		w.next()
		for j := range 1000 {
			s.leave("k", numbered(1000*i+j).Endpoint.String())
		}
		time.Sleep(late)
		w.next()
	}
	if w.next(); !w.live || len(w.sees) != 0 {
		t.Errorf("the other one: live %v, sees %d peers", w.live, len(w.sees))
	}
	if changes, live := slow.sub.Next(nil); live || len(changes) > 20_000 {
		t.Errorf("the slow one has %d changes, live %v", len(changes), live)
	}
	slow.sub.Close()
	w.sub.Close()
}

func subscribeLarge(t *testing.T, s *tester) {
	const most = 10_000
	for i := range most {
		s.announceFor(time.Hour, "k", numbered(i), 0)
	}
	w, given := s.subscribe("k", "192.0.2.9:9")
	if n := len(strings.Fields(given)); n != most {
		t.Fatalf("given %d", n)
	}
	for _, self := range []string{"192.0.2.8:0", "192.0.2.8:8"} {
		_, sub, err := s.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort(self)}, func() {}, nil)
		var full *store.FullError
		if !errors.As(err, &full) || !full.Stream || sub != nil {
			t.Errorf("%s: %v", self, err)
		}
	}
	s.expect("the refused peer is not listed", s.index("192.0.2.9", "k"), `"k":10001`)
	s.announce("k", "192.0.2.1:1", 0)
	w.expect("the earlier subscription goes on", "+192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	w.sub.Close()
	w, _ = s.subscribe("k", "192.0.2.8:8")
	w.sub.Close()
}

// epoch compares subscriptions to one store with those to another, which has none of its peers.
func epoch(t *testing.T, s, other *tester) {
	of := func(s *tester, endpoint string) string {
		f, _ := s.subscribe("k", endpoint)
		defer f.sub.Close()
		return f.sub.Epoch()
	}
	first := of(s, "192.0.2.1:1")
	if first == "" || len(first) > 64 || strings.ContainsFunc(first, func(r rune) bool { return r <= ' ' || r > '~' || r == '-' }) {
		t.Errorf("epoch %q", first)
	}
	time.Sleep(time.Hour)
	if again := of(s, "192.0.2.2:0"); again != first {
		t.Errorf("epoch %q, and later %q", first, again)
	}
	if another := of(other, "192.0.2.1:1"); another == first {
		t.Errorf("two stores have the epoch %q", first)
	}
}
