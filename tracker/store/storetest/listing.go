package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// endpoints checks that a peer is its endpoint: announcing an endpoint again adds no peer, and another
// port or address does.
func endpoints(t *testing.T, s *tester) {
	if _, r := s.announce("k", "192.0.2.1:1", 50); r.Count != 1 {
		t.Errorf("the first announce: %+v", r)
	}
	if _, r := s.announce("k", "192.0.2.1:1", 50); r.Count != 1 {
		t.Errorf("the same endpoint again: %+v", r)
	}
	if peers, r := s.announce("k", "192.0.2.1:2", 50); r.Count != 2 || show(peers) != "192.0.2.1:1" {
		t.Errorf("another port: %v, %+v", peers, r)
	}
	if peers, r := s.announce("k", "[2001:db8::1]:1", 50); r.Count != 3 || show(peers) != "192.0.2.1:1 192.0.2.1:2" {
		t.Errorf("another family: %v, %+v", peers, r)
	}
}

// leave checks that a leave removes this peer alone, immediately, and the track with its last peer.
func leave(t *testing.T, s *tester) {
	s.leave("nothing", "192.0.2.1:1")
	s.announce("k", "192.0.2.1:1", 0)
	s.announce("k", "192.0.2.2:1", 0)
	s.leave("k", "192.0.2.1:2")
	s.leave("k", "192.0.2.1:1")
	s.leave("k", "192.0.2.1:1")
	s.expectLook("after a leave", "k", "192.0.2.9", "192.0.2.2:1")
	if _, r := s.announce("k", "192.0.2.1:1", 0); r.Count != 2 {
		t.Errorf("a peer that left joins again: %+v", r)
	}
	s.leave("k", "192.0.2.1:1")
	s.leave("k", "192.0.2.2:1")
	s.expect("after all peers have left", s.index("127.0.0.1"), "")
}

