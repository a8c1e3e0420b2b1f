package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// told is how soon a change has to be told of.
const told = time.Second

func subscribe(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	s.announce("k", "[2001:db8::1]:1", 0)
	s.announce("other", "192.0.2.5:5", 0)
	w, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("a looker is given", given, "192.0.2.1:1 [2001:db8::1]:1")
	m, given := s.subscribe("k", "192.0.2.2:2")
	s.expect("a member is given", given, "192.0.2.1:1 [2001:db8::1]:1")
	w.expect("a member", "+192.0.2.2:2")
	s.expectLook("a member is listed, and no looker", "k", "192.0.2.9", "192.0.2.1:1 192.0.2.2:2 [2001:db8::1]:1")
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

	// A key without a track is one to subscribe to, and a member makes a track.
	id := wire.ID{1}
	_, sub, err := s.Subscribe(t.Context(), []byte("id"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:2"), ID: id}, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if peers, _ := s.look("id", "192.0.2.9", 1); len(peers) != 1 || peers[0].ID != id {
		t.Errorf("a member with an id: %v", peers)
	}
	sub.Close()
	w, given = s.subscribe("new", "192.0.2.9:0")
	s.expect("given of nothing", given, "")
	s.expect("a looker makes no track", s.index("127.0.0.1", "new"), `"new":0`)
	m, _ = s.subscribe("new", "192.0.2.2:2")
	s.expect("a member does", s.index("127.0.0.1", "new"), `"new":1`)
	w.expect("who comes first", "+192.0.2.2:2")
	m.sub.Close()
	w.expect("and goes last", "-192.0.2.2:2")
	s.announce("new", "192.0.2.2:2", 0)
	w.expect("and comes again", "+192.0.2.2:2")
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
		time.Sleep(300 * time.Millisecond) // lapses are between the seconds
		for i := range n {
			s.announceFor(time.Hour, key, numbered(i), 0)
		}
		s.announceFor(20*time.Second, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		for i := range 8 { // whatever a store does every few seconds
			s.announceFor(time.Duration(40+i)*time.Second, key, wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(1+i))}, 0)
		}
		w, _ := s.subscribe(key, "192.0.2.9:0")
		time.Sleep(19 * time.Second)
		s.expect("before", w.next(), "")
		time.Sleep(2 * time.Second) // to the second, and told within one more
		w.expect("a lapse", "-192.0.2.1:1")
		time.Sleep(17 * time.Second)
		w.expect("another", "")
		for i := range 8 {
			w.expect("another", fmt.Sprintf("-[2001:db8::1]:%d", 1+i))
		}
		w.sub.Close()
		// Who is not told of the joins is not told of the leaves.
		s.announceFor(10*time.Second, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		time.Sleep(11 * time.Second)
		w, _ = s.subscribe(key, "192.0.2.9:0")
		s.expect("one who has lapsed is given", fmt.Sprint(w.view[netip.MustParseAddrPort("192.0.2.1:1")]), "false")
		w.expect("at rest", "")
		s.announceFor(ttl, key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 0)
		w.expect("one who comes again", "+192.0.2.1:1")
		w.sub.Close()
	}
}

