// Package storetest is the contract of store.Store as tests: every sentence of the interface's
// comments, one by one. A store passes it in virtual time:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return mystore.New() })
//	}
//
// Each test runs in a synctest bubble of its own, and the store is made inside it, so a store has
// to take its time from package time.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Run holds the stores that make returns, each empty, against the contract.
func Run(t *testing.T, make func(*testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *tester)
	}{
		{"a peer is listed once and renewed", renewal},
		{"a peer lapses, and a renewal never shortens", expiry},
		{"leaving is at once, and harmless when absent", leave},
		{"an announcer is not given itself", notYourself},
		{"askers get their own scope and wider ones", scopes},
		{"a sample is random, fresh and without repetition", sample},
		{"each family gets its quarter", quarter},
		{"an id is kept, replaced and taken away", ids},
		{"scrape counts what is asked for, or everything", scrape},
		{"keys are opaque and not kept by reference", keys},
		{"results are appended", appended},
		{"the ttl can follow the size", sizes},
		{"a caller sees its own changes", concurrency},
		{"of two that announce at once one finds the other", atOnce},
		{"a prompt store never waits", prompt},
		{"an epoch names the life of a table", func(t *testing.T, s *tester) { epoch(t, s, &tester{t, make(t)}) }},
		{"a subscriber is told who joins and leaves", subscribe},
		{"a subscriber is told of what he sees", subscribeScopes},
		{"a subscriber is told of lapses", subscribeLapse},
		{"a peer is there while anything holds it", subscribeHolds},
		{"leaving ends subscriptions", subscribeLeave},
		{"a burst that comes to nothing is not told", subscribeBurst},
		{"nobody waits for a slow subscriber", subscribeSlow},
		{"a large track is not for telling", subscribeLarge},
		{"anything in any order, followed", followed},
		{"counts leave out who has lapsed", counts},
		{"each lapses at its own time", eachInTime},
		{"no ttl is too long", longest},
		{"a large track with many lapsed peers", large},
		{"a large track with one family lapsed", oneFamily},
		{"days and weeks", forDays},
		{"anything in any order", churn},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.test(t, &tester{t, make(t)}) })
		})
	}
}

// tester makes calls short and fails the test at every error.
type tester struct {
	t *testing.T
	store.Store
}

const ttl = 150 * time.Second

func (s *tester) announce(key, endpoint string, want int) ([]wire.Peer, store.Result) {
	s.t.Helper()
	return s.announceFor(ttl, key, wire.Peer{Endpoint: netip.MustParseAddrPort(endpoint)}, want)
}