// remove checks that Remove removes the peers of one track only, held ones and those of a large track
// too, and ends the subscriptions to it.
func remove(t *testing.T, s *tester) {
	removeTrack := func(key string) {
		t.Helper()
		if err := s.Remove(context.Background(), []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	removeTrack("nothing")
	s.announce("other", "192.0.2.1:1", 0)
	s.together(5000, func(i int) {
		s.announceFor(ttl, "k", numbered(i), 0)
		s.announceFor(ttl, "k", numberedIPv6(i), 0)
	})
	removeTrack("k")
	s.expect("after the removal of a large track", s.index("127.0.0.1"), `"other":1`)

	s.announce("k", "192.0.2.1:1", 0)
	s.announce("k", "192.0.2.2:2", 0)
	looks, _ := s.subscribe("k", "192.0.2.9:0")
	holds, _ := s.subscribe("k", "192.0.2.2:2")
	elsewhere, _ := s.subscribe("other", "192.0.2.9:0")
	removeTrack("k")
	s.expect("after a removal", s.index("127.0.0.1", "k", "other"), `"k":0 "other":1`)
	for _, sub := range []*subscriber{looks, holds} {
		if changes, live := sub.all(); live || len(changes) > 0 || sub.notified.Load() == 0 {
			t.Errorf("the subscription of %v is live: %v, with the changes %v, and was notified %d times", sub.self, live, changes, sub.notified.Load())
		}
	}
	if _, live := elsewhere.all(); !live {
		t.Error("a subscription to another key has ended")
	}

	// A peer may come again, and the end of an old subscription does not remove it.
	again, _ := s.subscribe("k", "192.0.2.2:2")
	looks.Close()
	holds.Close()
	s.expectLook("after the peer has come again", "k", "192.0.2.9", "192.0.2.2:2")
	if _, live := again.all(); !live {
		t.Error("a subscription after the removal has ended")
	}
	again.Close()
	elsewhere.Close()
	time.Sleep(tolerance)
	s.expect("after all have left", s.index("127.0.0.1"), `"other":1`)
}

// others checks that a peer gets all others but never itself.
func others(t *testing.T, s *tester) {
	for _, e := range []string{"192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"} {
		s.announce("k", e, 0)
	}
	for range 50 { // samples are random
		if peers, _ := s.announce("k", "192.0.2.1:1", 2); show(peers) != "192.0.2.2:1 [2001:db8::1]:1" {
			t.Fatalf("a peer gets %v", peers)
		}
		if peers, _ := s.announce("k", "192.0.2.1:1", 0); len(peers) != 0 {
			t.Fatalf("a peer that wants no peers gets %v", peers)
		}
	}
}

// scopes checks that an asker gets, and counts, the peers of its own scope and of wider ones: loopback is
// the narrowest scope, then link-local, private and public.
func scopes(t *testing.T, s *tester) {
	endpointOf := map[string]string{"127.0.0.1": "127.0.0.1:1", "169.254.0.1": "169.254.0.1:1", "10.0.0.1": "10.0.0.1:1", "192.0.2.1": "192.0.2.1:1", "2001:db8::1": "[2001:db8::1]:1"}
	sees := map[string]string{
		"127.0.0.1":   "10.0.0.1:1 127.0.0.1:1 169.254.0.1:1 192.0.2.1:1 [2001:db8::1]:1",
		"169.254.0.1": "10.0.0.1:1 169.254.0.1:1 192.0.2.1:1 [2001:db8::1]:1",
		"10.0.0.1":    "10.0.0.1:1 192.0.2.1:1 [2001:db8::1]:1",
		"192.0.2.1":   "192.0.2.1:1 [2001:db8::1]:1",
		"2001:db8::1": "192.0.2.1:1 [2001:db8::1]:1",
	}
	for _, e := range endpointOf {
		s.announce("k", e, 0)
	}
	s.announce("here", "127.0.0.1:1", 0)
	for asker, want := range sees {
		s.expectLook("a look from "+asker, "k", asker, want)
		n := len(strings.Fields(want))
		peers, r := s.announce("k", endpointOf[asker], 1000)
		if len(peers) != n-1 || r.Count != n {
			t.Errorf("an announce from %s: %d peers, count %d; want %d and %d", asker, len(peers), r.Count, n-1, n)
		}
		s.expect("a scrape from "+asker, s.index(asker, "k"), fmt.Sprintf(`"k":%d`, n))
	}
	s.expect("all tracks, seen from a public address", s.index("192.0.2.1"), `"k":2`)
	s.expect("all tracks, seen from this machine", s.index("127.0.0.1"), `"here":1 "k":5`)

	// A public asker sees two of 202 peers, and itself.
	for i := range 200 {
		s.announce("lan", fmt.Sprintf("10.0.0.2:%d", i+1), 0)
	}
	s.announce("lan", "192.0.2.1:1", 0)
	s.announce("lan", "192.0.2.1:2", 0)
	if peers, r := s.announce("lan", "192.0.2.1:3", 1); len(peers) != 1 || !strings.HasPrefix(show(peers), "192.0.2.1:") || r.Count != 3 {
		t.Errorf("a sample among hidden peers: %v, %+v", peers, r)
	}
}

// ids checks that the last announce of a peer decides its ID, and that an asker can do without IDs.
func ids(t *testing.T, s *tester) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, id := range []wire.ID{{}, wire.ID([]byte("aaaaaaaaaaaaaaaaaaaa")), wire.ID([]byte("bbbbbbbbbbbbbbbbbbbb")), {}} {
		s.announceFor(ttl, "k", wire.Peer{Endpoint: e, ID: id}, 0)
		peers, _ := s.look("k", "192.0.2.9", 1)
		if len(peers) != 1 {
			t.Fatalf("a look gets %v", peers)
		}
		s.expectID("announced", peers[0].ID, id)
		peers, _, err := s.Look(t.Context(), []byte("k"), e.Addr(), store.Want{Peers: 1, IDs: false}, nil)
		if err != nil || len(peers) != 1 || peers[0].ID != (wire.ID{}) {
			t.Errorf("announced with ID %q: an asker that wants no IDs gets %v, %v", id, peers, err)
		}
	}

	// When a peer leaves or lapses, its ID is forgotten. The next peer at the endpoint does not have it.
	withID := wire.Peer{Endpoint: e, ID: wire.ID([]byte("cccccccccccccccccccc"))}
	s.announce("k", "192.0.2.2:1", 0)
	for _, end := range []func(){func() { s.leave("k", "192.0.2.1:1") }, func() { time.Sleep(ttl + time.Second) }} {
		s.announceFor(ttl, "k", withID, 0)
		end()
		s.announce("k", "192.0.2.1:1", 0)
		if peers, _ := s.announce("k", "192.0.2.2:1", 1); len(peers) != 1 || peers[0].ID != (wire.ID{}) {
			t.Errorf("the ID of a departed peer: %v", peers)
		}
	}
}

// scrape checks the counts of some tracks, and of all.
func scrape(t *testing.T, s *tester) {
	s.announce("a", "192.0.2.1:1", 0)
	s.announce("a", "192.0.2.2:1", 0)
	s.announce("b\x00\xff", "192.0.2.1:1", 0)
	s.expect("two keys", s.index("192.0.2.9", "a", "c"), `"a":2 "c":0`)
	s.expect("all tracks", s.index("192.0.2.9"), `"a":2 "b\x00\xff":1`)
}

// keys checks that a key is opaque bytes, which a store copies.
func keys(t *testing.T, s *tester) {
	key := []byte("abc")
	p := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	if _, _, err := s.Announce(t.Context(), key, p, constant(ttl), store.Want{}, nil); err != nil {
		t.Fatal(err)
	}
	copy(key, "xyz") // a store must have copied the key
	s.announce("ABC", "192.0.2.2:1", 0)
	longest := string(bytes.Repeat([]byte{0xff}, wire.MaxKey))
	s.announce(longest, "192.0.2.3:1", 0)
	s.expectLook("the key as it was", "abc", "192.0.2.9", "192.0.2.1:1")
	s.expectLook("the key in upper case", "ABC", "192.0.2.9", "192.0.2.2:1")
	s.expectLook("the key as it is now", "xyz", "192.0.2.9", "")
	s.expectLook("the longest key", longest, "192.0.2.9", "192.0.2.3:1")
}

// appended checks that the peers come after those that the caller passes.
func appended(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	already := []wire.Peer{{Endpoint: netip.MustParseAddrPort("203.0.113.1:1")}}
	looked, _, err := s.Look(t.Context(), []byte("k"), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: 5}, already)
	if err != nil || show(looked) != "192.0.2.1:1 203.0.113.1:1" || looked[0] != already[0] {
		t.Errorf("look: %v, %v", looked, err)
	}
	announced, _, err := s.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:1")}, constant(ttl), store.Want{Peers: 5}, already)
	if err != nil || show(announced) != "192.0.2.1:1 203.0.113.1:1" || announced[0] != already[0] {
		t.Errorf("announce: %v, %v", announced, err)
	}
}