// subscribeHolds goes through the ways in which subscriptions and announces can hold a peer.
func subscribeHolds(t *testing.T, s *tester) {
	const p = "192.0.2.1:1"
	w, _ := s.subscribe("k", "192.0.2.9:0")
	there := func(what, told string, is bool) {
		t.Helper()
		w.expect(what, told)
		s.expect(what, s.index("192.0.2.9", "k"), map[bool]string{true: `"k":1`, false: `"k":0`}[is])
	}
	a, _ := s.subscribe("k", p)
	there("a subscription", "+"+p, true)
	time.Sleep(30 * time.Hour)
	there("a long one", "", true)
	b, given := s.subscribe("k", p)
	s.expect("the same peer is given", given, "")
	a.sub.Close()
	there("the first of two has ended", "", true)
	c, _ := s.subscribe("k", p)
	c.sub.Close()
	there("one comes and goes beside it", "", true)
	time.Sleep(10 * time.Hour)
	b.sub.Close()
	there("the last has ended", "-"+p, false)

	s.announce("k", p, 0)
	there("an announce", "+"+p, true)
	a, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	time.Sleep(100 * time.Second)
	a.sub.Close()
	there("the announce outlasts the subscription", "", true)
	time.Sleep(ttl - 100*time.Second - 4*time.Second)
	there("until its time", "", true)
	time.Sleep(4 * time.Second)
	there("has come", "-"+p, false)

	s.announceFor(2*ttl, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	there("an announce for long", "+"+p, true)
	a, _ = s.subscribe("k", p)
	b, _ = s.subscribe("k", p)
	s.announce("k", p, 0) // which shortens nothing
	b.sub.Close()
	a.sub.Close()
	time.Sleep(2*ttl - 4*time.Second)
	there("is held as long as before", "", true)
	time.Sleep(4 * time.Second)
	there("and no longer", "-"+p, false)

	a, _ = s.subscribe("k", p)
	s.announce("k", p, 0)
	there("an announce under a subscription", "+"+p, true)
	time.Sleep(2 * ttl)
	a.sub.Close()
	there("that has lapsed under it", "-"+p, false)

	s.announce("k", p, 0)
	there("an announce, again", "+"+p, true)
	a, _ = s.subscribe("k", p)
	time.Sleep(ttl - 20*time.Second)
	s.announce("k", p, 0)
	time.Sleep(100 * time.Second)
	there("its first announce has lapsed", "", true)
	a.sub.Close()
	time.Sleep(ttl - 100*time.Second - 4*time.Second)
	there("its second has not", "", true)
	time.Sleep(4 * time.Second)
	there("and now it has", "-"+p, false)

	s.announceFor(time.Second, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	a, _ = s.subscribe("k", p)
	s.announceFor(3*time.Hour, "k", wire.Peer{Endpoint: netip.MustParseAddrPort(p)}, 0)
	time.Sleep(20 * time.Hour)
	a.sub.Close()
	there("an announce that lapsed long ago", "+"+p+" -"+p, false)

	// Each key and each port for itself.
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

// subscribeLeave has Leave end every hold on a peer, and its subscriptions.
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
	if a.wakes.Load() == 0 || b.wakes.Load() == 0 {
		t.Error("the end was not told at once")
	}
	w.expect("one leaves", "-192.0.2.1:1")
	a.expect("who leaves", "end")
	b.next()
	if b.live {
		t.Error("a second subscription goes on")
	}
	for _, f := range []*follower{same, c, l} {
		if f.next(); !f.live {
			t.Errorf("%v of %q has ended, too", f.self, f.key)
		}
	}
	a.sub.Close()
	d, _ := s.subscribe("k", "192.0.2.1:1")
	b.sub.Close() // and takes nothing with it
	w.expect("it comes again", "+192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	w.expect("out and in at once", "")
	d.sub.Close()
	w.expect("an announce holds it", "")
	for _, f := range []*follower{w, same, c, l} {
		f.sub.Close()
	}
	time.Sleep(ttl + settle)
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// subscribeBurst has changes that undo each other at once.
func subscribeBurst(t *testing.T, s *tester) {
	const p, q = "192.0.2.1:1", "192.0.2.1:2"
	w, _ := s.subscribe("k", "192.0.2.9:0")
	s.announce("k", p, 0)
	s.leave("k", p)
	w.expect("in and out", "")
	s.announce("k", p, 0)
	time.Sleep(45 * time.Millisecond)
	s.leave("k", p)
	w.expect("in and a moment later out", "")
	s.announce("k", p, 0)
	s.announce("k", q, 0)
	s.leave("k", p)
	w.expect("in and out beside another", "+"+q)
	s.leave("k", q)
	s.announce("k", q, 0)
	w.expect("out and in", "")
	s.leave("k", q)
	s.announce("k", q, 0)
	s.leave("k", q)
	w.expect("out, in and out", "-"+q)
	// One who subscribes in the middle has been given what was then.
	s.announce("k", p, 0)
	m, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given in the middle", given, p)
	s.leave("k", p)
	s.announce("k", q, 0)
	n, given := s.subscribe("k", "192.0.2.9:0")
	s.expect("given in the middle", given, q)
	s.announce("k", p, 0)
	s.leave("k", q)
	w.expect("from the start", "+"+p)
	s.expect("from the middle", m.next(), "")
	s.expect("from the end", n.next(), "+"+p+" -"+q)
	for _, f := range []*follower{w, m, n} {
		f.sub.Close()
	}
}

// subscribeSlow has a subscriber who does not listen.
func subscribeSlow(t *testing.T, s *tester) {
	slow, _ := s.subscribe("k", "192.0.2.9:0")
	w, _ := s.subscribe("k", "192.0.2.8:0")
	m, _ := s.subscribe("k", "192.0.2.7:7")
	m.sub.Close()
	for i := range 40 {
		for j := range 1000 {
			s.announceFor(time.Hour, "k", numbered(1000*i+j), 0)
		}
		time.Sleep(told)
		w.next()
		for j := range 1000 {
			s.leave("k", numbered(1000*i+j).Endpoint.String())
		}
		time.Sleep(told)
		w.next()
	}
	if w.next(); !w.live || len(w.view) != 0 {
		t.Errorf("one who listens: live %v, sees %d", w.live, len(w.view))
	}
	if changes, live := slow.sub.Next(nil); live || len(changes) > 20_000 {
		t.Errorf("one who does not has %d changes waiting, live %v", len(changes), live)
	}
	slow.sub.Close()
	w.sub.Close()
}

// subscribeLarge has a track that is too large to be told of.
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
	s.expect("who was refused has joined nothing", s.index("192.0.2.9", "k"), `"k":10001`)
	s.announce("k", "192.0.2.1:1", 0)
	w.expect("who was there first", "+192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	w.sub.Close()
	w, _ = s.subscribe("k", "192.0.2.8:8")
	w.sub.Close()
}

// followed does what comes to mind, and sees that all who subscribe see what there is. Time passes
// in even seconds and a ttl is odd.
func followed(t *testing.T, s *tester) {
	type held struct {
		expiry time.Time
		holds  int
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	keys := []string{"a", "b"}
	endpoints := somePeers(40)
	model := map[string]map[netip.AddrPort]held{"a": {}, "b": {}}
	visible := func(key string, asker netip.AddrPort) []string {
		var all []string
		for e, h := range model[key] {
			if h.holds == 0 && !time.Now().Before(h.expiry) {
				delete(model[key], e)
			} else if e != asker && wire.ScopeOf(asker.Addr()).Sees(wire.ScopeOf(e.Addr())) {
				all = append(all, e.String())
			}
		}
		slices.Sort(all)
		return all
	}
	var followers []*follower
	finish := func(i int) {
		f := followers[i]
		followers = slices.Delete(followers, i, i+1)
		if h, ok := model[f.key][f.self]; ok && !f.left && f.self.Port() != 0 {
			h.holds--
			model[f.key][f.self] = h
		}
		visible(f.key, f.self)
		f.sub.Close()
	}
	for step := range 6000 {
		key, e := keys[r.IntN(len(keys))], endpoints[r.IntN(len(endpoints))]
		switch what := r.IntN(100); {
		case what < 35:
			ttl := time.Duration(1+2*r.IntN(100)) * time.Second
			visible(key, e)
			h := model[key][e]
			if until := time.Now().Add(ttl); until.After(h.expiry) {
				h.expiry = until
			}
			model[key][e] = h
			s.announceFor(ttl, key, wire.Peer{Endpoint: e}, 0)
		case what < 50:
			delete(model[key], e)
			for _, f := range followers {
				if f.key == key && f.self == e {
					f.left = true
				}
			}
			s.leave(key, e.String())
		case what < 65 && len(followers) < 30:
			want := visible(key, e)
			if r.IntN(4) == 0 {
				e = netip.AddrPortFrom(e.Addr(), 0)
				want = visible(key, e)
			} else {
				h := model[key][e]
				h.holds++
				model[key][e] = h
			}
			f, given := s.subscribe(key, e.String())
			s.expect("given", given, strings.Join(want, " "))
			followers = append(followers, f)
		case what < 80 && len(followers) > 0:
			finish(r.IntN(len(followers)))
		case what < 97:
		default:
			time.Sleep(time.Duration(2+2*r.IntN(20)) * time.Second)
			synctest.Wait()
			for _, f := range followers {
				if f.next(); f.live == f.left {
					t.Errorf("%v of %q: live %v", f.self, f.key, f.live)
				}
				if f.left {
					continue
				}
				var sees []string
				for e := range f.view {
					sees = append(sees, e.String())
				}
				slices.Sort(sees)
				s.expect(fmt.Sprintf("%v of %q sees", f.self, f.key), strings.Join(sees, " "), strings.Join(visible(f.key, f.self), " "))
			}
		}
		if t.Failed() {
			t.Fatalf("at step %d of seed %d", step, seed)
		}
	}
	for len(followers) > 0 {
		finish(0)
	}
	time.Sleep(time.Hour)
	s.expect("in the end", s.index("127.0.0.1"), "")
}
