package storetest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// RunLimits tests a store that has [store.Limits]. newStore returns an empty store.
func RunLimits(t *testing.T, newStore func(*testing.T, store.Limits) store.Store) {
	RunMaxPerAddr(t, newStore)
	runLimit(t, newStore, "memory", store.Limits{MaxBytes: 1 << 20}, fullMemory)
}

func runLimit(t *testing.T, newStore func(*testing.T, store.Limits) store.Store, name string, l store.Limits, test func(*testing.T, *tester)) {
	t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, &tester{t: t, Store: newStore(t, l)}) })
	})
}

// RunMaxPerAddr tests a store that has only that one of [store.Limits].
func RunMaxPerAddr(t *testing.T, newStore func(*testing.T, store.Limits) store.Store) {
	run := func(name string, l store.Limits, test func(*testing.T, *tester)) {
		runLimit(t, newStore, name, l, test)
	}
	for _, c := range []limitCase{
		{
			name: "per IPv4 address", limits: store.Limits{MaxPerAddr: 2},
			fit:     []string{"a 192.0.2.1:1", "b 192.0.2.1:1"},
			tooMany: "a 192.0.2.1:2", reason: "too many peers of this address: at most 2", alsoFits: "a 192.0.2.2:1",
			leaving: "b 192.0.2.1:1", remaining: `"a":2`,
		},
		{
			// This IPv6 /64 and this IPv4 address are the same number, c0000201 in hex.
			name: "per address of either family", limits: store.Limits{MaxPerAddr: 1},
			fit:     []string{"a 192.0.2.1:1", "a [0:0:c000:201::1]:1"},
			tooMany: "a 192.0.2.1:2", reason: "too many peers of this address: at most 1", alsoFits: "a 192.0.2.2:1",
			leaving: "a 192.0.2.1:1", remaining: `"a":2`,
		},
		{
			name: "per IPv6 network", limits: store.Limits{MaxPerAddr: 2},
			fit:     []string{"a [2001:db8::1]:1", "b [2001:db8::2]:1"},
			tooMany: "a [2001:db8::3]:2", reason: "too many peers of this address: at most 2", alsoFits: "a [2001:db8:0:1::1]:1",
			leaving: "b [2001:db8::2]:1", remaining: `"a":2`,
		},
	} {
		run(c.name, c.limits, c.test)
	}
	run("a refused peer does not count for any limit", store.Limits{MaxPerAddr: 2}, func(t *testing.T, s *tester) {
		for i := range 10 {
			for _, c := range []struct {
				peer    string
				refused bool
			}{
				{"a 192.0.2.1:1", false},
				{"b 192.0.2.1:2", false},
				{"c 192.0.2.1:3", true},
				{"a 192.0.2.1:4", true},
				{"c 192.0.2.2:1", false},
			} {
				if err := s.join(c.peer); (err != nil) != c.refused {
					t.Fatalf("round %d, %s: %v, want a refusal: %v", i, c.peer, err, c.refused)
				}
			}
			s.expect("all tracks", s.index("127.0.0.1"), `"a":1 "b":1 "c":1`)
			s.leave("a", "192.0.2.1:1")
			s.leave("b", "192.0.2.1:2")
			s.leave("c", "192.0.2.2:1")
		}
	})
	run("a subscription does not count after its end", store.Limits{MaxPerAddr: 1}, func(t *testing.T, s *tester) {
		watcher, _ := s.subscribe("w", "192.0.2.1:0") // a subscription without a port never counts
		for i := range 10 {
			sub, _ := s.subscribe(fmt.Sprint("a", i), "192.0.2.1:1")
			sub.Close()
			s.announce(fmt.Sprint("b", i), "192.0.2.1:2", 0)
			s.leave(fmt.Sprint("b", i), "192.0.2.1:2")
		}
		watcher.Close()
	})
	run("0 is no limit", store.Limits{}, func(t *testing.T, s *tester) {
		for i := range 500 {
			s.announce(fmt.Sprint("k", i), "192.0.2.1:1", 0)
			s.announce("k", fmt.Sprintf("192.0.2.1:%d", i+1), 0)
		}
		s.expect("k", s.index("127.0.0.1", "k"), `"k":500`)
	})
}