// sizes checks the sizes of tracks that grow, age, lapse and start again.
func sizes(t *testing.T, s *tester) {
	start := time.Now()
	began := map[string]time.Time{}
	look := func(what, key string, peers, total int) {
		t.Helper()
		for _, wait := range []time.Duration{0, tolerance} {
			time.Sleep(wait)
			if wait == 0 && !s.exact {
				continue // such a size may be old, for as long as the tolerance
			}
			_, r := s.look(key, "192.0.2.9", 0)
			want := store.Size{Peers: peers, Total: total}
			if peers > 0 {
				want.Age = time.Since(began[key]).Truncate(time.Second)
			}
			s.expectSize(what, r.Size, want)
			sub, _ := s.subscribe(key, "192.0.2.9:0")
			s.expectSize(what+", subscribed", sub.size, want)
			sub.Close()
		}
	}
	announce := func(what, key, endpoint string, peers, total int) {
		t.Helper()
		_, r := s.announce(key, endpoint, 0)
		if began[key].IsZero() {
			began[key] = time.Now()
		}
		if s.exact {
			s.expectSize(what, r.Size, store.Size{Peers: peers, Total: total, Age: time.Since(began[key]).Truncate(time.Second)})
		}
		look(what, key, peers, total)
	}
	look("before the first announce", "k", 0, 0)
	announce("the first announce", "k", "192.0.2.1:1", 1, 1)
	time.Sleep(90 * time.Second)
	announce("a private peer", "k", "10.0.0.1:1", 2, 2)
	announce("a peer of the other family", "k", "[2001:db8::1]:1", 3, 3)
	announce("a renewal", "k", "192.0.2.1:1", 3, 3)
	announce("another track", "l", "192.0.2.1:1", 1, 4)
	look("a look at the first track", "k", 3, 4)
	look("a look at a key without a track", "m", 0, 4)
	s.leave("k", "10.0.0.1:1")
	look("after a leave", "k", 2, 3)
	time.Sleep(ttl + tolerance)
	look("after all have lapsed", "k", 0, 0)
	delete(began, "k")
	announce("a track that starts again", "k", "192.0.2.1:1", 1, 1)

	// An age grows, in whole seconds, for as long as the track exists.
	duration := time.Hour
	if s.exact {
		duration = 60 * time.Hour // more than 2^17 seconds, as in forDays
	}
	for time.Since(start) < duration {
		time.Sleep(ttl - tolerance - 500*time.Millisecond) // look above has waited, too
		_, r := s.announce("k", "192.0.2.1:1", 0)
		s.expectSize("an old track", r.Size, store.Size{Peers: 1, Total: 1, Age: time.Since(began["k"]).Truncate(time.Second)})
		if t.Failed() {
			t.FailNow()
		}
	}

	// A track that a subscription makes has the age of the subscription.
	f, _ := s.subscribe("m", "192.0.2.1:1")
	began["m"] = time.Now()
	if s.exact {
		s.expectSize("a subscription that makes a track", f.size, store.Size{Peers: 1, Total: 2})
	}
	time.Sleep(30 * time.Second)
	announce("a track that a subscription made", "m", "192.0.2.1:2", 2, 3)
	f.Close()
	look("after the end of the subscription", "m", 1, 2)
}

