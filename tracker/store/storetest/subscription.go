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

// A subscriber applies each change of a subscription to the peers that it was given at first.
type subscriber struct {
	store.Subscription
	s        *tester
	key      string
	self     netip.AddrPort // with port 0 it only looks
	size     store.Size     // that Subscribe returned
	notified atomic.Int32
	sees     map[netip.AddrPort]bool
	live     bool
}

// subscribe also returns the peers that the subscriber was given, as show shows them.
func (s *tester) subscribe(key, self string) (sub *subscriber, given string) {
	s.t.Helper()
	sub = &subscriber{s: s, key: key, self: netip.MustParseAddrPort(self), sees: map[netip.AddrPort]bool{}, live: true}
	overwritten := []byte(key)
	already := wire.Peer{Endpoint: netip.MustParseAddrPort("203.0.113.99:9")}
	peers, size, subscription, err := s.Subscribe(context.Background(), overwritten, wire.Peer{Endpoint: sub.self}, func() { sub.notified.Add(1) }, []wire.Peer{already})
	if err != nil {
		s.t.Fatal(err)
	}
	clear(overwritten) // a store must have copied the key
	if len(peers) == 0 || peers[0] != already {
		s.t.Fatalf("the peers are not appended: %v", peers)
	}
	sub.Subscription, sub.size = subscription, size
	for _, p := range peers[1:] {
		if sub.sees[p.Endpoint] {
			s.t.Errorf("%v is given twice", p.Endpoint)
		}
		sub.sees[p.Endpoint] = true
	}
	return sub, show(peers[1:])
}

// all calls Next until there are no more changes for now.
func (sub *subscriber) all() (changes []store.Change, live bool) {
	sub.s.t.Helper()
	for {
		batch, live := sub.Next()
		if batch == nil {
			return changes, live
		}
		if !live || len(batch.Changes) == 0 {
			sub.s.t.Errorf("%v of %q gets a batch of %d changes, live %v", sub.self, sub.key, len(batch.Changes), live)
		}
		changes = append(changes, batch.Changes...)
	}
}

// next calls Next, checks the changes and applies them. It returns them, such as
// "+192.0.2.1:1 -192.0.2.2:1", and "end" the first time that Next reports the end.
func (sub *subscriber) next() string {
	sub.s.t.Helper()
	notified := sub.notified.Swap(0) > 0
	var out []string
	changes, live := sub.all()
	for _, c := range changes {
		switch {
		case c.Endpoint == sub.self:
			sub.s.t.Errorf("%v of %q gets a change of itself (joined: %v)", sub.self, sub.key, c.Joined)
		case sub.sees[c.Endpoint] == c.Joined:
			sub.s.t.Errorf("%v of %q gets a change of %v (joined: %v) that changes nothing", sub.self, sub.key, c.Endpoint, c.Joined)
		}
		if c.Joined {
			sub.sees[c.Endpoint] = true
			out = append(out, "+"+c.Endpoint.String())
		} else {
			delete(sub.sees, c.Endpoint)
			out = append(out, "-"+c.Endpoint.String())
		}
	}
	if sub.live && !live {
		out = append(out, "end")
		sub.live = false
	}
	if len(out) > 0 && !notified {
		sub.s.t.Errorf("%v of %q was not notified of %v", sub.self, sub.key, out)
	}
	return strings.Join(out, " ")
}

// expect waits for as long as a change may take, and then compares the changes.
func (sub *subscriber) expect(what, want string) {
	sub.s.t.Helper()
	time.Sleep(tolerance)
	synctest.Wait()
	sub.s.expect(fmt.Sprintf("%s: the changes of %v", what, sub.self), sub.next(), want)
}