func (s *tester) announceFor(ttl time.Duration, key string, p wire.Peer, want int) ([]wire.Peer, store.Result) {
	s.t.Helper()
	var sizes []store.Size
	peers, res, err := s.Announce(context.Background(), []byte(key), p, func(size store.Size) time.Duration {
		sizes = append(sizes, size)
		return ttl
	}, store.Want{Peers: want, IDs: true}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if !slices.Contains(sizes, res.Size) {
		s.t.Fatalf("the ttl was asked for %+v, and the result has %+v", sizes, res.Size)
	}
	return peers, res
}

// lasting is a ttl that follows nothing.
func lasting(ttl time.Duration) func(store.Size) time.Duration {
	return func(store.Size) time.Duration { return ttl }
}

func (s *tester) leave(key, endpoint string) {
	s.t.Helper()
	if err := s.Leave(context.Background(), []byte(key), netip.MustParseAddrPort(endpoint)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tester) look(key, asker string, want int) ([]wire.Peer, int) {
	s.t.Helper()
	peers, res, err := s.Look(context.Background(), []byte(key), netip.MustParseAddr(asker), store.Want{Peers: want, IDs: true}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return peers, res.Count
}

func (s *tester) index(asker string, keys ...string) string {
	s.t.Helper()
	var ks []wire.Key
	for _, k := range keys {
		ks = append(ks, wire.KeyOf([]byte(k)))
	}
	tracks, err := s.Scrape(context.Background(), ks, netip.MustParseAddr(asker), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, tr := range tracks {
		out = append(out, fmt.Sprintf("%q:%d", tr.Key.Bytes(), tr.Count))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func show(peers []wire.Peer) string {
	var s []string
	for _, p := range peers {
		s = append(s, p.Endpoint.String())
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

func (s *tester) expect(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (s *tester) expectLook(what, key, asker, want string) {
	s.t.Helper()
	peers, n := s.look(key, asker, 1000)
	s.expect(what, show(peers), want)
	if n != len(strings.Fields(want)) {
		s.t.Errorf("%s: count %d, want %d", what, n, len(strings.Fields(want)))
	}
}

func renewal(t *testing.T, s *tester) {
	if _, r := s.announce("k", "192.0.2.1:1", 50); r.Count != 1 {
		t.Errorf("first announce: %+v", r)
	}
	if _, r := s.announce("k", "192.0.2.1:1", 50); r.Count != 1 {
		t.Errorf("again: %+v", r)
	}
	if peers, r := s.announce("k", "192.0.2.1:2", 50); r.Count != 2 || show(peers) != "192.0.2.1:1" {
		t.Errorf("another port is another peer: %v, %+v", peers, r)
	}
	if peers, r := s.announce("k", "[2001:db8::1]:1", 50); r.Count != 3 || show(peers) != "192.0.2.1:1 192.0.2.1:2" {
		t.Errorf("another family: %v, %+v", peers, r)
	}
}

func expiry(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	time.Sleep(100 * time.Second)
	s.announce("k", "192.0.2.2:1", 0)
	s.announceFor(10*time.Second, "k", wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:1")}, 0)
	time.Sleep(49 * time.Second)
	s.expectLook("within the ttl", "k", "192.0.2.9", "192.0.2.1:1 192.0.2.2:1")
	time.Sleep(2 * time.Second)
	s.expectLook("one has lapsed", "k", "192.0.2.9", "192.0.2.2:1")
	s.expect("scrape", s.index("192.0.2.9", "k"), `"k":1`)
	time.Sleep(98 * time.Second)
	s.expectLook("renewed for a shorter time", "k", "192.0.2.9", "192.0.2.2:1")
	time.Sleep(2 * time.Second)
	s.expectLook("both have lapsed", "k", "192.0.2.9", "")
	s.expect("index", s.index("192.0.2.9"), "")
	if _, r := s.announce("k", "192.0.2.1:1", 0); r.Count != 1 || r.Size.Age != 0 {
		t.Errorf("a peer that lapsed comes back: %+v", r)
	}
}

func leave(t *testing.T, s *tester) {
	s.leave("nothing", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	s.announce("k", "192.0.2.2:1", 0)
	s.leave("k", "192.0.2.1:2")
	s.leave("k", "192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	s.expectLook("after leaving", "k", "192.0.2.9", "192.0.2.2:1")
	if _, r := s.announce("k", "192.0.2.1:1", 0); r.Count != 2 {
		t.Errorf("a peer that left comes back: %+v", r)
	}
	s.leave("k", "192.0.2.1:1")
	s.leave("k", "192.0.2.2:1")
	s.expect("an empty track", s.index("127.0.0.1"), "")
}

func notYourself(t *testing.T, s *tester) {
	for _, e := range []string{"192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"} {
		s.announce("k", e, 0)
	}
	for range 50 {
		if peers, _ := s.announce("k", "192.0.2.1:1", 2); show(peers) != "192.0.2.2:1 [2001:db8::1]:1" {
			t.Fatalf("given %v", peers)
		}
		if peers, _ := s.announce("k", "192.0.2.1:1", 0); len(peers) != 0 {
			t.Fatalf("none wanted, given %v", peers)
		}
	}
}

func scopes(t *testing.T, s *tester) {
	all := map[string]string{"127.0.0.1": "127.0.0.1:1", "169.254.0.1": "169.254.0.1:1", "10.0.0.1": "10.0.0.1:1", "192.0.2.1": "192.0.2.1:1", "2001:db8::1": "[2001:db8::1]:1"}
	sees := map[string]string{
		"127.0.0.1":   "10.0.0.1:1 127.0.0.1:1 169.254.0.1:1 192.0.2.1:1 [2001:db8::1]:1",
		"169.254.0.1": "10.0.0.1:1 169.254.0.1:1 192.0.2.1:1 [2001:db8::1]:1",
		"10.0.0.1":    "10.0.0.1:1 192.0.2.1:1 [2001:db8::1]:1",
		"192.0.2.1":   "192.0.2.1:1 [2001:db8::1]:1",
		"2001:db8::1": "192.0.2.1:1 [2001:db8::1]:1",
	}
	for _, e := range all {
		s.announce("k", e, 0)
	}
	s.announce("here", "127.0.0.1:1", 0)
	for asker, want := range sees {
		s.expectLook("seen from "+asker, "k", asker, want)
		n := len(strings.Fields(want))
		peers, r := s.announce("k", all[asker], 1000)
		if len(peers) != n-1 || r.Count != n {
			t.Errorf("announced from %s: %d peers, count %d; want %d and %d", asker, len(peers), r.Count, n-1, n)
		}
		s.expect("scraped from "+asker, s.index(asker, "k"), fmt.Sprintf(`"k":%d`, n))
	}
	s.expect("index from outside", s.index("192.0.2.1"), `"k":2`)
	s.expect("index from here", s.index("127.0.0.1"), `"here":1 "k":5`)
	// A few that can be seen among many that cannot.
	for i := range 200 {
		s.announce("lan", fmt.Sprintf("10.0.0.2:%d", i+1), 0)
	}
	s.announce("lan", "192.0.2.1:1", 0)
	s.announce("lan", "192.0.2.1:2", 0)
	if peers, r := s.announce("lan", "192.0.2.1:3", 1); len(peers) != 1 || !strings.HasPrefix(show(peers), "192.0.2.1:") || r.Count != 3 {
		t.Errorf("a sample among hidden ones: %v, %+v", peers, r)
	}
}

// sample draws often enough that a store which favours some peers stands out: the chi-square
// statistic of 300 peers (299 degrees of freedom) is beyond 450 once in ten million runs.
func sample(t *testing.T, s *tester) {
	const n, want, rounds = 300, 20, 3000
	for i := range n {
		s.announceFor(time.Hour, "k", wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(1000+i))}, 0)
	}
	given := map[netip.AddrPort]int{}
	var last string
	same := 0
	for range rounds {
		peers, count := s.look("k", "192.0.2.9", want)
		if len(peers) != want || count != n {
			t.Fatalf("%d peers of %d", len(peers), count)
		}
		round := map[netip.AddrPort]bool{}
		for _, p := range peers {
			given[p.Endpoint]++
			round[p.Endpoint] = true
		}
		if len(round) != want {
			t.Fatal("a peer twice in one sample")
		}
		if now := show(peers); now == last {
			same++
		} else {
			last = now
		}
	}
	if same > 0 {
		t.Errorf("%d samples were the one before", same)
	}
	expected, chi := float64(rounds*want)/n, 0.0
	for i := range n {
		d := float64(given[netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(1000+i))]) - expected
		chi += d * d / expected
	}
	if chi > 450 {
		t.Errorf("chi-square %.0f: some peers are given more often than others", chi)
	}
}

func quarter(t *testing.T, s *tester) {
	for i := range 200 {
		s.announce("k", fmt.Sprintf("192.0.2.1:%d", i+1), 0)
	}
	families := func(want int) (n4, n6 int) {
		peers, _ := s.look("k", "192.0.2.9", want)
		for _, p := range peers {
			if p.Endpoint.Addr().Is4() {
				n4++
			} else {
				n6++
			}
		}
		return n4, n6
	}
	for i, want6 := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 13} {
		s.announce("k", fmt.Sprintf("[2001:db8::1]:%d", i+1), 0)
		if n4, n6 := families(50); n4 != 50-want6 || n6 != want6 {
			t.Errorf("of %d in IPv6: %d and %d given, want %d and %d", i+1, n4, n6, 50-want6, want6)
		}
	}
	for i := range 400 {
		s.announce("k", fmt.Sprintf("[2001:db8::2]:%d", i+1), 0)
	}
	if n4, n6 := families(50); n4+n6 != 50 || n4 < 13 || n6 < 13 {
		t.Errorf("%d and %d given", n4, n6)
	}
	saw4, saw6 := 0, 0
	for range 200 {
		n4, n6 := families(1)
		saw4, saw6 = saw4+n4, saw6+n6
	}
	if saw4+saw6 != 200 || saw4 == 0 || saw6 == 0 {
		t.Errorf("one at a time: %d and %d of 200", saw4, saw6)
	}
	if n4, n6 := families(1000); n4 != 200 || n6 != 415 {
		t.Errorf("all: %d and %d", n4, n6)
	}
}

func ids(t *testing.T, s *tester) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, id := range []wire.ID{{}, wire.ID([]byte("aaaaaaaaaaaaaaaaaaaa")), wire.ID([]byte("bbbbbbbbbbbbbbbbbbbb")), {}} {
		s.announceFor(ttl, "k", wire.Peer{Endpoint: e, ID: id}, 0)
		if peers, _ := s.look("k", "192.0.2.9", 1); len(peers) != 1 || peers[0].ID != id {
			t.Errorf("announced with id %q, given %v", id, peers)
		}
		if peers, _, err := s.Look(t.Context(), []byte("k"), e.Addr(), store.Want{Peers: 1}, nil); err != nil || len(peers) != 1 || peers[0].ID != (wire.ID{}) {
			t.Errorf("announced with id %q, given %v to one who does not want it, %v", id, peers, err)
		}
	}
	// It goes with the peer: whoever has the endpoint next does not inherit it.
	named := wire.Peer{Endpoint: e, ID: wire.ID([]byte("cccccccccccccccccccc"))}
	s.announce("k", "192.0.2.2:1", 0)
	for _, gone := range []func(){func() { s.leave("k", "192.0.2.1:1") }, func() { time.Sleep(ttl + time.Second) }} {
		s.announceFor(ttl, "k", named, 0)
		gone()
		s.announce("k", "192.0.2.1:1", 0)
		if peers, _ := s.announce("k", "192.0.2.2:1", 1); len(peers) != 1 || peers[0].ID != (wire.ID{}) {
			t.Errorf("inherited: %v", peers)
		}
	}
}

func scrape(t *testing.T, s *tester) {
	s.announce("a", "192.0.2.1:1", 0)
	s.announce("a", "192.0.2.2:1", 0)
	s.announce("b\x00\xff", "192.0.2.1:1", 0)
	s.expect("some", s.index("192.0.2.9", "a", "c"), `"a":2 "c":0`)
	s.expect("all", s.index("192.0.2.9"), `"a":2 "b\x00\xff":1`)
}

func keys(t *testing.T, s *tester) {
	key := []byte("abc")
	p := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	if _, _, err := s.Announce(t.Context(), key, p, lasting(ttl), store.Want{}, nil); err != nil {
		t.Fatal(err)
	}
	copy(key, "xyz")
	s.announce("ABC", "192.0.2.2:1", 0)
	long := string(bytes.Repeat([]byte{0xff}, wire.MaxKey))
	s.announce(long, "192.0.2.3:1", 0)
	s.expectLook("abc", "abc", "192.0.2.9", "192.0.2.1:1")
	s.expectLook("ABC", "ABC", "192.0.2.9", "192.0.2.2:1")
	s.expectLook("xyz", "xyz", "192.0.2.9", "")
	s.expectLook("the longest", long, "192.0.2.9", "192.0.2.3:1")
}

func appended(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	before := []wire.Peer{{Endpoint: netip.MustParseAddrPort("203.0.113.1:1")}}
	looked, _, err := s.Look(t.Context(), []byte("k"), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: 5}, before)
	if err != nil || show(looked) != "192.0.2.1:1 203.0.113.1:1" || looked[0] != before[0] {
		t.Errorf("look: %v, %v", looked, err)
	}
	announced, _, err := s.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:1")}, lasting(ttl), store.Want{Peers: 5}, before)
	if err != nil || show(announced) != "192.0.2.1:1 203.0.113.1:1" || announced[0] != before[0] {
		t.Errorf("announce: %v, %v", announced, err)
	}
}

// sizes has tracks grow, age, lapse and begin anew.
func sizes(t *testing.T, s *tester) {
	began := time.Now()
	expect := func(what string, r store.Result, want store.Size) {
		t.Helper()
		if r.Size != want {
			t.Errorf("%s: size %+v, want %+v", what, r.Size, want)
		}
	}
	look := func(what, key string, want store.Size) {
		t.Helper()
		_, r, err := s.Look(t.Context(), []byte(key), netip.MustParseAddr("192.0.2.9"), store.Want{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		expect(what, r, want)
	}
	look("nobody yet", "k", store.Size{})
	_, r := s.announce("k", "192.0.2.1:1", 0)
	expect("the first", r, store.Size{Peers: 1, Total: 1})
	time.Sleep(90 * time.Second)
	_, r = s.announce("k", "10.0.0.1:1", 0)
	expect("one whom not everybody sees", r, store.Size{Peers: 2, Total: 2, Age: 90 * time.Second})
	_, r = s.announce("k", "[2001:db8::1]:1", 0)
	expect("and of the other family", r, store.Size{Peers: 3, Total: 3, Age: 90 * time.Second})
	_, r = s.announce("k", "192.0.2.1:1", 0)
	expect("a renewal", r, store.Size{Peers: 3, Total: 3, Age: 90 * time.Second})
	_, r = s.announce("l", "192.0.2.1:1", 0)
	expect("another track", r, store.Size{Peers: 1, Total: 4})
	look("a look", "k", store.Size{Peers: 3, Total: 4, Age: 90 * time.Second})
	look("a look at nothing", "m", store.Size{Total: 4})
	s.leave("k", "10.0.0.1:1")
	look("one has left", "k", store.Size{Peers: 2, Total: 3, Age: 90 * time.Second})
	time.Sleep(ttl + settle)
	look("all have lapsed", "k", store.Size{})
	_, r = s.announce("k", "192.0.2.1:1", 0)
	expect("a track that begins anew", r, store.Size{Peers: 1, Total: 1})

	// An age grows for as long as a track is there, in whole seconds.
	for time.Since(began) < 60*time.Hour {
		time.Sleep(ttl - 500*time.Millisecond)
		_, r = s.announce("k", "192.0.2.1:1", 0)
		last := time.Since(began) - 90*time.Second - ttl - settle
		expect("an old track", r, store.Size{Peers: 1, Total: 1, Age: last.Truncate(time.Second)})
		if t.Failed() {
			t.FailNow()
		}
	}

	// One that a subscriber begins has the age of its subscription.
	f, _ := s.subscribe("m", "192.0.2.1:1")
	time.Sleep(30 * time.Second)
	_, r = s.announce("m", "192.0.2.1:2", 0)
	expect("a track that a subscriber began", r, store.Size{Peers: 2, Total: 3, Age: 30 * time.Second})
	f.sub.Close()
	s.leave("m", "192.0.2.1:2")

	// A ttl that follows the size: a peer is promised more the more there are.
	for i := range 5 {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
		_, _, err := s.Announce(t.Context(), []byte("n"), p, func(size store.Size) time.Duration { return time.Duration(10*size.Peers+5) * time.Second }, store.Want{}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(10 * time.Second)
	for i := range 5 {
		s.expect("in the course of time", s.index("192.0.2.9", "n"), fmt.Sprintf(`"n":%d`, 5-i))
		time.Sleep(10 * time.Second)
	}
	s.expect("in the end", s.index("192.0.2.9", "n"), `"n":0`)
}

func concurrency(t *testing.T, s *tester) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			me := fmt.Sprintf("192.0.2.%d:1", g+1)
			for range 200 {
				s.announce("k", me, 3)
				if peers, _ := s.look("k", "192.0.2.99", 100); !strings.Contains(show(peers), me) {
					t.Errorf("%s announced and is not there", me)
				}
				s.leave("k", me)
				if peers, _ := s.look("k", "192.0.2.99", 100); strings.Contains(show(peers), me) {
					t.Errorf("%s left and is there", me)
				}
				s.index("192.0.2.99")
			}
		})
	}
	wg.Wait()
	s.expect("in the end", s.index("127.0.0.1"), "")
}

// atOnce has two peers announce at the same moment: at least one of them must find the other.
func atOnce(t *testing.T, s *tester) {
	for i := range 200 {
		key := fmt.Sprint("k", i)
		var found atomic.Int32
		var wg sync.WaitGroup
		for _, e := range []string{"192.0.2.1:1", "192.0.2.2:2"} {
			wg.Go(func() {
				peers, _ := s.announce(key, e, 1)
				found.Add(int32(len(peers)))
			})
		}
		wg.Wait()
		if found.Load() == 0 {
			t.Fatal("two peers announced, and neither was given the other")
		}
	}
}

// prompt calls every method of a store that says that it is prompt: no time passes meanwhile, even
// where the context has ended.
func prompt(t *testing.T, s *tester) {
	if !s.Prompt() {
		return
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	peer := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	_, _, announce := s.Announce(ended, []byte("k"), peer, lasting(ttl), store.Want{Peers: 1}, nil)
	_, _, look := s.Look(ended, []byte("k"), peer.Endpoint.Addr(), store.Want{Peers: 1}, nil)
	_, scrape := s.Scrape(ended, nil, peer.Endpoint.Addr(), nil)
	_, sub, subscribe := s.Subscribe(ended, []byte("k"), peer, func() {}, nil)
	leave := s.Leave(ended, []byte("k"), peer.Endpoint)
	if err := errors.Join(announce, look, scrape, subscribe, leave); err != nil {
		t.Fatal(err)
	}
	sub.Next(nil)
	sub.Close()
	if waited := time.Since(began); waited > 0 {
		t.Errorf("a prompt store has waited for %v", waited)
	}
}

// epoch compares subscriptions to one store with those to another, which knows none of its peers.
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