// fullMemory fills the memory with fresh keys, and then with peers of the keys that exist.
func fullMemory(t *testing.T, s *tester) {
	key := func(i int) string { return fmt.Sprintf("a key of some length: %d", i) }
	peer := func(i int) string { return numbered(i).Endpoint.String() }
	join := func(key string, i int) error { return s.join(key + " " + peer(i)) }
	isFull := func(err error) bool {
		var full *store.FullError
		return errors.As(err, &full) && full.What == store.FullMemory && !full.Stream && full.Error() != ""
	}
	// fill adds fresh keys until the store has refused 2000, and returns their numbers and the first
	// number that it has not used.
	fill := func(from int) (listed, refused []int, next int) {
		for i := from; len(refused) < 2000; i++ {
			switch err := join(key(i), i); {
			case err == nil:
				listed = append(listed, i)
			case !isFull(err):
				t.Fatalf("key %d: %v, want memory", i, err)
			default:
				refused = append(refused, i)
			}
			if i-from > 1<<20 {
				t.Fatalf("%d keys in %d bytes", i-from, 1<<20)
			}
		}
		return listed, refused, from + len(listed) + len(refused)
	}
	listed, refused, next := fill(0)

	_, before := s.look("nothing", "192.0.2.9", 0)
	late := key(refused[len(refused)-1])
	c := &limitCase{tooMany: late + " " + peer(0), reason: (&store.FullError{What: store.FullMemory}).Error()}
	c.expectRefusal(s)
	for _, i := range refused {
		if got := s.index("127.0.0.1", key(i)); got != fmt.Sprintf("%q:0", key(i)) {
			t.Fatalf("a refused key is there: %s", got)
		}
	}
	for i := range 50 {
		if err := join(key(listed[i]), next+i); err != nil {
			t.Fatalf("a peer of a key that exists is refused because of fresh keys: %v", err)
		}
	}
	for _, i := range listed { // no renewal is refused, also with an ID
		p := numbered(i)
		p.ID = wire.ID{1}
		if _, _, err := s.Announce(t.Context(), []byte(key(i)), p, constant(ttl), store.Want{}, nil); err != nil {
			t.Fatalf("a renewal: %v", err)
		}
	}
	for i := range 50 {
		s.leave(key(listed[i]), peer(next+i))
	}
	if _, after := s.look("nothing", "192.0.2.9", 0); after.Size.Total != before.Size.Total || after.Size.Total != len(listed) {
		t.Errorf("%d peers before, %d after, and %d keys", before.Size.Total, after.Size.Total, len(listed))
	}

	// Now the peers of one key take the rest.
	n, big := 0, key(listed[0])
	for ; ; n++ {
		if err := join(big, next+n); isFull(err) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n == 0 {
		t.Error("no room for a peer of a key that exists")
	}
	c.tooMany = big + " " + peer(next+n)
	c.expectRefusal(s)
	for i := range n {
		if err := join(big, next+i); err != nil {
			t.Fatalf("a renewal: %v", err)
		}
	}
	sub, _ := s.subscribe(big, peer(next)) // of a listed peer
	sub.Close()
	for i := range n {
		s.leave(big, peer(next+i))
	}

	// The room of keys that leave, or lapse, is there for others.
	for _, i := range listed[:len(listed)/2] {
		s.leave(key(i), peer(i))
	}
	again, _, next := fill(next)
	if len(again) < len(listed)/4 {
		t.Errorf("%d of %d keys have left, and %d others found room", len(listed)/2, len(listed), len(again))
	}
	time.Sleep(ttl + tolerance)
	s.expect("all tracks have lapsed", s.index("127.0.0.1"), "")
	if again, _, _ = fill(next); len(again) < len(listed)*9/10 {
		t.Errorf("%d keys found room at first, and %d after these have lapsed", len(listed), len(again))
	}
}

// A limitCase tests one limit. Each peer comes after its key, as in "k 192.0.2.1:1".
type limitCase struct {
	name      string
	limits    store.Limits
	fit       []string // peers that the store accepts
	tooMany   string   // a peer that the store then refuses
	reason    string   // the error for tooMany
	alsoFits  string   // a peer that the store accepts although it refuses tooMany, or ""
	leaving   string   // a peer in fit whose leave makes room for tooMany
	remaining string   // the index of all tracks after that leave
}

func (c *limitCase) test(t *testing.T, s *tester) {
	accepted := func(peer string) {
		t.Helper()
		if err := s.join(peer); err != nil {
			t.Errorf("%s: %v", peer, err)
		}
	}
	for range 2 { // a renewal is not refused
		for _, peer := range c.fit {
			accepted(peer)
		}
	}
	c.expectRefusal(s)
	if c.alsoFits != "" {
		accepted(c.alsoFits)
	}
	c.expectRefusal(s)
	key, endpoint := cutPeer(c.leaving)
	s.leave(key, endpoint)
	s.expect("all tracks after a leave", s.index("127.0.0.1"), c.remaining)
	accepted(c.tooMany)
	time.Sleep(ttl + tolerance) // lapsed peers do not count
	for _, peer := range c.fit {
		accepted(peer)
	}
	c.expectRefusal(s)
}

// expectRefusal expects that the store refuses an announce and a subscription of tooMany. A refusal
// must leave nothing behind: no track, no count and no subscription.
func (c *limitCase) expectRefusal(s *tester) {
	s.t.Helper()
	key, endpoint := cutPeer(c.tooMany)
	e := netip.MustParseAddrPort(endpoint)
	tracks := s.index("127.0.0.1")
	_, before := s.look("nothing", "192.0.2.9", 0) // a look at any key has the size of the store
	var full *store.FullError
	if err := s.join(c.tooMany); !errors.As(err, &full) || err.Error() != c.reason || full.Stream {
		s.t.Errorf("%s: %v, want %s", c.tooMany, err, c.reason)
	}
	_, _, sub, err := s.Subscribe(s.t.Context(), []byte(key), wire.Peer{Endpoint: e}, func() {
		s.t.Errorf("%s: notified although its subscription was refused", c.tooMany)
	}, nil)
	if !errors.As(err, &full) || err.Error() != c.reason || full.Stream || sub != nil {
		s.t.Errorf("%s subscribes: %v, want %s", c.tooMany, err, c.reason)
	}
	s.expect("all tracks after a refusal", s.index("127.0.0.1"), tracks)
	if _, after := s.look("nothing", "192.0.2.9", 0); after.Size.Total != before.Size.Total {
		s.t.Errorf("%d peers before a refusal, and %d after it", before.Size.Total, after.Size.Total)
	}
	// A subscription without a port is not refused.
	watcher, _ := s.subscribe(key, netip.AddrPortFrom(e.Addr(), 0).String())
	watcher.Close()
}

// cutPeer returns the key and the endpoint of a peer such as "k 192.0.2.1:1". The key may have spaces.
func cutPeer(peer string) (key, endpoint string) {
	i := strings.LastIndexByte(peer, ' ')
	return peer[:i], peer[i+1:]
}

// join announces a peer with its key, such as "k 192.0.2.1:1".
func (s *tester) join(peer string) error {
	key, endpoint := cutPeer(peer)
	_, _, err := s.Announce(s.t.Context(), []byte(key), wire.Peer{Endpoint: netip.MustParseAddrPort(endpoint)}, constant(ttl), store.Want{}, nil)
	return err
}
