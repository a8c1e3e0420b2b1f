// Package storetest tests a store against the comments of [store.Store], sentence by sentence, in
// virtual time:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return mystore.New() })
//	}
//
// Each case runs in a bubble of package synctest and makes its store in the bubble. So the store
// must take its time from package time.
package storetest

import (
	"context"
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

// Run tests a store against the contract. newStore returns an empty store.
func Run(t *testing.T, newStore func(*testing.T) store.Store) { run(t, newStore, false) }

// RunExact tests a store that is stricter than the contract: its sizes are exact and new, and it
// keeps peer IDs.
func RunExact(t *testing.T, newStore func(*testing.T) store.Store) { run(t, newStore, true) }

// run runs the cases with these names, or all cases if there are no names.
func run(t *testing.T, newStore func(*testing.T) store.Store, exact bool, names ...string) {
	ran := 0
	for _, c := range []struct {
		name string
		test func(*testing.T, *tester)
	}{
		{"a peer is its endpoint", endpoints},
		{"an asker gets and counts what its scope sees", scopes},
		{"a lapsed peer is neither returned nor counted", countsAfterLapses},
		{"a caller sees its own changes immediately", ownChanges},
		{"a store copies what it keeps", keys},
		{"results are appended", appended},

		{"an announce lists a peer for its ttl", listedForTTL},
		{"a ttl is not cut to less than 4 hours", longest},
		{"the ttl depends on the size", ttlBySize},
		{"a peer does not get itself", others},
		{"a sample is random, without repetition and drawn anew", sample},
		{"a sample of a large track has no lapsed peers", sampleLapsed},
		{"each family gets a quarter of a sample", quarter},
		{"one family makes up for the other", oneFamily},
		{"of two peers that announce at the same time one gets the other", sameTime},
		{"an id is replaced and removed", ids},
		{"a leave is immediate and nothing remains of an empty track", leave},
		{"a removal empties a track and ends its subscriptions", remove},
		{"a scrape counts the keys or every track", scrape},
		{"a size is at most a second old", sizes},

		{"a subscription has the joins and leaves", subscribe},
		{"a subscription has what its scope sees", subscribeScopes},
		{"a lapse is a leave", subscribeLapse},
		{"a subscription holds its peer", subscribeHolds},
		{"a leave ends the subscriptions of the peer", subscribeLeave},
		{"changes that undo each other are left out", subscribeBurst},
		{"a slow subscription ends and delays no other", subscribeSlow},
		{"a track above 10,000 peers is too large to stream", subscribeLarge},
		{"an epoch names a table, which has an age", func(t *testing.T, s *tester) { epoch(t, s, &tester{t, newStore(t), exact}) }},
		{"a store that never blocks does not wait", neverBlocks},

		{"each peer lapses at its own time", countsEverySecond},
		{"a track lasts for days", forDays},
		{"random calls", randomCalls},
	} {
		if len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		ran++
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.test(t, &tester{t, newStore(t), exact}) })
		})
	}
	if len(names) > 0 && ran != len(names) {
		t.Fatalf("%d of %d cases ran", ran, len(names))
	}
}

const (
	// ttl is the ttl of tester.announce.
	ttl = 150 * time.Second
	// tolerance is the second that the contract allows: for this long a lapsed peer may still be
	// given and counted, a Size may be old, and a change may take to reach a subscription.
	tolerance = time.Second
)

// A tester makes calls of a store short, and fails the test if a call returns an error. A peer that
// a call appends to dst is called given.
type tester struct {
	t *testing.T
	store.Store
	exact bool // see RunExact
}

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
	if !slices.Contains(sizes, res.Size) || res.Size.Peers < 1 {
		s.t.Fatalf("the size in the result is %+v, and the ttl was asked for %+v", res.Size, sizes)
	}
	return peers, res
}

// together calls do with the numbers below n. A store that blocks gets several calls at the same time,
// because each takes real time.
func (s *tester) together(n int, do func(int)) {
	if s.NeverBlocks() {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	wg.Wait()
}

// long returns a duration of many hours, or a tenth of it for a store that blocks: each second of
// virtual time takes such a store real time.
func (s *tester) long(d time.Duration) time.Duration {
	if s.NeverBlocks() {
		return d
	}
	return d / 10
}

// few returns n, or a third of it for a store that blocks.
func (s *tester) few(n int) int {
	if s.NeverBlocks() {
		return n
	}
	return n / 3
}

// constant returns a function for a ttl that does not depend on the size.
func constant(ttl time.Duration) func(store.Size) time.Duration {
	return func(store.Size) time.Duration { return ttl }
}

func (s *tester) leave(key, endpoint string) {
	s.t.Helper()
	if err := s.Leave(context.Background(), []byte(key), netip.MustParseAddrPort(endpoint)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tester) look(key, asker string, want int) ([]wire.Peer, store.Result) {
	s.t.Helper()
	peers, res, err := s.Look(context.Background(), []byte(key), netip.MustParseAddr(asker), store.Want{Peers: want, IDs: true}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return peers, res
}

// index scrapes the keys, or all tracks without keys, and returns the sorted counts, such as
// "k":2 "l":1.
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

// show returns the endpoints of peers, sorted and separated by spaces.
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

// expectLook expects that a look returns and counts these peers, and no others.
func (s *tester) expectLook(what, key, asker, want string) {
	s.t.Helper()
	peers, res := s.look(key, asker, 1000)
	s.expect(what, show(peers), want)
	if n := len(strings.Fields(want)); res.Count != n {
		s.t.Errorf("%s: count %d, want %d", what, res.Count, n)
	}
}

// expectSize expects the size of a track. If the store is not exact, the track must have been
// unchanged for a second.
func (s *tester) expectSize(what string, got, want store.Size) {
	s.t.Helper()
	if !s.exact {
		want.Total = got.Total
		if got.Age >= want.Age-tolerance && got.Age < want.Age {
			want.Age = got.Age
		}
	}
	if got != want {
		s.t.Errorf("%s: size %+v, want %+v", what, got, want)
	}
}

// expectID expects the ID of a peer. A store that is not exact may have forgotten the ID.
func (s *tester) expectID(what string, got, want wire.ID) {
	s.t.Helper()
	if got != want && (s.exact || got != (wire.ID{})) {
		s.t.Errorf("%s: id %q, want %q", what, got, want)
	}
}

// numbered returns the IPv4 peer with this number.
func numbered(i int) wire.Peer {
	return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)}
}

// numberedIPv6 returns the IPv6 peer with this number.
func numberedIPv6(i int) wire.Peer {
	return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}), 1)}
}
