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
	run := func(name string, l store.Limits, test func(*testing.T, *tester)) {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, &tester{t: t, Store: newStore(t, l)}) })
		})
	}
	for _, c := range []limitCase{
		{
			name: "keys", limits: store.Limits{MaxKeys: 2},
			fit:     []string{"a 192.0.2.1:1", "b 192.0.2.1:1"},
			tooMany: "c 192.0.2.1:1", reason: "too many keys: at most 2", alsoFits: "b 192.0.2.2:1",
			leaving: "a 192.0.2.1:1", remaining: `"b":2`,
		},
		{
			name: "peers", limits: store.Limits{MaxPeers: 2},
			fit:     []string{"a 192.0.2.1:1", "b [2001:db8::1]:1"},
			tooMany: "a 192.0.2.2:1", reason: "too many peers: at most 2",
			leaving: "b [2001:db8::1]:1", remaining: `"a":1`,
		},
		{
			name: "peers per key", limits: store.Limits{MaxPeersPerKey: 2},
			fit:     []string{"a 192.0.2.1:1", "a [2001:db8::1]:1"},
			tooMany: "a 192.0.2.2:1", reason: "too many peers of this key: at most 2", alsoFits: "b 192.0.2.2:1",
			leaving: "a 192.0.2.1:1", remaining: `"a":1 "b":1`,
		},
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
	run("a refused peer does not count for any limit", store.Limits{MaxKeys: 3, MaxPeers: 3, MaxPerAddr: 2}, func(t *testing.T, s *tester) {
		for i := range 10 {
			for _, c := range []struct{ peer, refusedBy string }{
				{"a 192.0.2.1:1", ""},
				{"b 192.0.2.1:2", ""},
				{"c 192.0.2.1:3", "MaxPerAddr"},
				{"c 192.0.2.2:1", ""},
				{"d 192.0.2.2:2", "MaxKeys or MaxPeers"},
				{"a 192.0.2.2:2", "MaxPeers"},
			} {
				if err := s.join(c.peer); (err != nil) != (c.refusedBy != "") {
					t.Fatalf("round %d, %s: %v, want a refusal by %q", i, c.peer, err, c.refusedBy)
				}
			}
			s.leave("a", "192.0.2.1:1")
			s.leave("b", "192.0.2.1:2")
			s.leave("c", "192.0.2.2:1")
		}
	})
	run("a subscription does not count after its end", store.Limits{MaxKeys: 1, MaxPeers: 1, MaxPeersPerKey: 1, MaxPerAddr: 1}, func(t *testing.T, s *tester) {
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
	key, endpoint, _ := strings.Cut(c.leaving, " ")
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
	key, endpoint, _ := strings.Cut(c.tooMany, " ")
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

// join announces a peer with its key, such as "k 192.0.2.1:1".
func (s *tester) join(peer string) error {
	key, endpoint, _ := strings.Cut(peer, " ")
	_, _, err := s.Announce(s.t.Context(), []byte(key), wire.Peer{Endpoint: netip.MustParseAddrPort(endpoint)}, constant(ttl), store.Want{}, nil)
	return err
}