// ttlBySize announces peers whose ttl grows with the number of peers.
func ttlBySize(t *testing.T, s *tester) {
	ttlOf := func(size store.Size) time.Duration { return time.Duration(10*size.Peers+5) * time.Second }
	var until []time.Time
	for i := range 5 {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
		_, r, err := s.Announce(t.Context(), []byte("k"), p, ttlOf, store.Want{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s.exact && r.Size.Peers != i+1 {
			t.Errorf("announce %d has the size %+v", i, r.Size)
		}
		until = append(until, time.Now().Add(ttlOf(r.Size)))
	}
	for range 7 {
		time.Sleep(10 * time.Second)
		n := 0
		for _, u := range until {
			if time.Now().Before(u) {
				n++
			}
		}
		s.expect("every ten seconds", s.index("192.0.2.9", "k"), fmt.Sprintf(`"k":%d`, n))
	}
	s.expect("in the end", s.index("192.0.2.9", "k"), `"k":0`)
}

// ownChanges changes one track from several goroutines. Each goroutine looks for its own changes.
func ownChanges(t *testing.T, s *tester) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			self := fmt.Sprintf("192.0.2.%d:1", g+1)
			for range 200 {
				s.announce("k", self, 3)
				if peers, _ := s.look("k", "192.0.2.99", 100); !strings.Contains(show(peers), self) {
					t.Errorf("%s has announced and is not listed", self)
				}
				s.leave("k", self)
				if peers, _ := s.look("k", "192.0.2.99", 100); strings.Contains(show(peers), self) {
					t.Errorf("%s has left and is listed", self)
				}
				s.index("192.0.2.99") // at the same time as other calls
			}
		})
	}
	wg.Wait()
	s.expect("in the end", s.index("127.0.0.1"), "")
}

// sameTime announces two peers at the same time, in many tracks.
func sameTime(t *testing.T, s *tester) {
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
			t.Fatal("two peers announced, and neither got the other")
		}
	}
}

// neverBlocks calls every method of a store that never blocks. No virtual time may pass, and the
// calls must succeed even though their context has ended.
func neverBlocks(t *testing.T, s *tester) {
	if !s.NeverBlocks() {
		return
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	peer := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	_, _, announceErr := s.Announce(ended, []byte("k"), peer, constant(ttl), store.Want{Peers: 1}, nil)
	_, _, lookErr := s.Look(ended, []byte("k"), peer.Endpoint.Addr(), store.Want{Peers: 1}, nil)
	_, scrapeErr := s.Scrape(ended, nil, peer.Endpoint.Addr(), nil)
	_, _, sub, subscribeErr := s.Subscribe(ended, []byte("k"), peer, func() {}, nil)
	leaveErr := s.Leave(ended, []byte("k"), peer.Endpoint)
	if err := errors.Join(announceErr, lookErr, scrapeErr, subscribeErr, leaveErr); err != nil {
		t.Fatal(err)
	}
	sub.Next()
	sub.Close()
	if waited := time.Since(began); waited > 0 {
		t.Errorf("a store that never blocks has waited for %v", waited)
	}
}