// subscribe has a watcher, which subscribes without a port, and a member, which has one.
func subscribe(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	s.announce("k", "[2001:db8::1]:1", 0)
	s.announce("other", "192.0.2.5:5", 0)
	watcher, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given without a port", given, "192.0.2.1:1 [2001:db8::1]:1")
	member, given := s.subscribe("k", "192.0.2.2:2")
	s.expect("given with a port", given, "192.0.2.1:1 [2001:db8::1]:1")
	watcher.expect("a member subscribes", "+192.0.2.2:2")
	s.expectLook("the member is listed, and the watcher is not", "k", "192.0.2.9", "192.0.2.1:1 192.0.2.2:2 [2001:db8::1]:1")
	s.announce("k", "192.0.2.3:3", 0)
	s.announce("other", "192.0.2.6:5", 0)
	watcher.expect("a join", "+192.0.2.3:3")
	member.expect("a join", "+192.0.2.3:3")
	s.announce("k", "192.0.2.3:3", 0)
	watcher.expect("a renewal", "")
	s.leave("k", "[2001:db8::1]:1")
	s.leave("k", "[2001:db8::1]:1")
	s.leave("other", "192.0.2.5:5")
	watcher.expect("a leave", "-[2001:db8::1]:1")
	member.expect("a leave", "-[2001:db8::1]:1")
	member.Close()
	member.Close()
	watcher.expect("the subscription of the member ends", "-192.0.2.2:2")
	s.announce("k", "192.0.2.3:4", 0)
	watcher.expect("another peer joins", "+192.0.2.3:4")
	if batch, _ := member.Next(); batch != nil {
		t.Errorf("changes after Close: %v", batch.Changes)
	}
	watcher.Close()
	s.leave("k", "192.0.2.1:1")
	s.leave("k", "192.0.2.3:3")
	s.leave("k", "192.0.2.3:4")
	s.expect("of two tracks one remains", s.index("127.0.0.1"), `"other":1`)

	// A subscription lists its peer as an announce does: with its ID, and in a new track if the key
	// has none.
	id := wire.ID{1}
	_, _, sub, err := s.Subscribe(t.Context(), []byte("id"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:2"), ID: id}, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if peers, _ := s.look("id", "192.0.2.9", 1); len(peers) != 1 {
		t.Errorf("a look at a subscribed peer is given %v", peers)
	} else {
		s.expectID("a subscribed peer", peers[0].ID, id)
	}
	sub.Close()
	watcher, given = s.subscribe("new", "192.0.2.9:0")
	s.expect("given without a track", given, "")
	s.expect("a watcher makes no track", s.index("127.0.0.1", "new"), `"new":0`)
	member, _ = s.subscribe("new", "192.0.2.2:2")
	s.expect("a member makes a track", s.index("127.0.0.1", "new"), `"new":1`)
	watcher.expect("the first peer", "+192.0.2.2:2")
	member.Close()
	watcher.expect("the last peer leaves", "-192.0.2.2:2")
	s.announce("new", "192.0.2.2:2", 0)
	watcher.expect("a peer joins the empty track", "+192.0.2.2:2")
	watcher.Close()
}

func subscribeScopes(t *testing.T, s *tester) {
	s.announce("k", "10.0.0.1:1", 0)
	public, given := s.subscribe("k", "192.0.2.9:9")
	s.expect("given to the public subscriber", given, "")
	private, given := s.subscribe("k", "10.0.0.9:9")
	s.expect("given to the private subscriber", given, "10.0.0.1:1 192.0.2.9:9")
	s.leave("k", "10.0.0.1:1")
	s.announce("k", "10.0.0.2:1", 0)
	s.announce("k", "192.0.2.1:1", 0)
	public.expect("changes in both scopes", "+192.0.2.1:1")
	private.expect("changes in both scopes", "-10.0.0.1:1 +10.0.0.2:1 +192.0.2.1:1")
	private.Close()
	public.expect("the private subscriber leaves", "")
	public.Close()
}

func subscribeLapse(t *testing.T, s *tester) {
	for _, n := range []int{1, 3000} {
		key := fmt.Sprint("track of ", n)
		time.Sleep(300 * time.Millisecond) // a store may round to whole seconds: no lapse is at one
		s.together(n, func(i int) { s.announceFor(time.Hour, key, numbered(i), 0) })
		s.announceFor(20*time.Second, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		for i := range 8 { // in each of eight seconds, because a store may work in only some of them
			s.announceFor(time.Duration(40+i)*time.Second, key, wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(1+i))}, 0)
		}
		watcher, _ := s.subscribe(key, "192.0.2.9:0")
		time.Sleep(19 * time.Second)
		s.expect("before the first lapse", watcher.next(), "")
		time.Sleep(2 * time.Second) // a second for the lapse, and one for its change
		watcher.expect("the first lapse", "-192.0.2.1:1")
		time.Sleep(17 * time.Second)
		watcher.expect("before the second lapse", "")
		for i := range 8 {
			watcher.expect("one lapse each second", fmt.Sprintf("-[2001:db8::1]:%d", 1+i))
		}
		watcher.Close()

		// A subscriber that was not given a lapsed peer gets no leave of it.
		s.announceFor(10*time.Second, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		time.Sleep(11 * time.Second)
		watcher, _ = s.subscribe(key, "192.0.2.9:0")
		if watcher.sees[netip.MustParseAddrPort("192.0.2.1:1")] {
			t.Error("a lapsed peer is given")
		}
		watcher.expect("nothing happens", "")
		s.announceFor(ttl, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		watcher.expect("the lapsed peer joins again", "+192.0.2.1:1")
		watcher.Close()
	}
}

// subscribeHolds keeps a peer listed by subscriptions and by announces.
func subscribeHolds(t *testing.T, s *tester) {
	const p = "192.0.2.1:1"
	watcher, _ := s.subscribe("k", "192.0.2.9:0")
	expect := func(what, changes string, listed bool) {
		t.Helper()
		watcher.expect(what, changes)
		s.expect(what, s.index("192.0.2.9", "k"), map[bool]string{true: `"k":1`, false: `"k":0`}[listed])
	}

	// Without an announce, the peer is listed until its last subscription ends.
	a, _ := s.subscribe("k", p)
	expect("a subscription begins", "+"+p, true)
	time.Sleep(s.long(30 * time.Hour))
	expect("the subscription has lasted for long", "", true)
	b, given := s.subscribe("k", p)
	s.expect("given to the second subscription of the peer", given, "")
	a.Close()
	expect("the first of two subscriptions has ended", "", true)
	c, _ := s.subscribe("k", p)
	c.Close()
	expect("a third subscription has begun and ended", "", true)
	time.Sleep(s.long(10 * time.Hour))
	b.Close()
	expect("the last subscription has ended", "-"+p, false)

	// An announce lasts longer than the subscription.
	s.announce("k", p, 0)
	expect("an announce before the subscription", "+"+p, true)
	a, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	time.Sleep(100 * time.Second)
	a.Close()
	expect("the announce lasts longer than the subscription", "", true)
	time.Sleep(ttl - 100*time.Second - 4*time.Second)
	expect("before the announce lapses", "", true)
	time.Sleep(4 * time.Second)
	expect("after the announce has lapsed", "-"+p, false)

	// An announce during the subscription does not shorten an earlier, longer one.
	s.announceFor(2*ttl, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	expect("a long announce", "+"+p, true)
	a, _ = s.subscribe("k", p)
	b, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	b.Close()
	a.Close()
	time.Sleep(2*ttl - 4*time.Second)
	expect("before the long announce lapses", "", true)
	time.Sleep(4 * time.Second)
	expect("after the long announce has lapsed", "-"+p, false)

	// An announce lapses before the subscription ends.
	a, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	expect("an announce during the subscription", "+"+p, true)
	time.Sleep(2 * ttl)
	a.Close()
	expect("the subscription ends after the announce has lapsed", "-"+p, false)

	// The last of two announces counts.
	s.announce("k", p, 0)
	expect("the first of two announces", "+"+p, true)
	a, _ = s.subscribe("k", p)
	time.Sleep(ttl - 20*time.Second)
	s.announce("k", p, 0)
	time.Sleep(100 * time.Second)
	expect("after the first announce has lapsed", "", true)
	a.Close()
	time.Sleep(ttl - 100*time.Second - 4*time.Second)
	expect("before the second announce lapses", "", true)
	time.Sleep(4 * time.Second)
	expect("after the second announce has lapsed", "-"+p, false)

	// The announces lapse many hours before the subscription ends.
	s.announceFor(time.Second, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	a, _ = s.subscribe("k", p)
	s.announceFor(3*time.Hour, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	time.Sleep(max(s.long(20*time.Hour), 4*time.Hour))
	a.Close()
	expect("the announces lapsed long ago", "+"+p+" -"+p, false)

	// A subscription holds one port under one key, and nothing else.
	a, _ = s.subscribe("k", p)
	b, _ = s.subscribe("k", "192.0.2.1:2")
	c, _ = s.subscribe("l", p)
	watcher.expect("two ports subscribe", "+"+p+" +192.0.2.1:2")
	a.Close()
	watcher.expect("the subscription of one port ends", "-"+p)
	s.expect("the other port and the other key", s.index("192.0.2.9", "k", "l"), `"k":1 "l":1`)
	b.Close()
	c.Close()
	watcher.expect("the last subscriptions have ended", "-192.0.2.1:2")
	watcher.Close()
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// subscribeLeave has a peer leave that two subscriptions hold. Only these subscriptions end.
func subscribeLeave(t *testing.T, s *tester) {
	watcher, _ := s.subscribe("k", "192.0.2.9:0")
	noPort, _ := s.subscribe("k", "192.0.2.1:0")
	first, _ := s.subscribe("k", "192.0.2.1:1")
	second, _ := s.subscribe("k", "192.0.2.1:1")
	otherPort, _ := s.subscribe("k", "192.0.2.1:2")
	otherKey, _ := s.subscribe("l", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	watcher.expect("two peers join", "+192.0.2.1:1 +192.0.2.1:2")
	first.expect("the other peer joins", "+192.0.2.1:2")
	s.leave("k", "192.0.2.1:1")
	s.expectLook("immediately after the leave", "k", "192.0.2.9", "192.0.2.1:2")
	if first.notified.Load() == 0 || second.notified.Load() == 0 {
		t.Error("a subscription is not notified immediately of its end")
	}
	watcher.expect("the peer leaves", "-192.0.2.1:1")
	first.expect("the peer of the subscription leaves", "end")
	if second.next(); second.live {
		t.Error("the second subscription of the peer goes on")
	}
	for _, sub := range []*subscriber{noPort, otherPort, otherKey} {
		if sub.next(); !sub.live {
			t.Errorf("%v of %q has ended, too", sub.self, sub.key)
		}
	}
	first.Close()
	third, _ := s.subscribe("k", "192.0.2.1:1")
	second.Close() // does not end the hold of the third
	watcher.expect("the peer joins again", "+192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	watcher.expect("the peer leaves and joins immediately", "")
	third.Close()
	watcher.expect("the announce keeps the peer listed", "")
	for _, sub := range []*subscriber{watcher, noPort, otherPort, otherKey} {
		sub.Close()
	}
	time.Sleep(ttl + tolerance)
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// subscribeBurst makes changes that undo each other within 50 milliseconds.
func subscribeBurst(t *testing.T, s *tester) {
	const p, q = "192.0.2.1:1", "192.0.2.1:2"
	watcher, _ := s.subscribe("k", "192.0.2.9:0")
	s.announce("k", p, 0)
	s.leave("k", p)
	watcher.expect("a join and a leave", "")
	s.announce("k", p, 0)
	time.Sleep(45 * time.Millisecond)
	s.leave("k", p)
	watcher.expect("a join and a leave 45 ms later", "")
	s.announce("k", p, 0)
	s.announce("k", q, 0)
	s.leave("k", p)
	watcher.expect("a join and a leave, while another peer joins", "+"+q)
	s.leave("k", q)
	s.announce("k", q, 0)
	watcher.expect("a leave and a join", "")
	s.leave("k", q)
	s.announce("k", q, 0)
	s.leave("k", q)
	watcher.expect("a leave, a join and a leave", "-"+q)

	// Two subscriptions begin during the changes. Each is given the peers of that moment.
	s.announce("k", p, 0)
	givenP, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given after p joined", given, p)
	s.leave("k", p)
	s.announce("k", q, 0)
	givenQ, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given after p left and q joined", given, q)
	s.announce("k", p, 0)
	s.leave("k", q)
	watcher.expect("given neither: p has joined", "+"+p)
	s.expect("given p: nothing has changed", givenP.next(), "")
	s.expect("given q: p has joined and q has left", givenQ.next(), "+"+p+" -"+q)
	for _, sub := range []*subscriber{watcher, givenP, givenQ} {
		sub.Close()
	}
}

// subscribeSlow has a slow subscriber, which never calls Next, and a fast one.
func subscribeSlow(t *testing.T, s *tester) {
	const maxWaiting = 20_000 // as store.Subscription says
	slow, _ := s.subscribe("k", "192.0.2.9:0")
	fast, _ := s.subscribe("k", "192.0.2.8:0")
	closed, _ := s.subscribe("k", "192.0.2.7:7")
	closed.Close()                                // nothing waits for this one either
	for i := range s.few(2 * maxWaiting / 1000) { // each has 2000 changes
		s.together(1000, func(j int) { s.announceFor(time.Hour, "k", numbered(1000*i+j), 0) })
		time.Sleep(tolerance)
		fast.next()
		s.together(1000, func(j int) { s.leave("k", numbered(1000*i+j).Endpoint.String()) })
		time.Sleep(tolerance)
		fast.next()
	}
	if fast.next(); !fast.live || len(fast.sees) != 0 {
		t.Errorf("the fast subscriber: live %v, sees %d peers", fast.live, len(fast.sees))
	}
	if changes, live := slow.all(); live || len(changes) > maxWaiting {
		t.Errorf("the slow subscriber: live %v, %d changes", live, len(changes))
	}
	slow.Close()
	fast.Close()
}

func subscribeLarge(t *testing.T, s *tester) {
	const maxStreamed = 10_000 // as store.Store says
	s.together(maxStreamed, func(i int) { s.announceFor(time.Hour, "k", numbered(i), 0) })
	earlier, given := s.subscribe("k", "192.0.2.9:9") // and is one peer more
	if n := len(strings.Fields(given)); n != maxStreamed {
		t.Fatalf("%d peers given, want %d", n, maxStreamed)
	}
	for _, self := range []string{"192.0.2.8:0", "192.0.2.8:8"} {
		_, _, sub, err := s.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort(self)}, func() {}, nil)
		var full *store.FullError
		if !errors.As(err, &full) || !full.Stream || sub != nil {
			t.Errorf("%s subscribes: %v", self, err)
		}
	}
	s.expect("the refused peer is not listed", s.index("192.0.2.9", "k"), `"k":10001`)
	s.announce("k", "192.0.2.1:1", 0)
	earlier.expect("the earlier subscription goes on", "+192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	earlier.Close()
	again, _ := s.subscribe("k", "192.0.2.8:8") // 10,000 peers are not too many
	again.Close()
}

// epoch compares the epochs of one store with that of another, which does not share its peers.
func epoch(t *testing.T, s, other *tester) {
	var age time.Duration
	epochOf := func(s *tester, endpoint string) string {
		sub, _ := s.subscribe("k", endpoint)
		defer sub.Close()
		age = sub.Age()
		return sub.Epoch()
	}
	first := epochOf(s, "192.0.2.1:1")
	young := age
	if young > time.Minute {
		t.Errorf("a new table is %v old", young)
	}
	if first == "" || len(first) > 64 || strings.ContainsFunc(first, func(r rune) bool { return r <= ' ' || r > '~' }) {
		t.Errorf("epoch %q is not well-formed", first)
	}
	time.Sleep(time.Hour)
	if later := epochOf(s, "192.0.2.2:0"); later != first {
		t.Errorf("epoch %q, and an hour later %q", first, later)
	}
	if later := age - young; young >= 0 && (later < time.Hour-2*time.Second || later > time.Hour+time.Minute) {
		t.Errorf("a table is %v old, and an hour later %v", young, age)
	}
	if epochOf(other, "192.0.2.1:1") == first {
		t.Errorf("two stores have the epoch %q", first)
	}
}
