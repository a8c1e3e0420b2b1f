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
			"keys", store.Limits{MaxKeys: 2}, []string{"a 192.0.2.1:1", "b 192.0.2.1:1"},
			"c 192.0.2.1:1", "too many keys: at most 2", "b 192.0.2.2:1", "a 192.0.2.1:1",
		},
		{
			"peers", store.Limits{MaxPeers: 2}, []string{"a 192.0.2.1:1", "b [2001:db8::1]:1"},
			"a 192.0.2.2:1", "too many peers: at most 2", "", "b [2001:db8::1]:1",
		},
		{
			"peers per key", store.Limits{MaxPeersPerKey: 2}, []string{"a 192.0.2.1:1", "a [2001:db8::1]:1"},
			"a 192.0.2.2:1", "too many peers of this key: at most 2", "b 192.0.2.2:1", "a 192.0.2.1:1",
		},
		{
			"per IPv4 address", store.Limits{MaxPerAddr: 2}, []string{"a 192.0.2.1:1", "b 192.0.2.1:1"},
			"a 192.0.2.1:2", "too many registrations of this address: at most 2", "a 192.0.2.2:1", "b 192.0.2.1:1",
		},
		{
			"per address of either family", store.Limits{MaxPerAddr: 1}, []string{"a 192.0.2.1:1", "a [0:0:c000:201::1]:1"},
			"a 192.0.2.1:2", "too many registrations of this address: at most 1", "a 192.0.2.2:1", "a 192.0.2.1:1",
		},
		{
			"per IPv6 network", store.Limits{MaxPerAddr: 2}, []string{"a [2001:db8::1]:1", "b [2001:db8::2]:1"},
			"a [2001:db8::3]:2", "too many registrations of this address: at most 2", "a [2001:db8:0:1::1]:1", "b [2001:db8::2]:1",
		},
	} {
		run(c.name, c.limits, c.test)
	}
	run("a refusal by one limit does not count for the others", store.Limits{MaxKeys: 3, MaxPeers: 3, MaxPerAddr: 2}, func(t *testing.T, s *tester) {
		for i := range 10 {
			for j, peer := range []string{"a 192.0.2.1:1", "b 192.0.2.1:2", "c 192.0.2.1:3", "c 192.0.2.2:1", "d 192.0.2.2:2", "a 192.0.2.2:2"} {
				if err := s.join(peer); (err == nil) != (j != 2 && j < 4) {
					t.Fatalf("round %d, announce %d: %v", i, j, err)
				}
			}
			s.leave("a", "192.0.2.1:1")
			s.leave("b", "192.0.2.1:2")
			s.leave("c", "192.0.2.2:1")
		}
	})
	run("a subscription does not count after its end", store.Limits{MaxKeys: 1, MaxPeers: 1, MaxPeersPerKey: 1, MaxPerAddr: 1}, func(t *testing.T, s *tester) {
		watcher, _ := s.subscribe("w", "192.0.2.1:0") // without a port, it never counts
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

// A limitCase has peers and the keys that they announce, such as "k 192.0.2.1:1".
type limitCase struct {
	name   string
	limits store.Limits
	fit    []string // peers that the store accepts
	over   string   // a peer that the store refuses after these
	reason string   // the error for over
	beside string   // a peer that the store accepts after these, or ""
	leaves string   // a peer whose leave makes room for over
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
	c.refused(s)
	if c.beside != "" {
		accepted(c.beside)
	}
	c.refused(s)
	key, endpoint, _ := strings.Cut(c.leaves, " ")
	s.leave(key, endpoint)
	if c.name == "keys" {
		s.expect("after all peers of a have left", s.index("127.0.0.1"), `"b":2`)
	}
	accepted(c.over)
	time.Sleep(ttl + tolerance) // lapsed peers do not count
	for _, peer := range c.fit {
		accepted(peer)
	}
	c.refused(s)
}

// refused expects that the store refuses over, and that the refusal leaves nothing behind: no
// track, no count and no subscription.
func (c *limitCase) refused(s *tester) {
	s.t.Helper()
	key, endpoint, _ := strings.Cut(c.over, " ")
	e := netip.MustParseAddrPort(endpoint)
	tracks := s.index("127.0.0.1")
	_, before := s.look("nothing", "192.0.2.9", 0)
	var full *store.FullError
	if err := s.join(c.over); !errors.As(err, &full) || err.Error() != c.reason || full.Stream {
		s.t.Errorf("%s: %v, want %s", c.over, err, c.reason)
	}
	_, sub, err := s.Subscribe(s.t.Context(), []byte(key), wire.Peer{Endpoint: e}, func() {
		s.t.Errorf("%s: a refused subscription is notified", c.over)
	}, nil)
	if !errors.As(err, &full) || err.Error() != c.reason || full.Stream || sub != nil {
		s.t.Errorf("%s subscribes: %v, want %s", c.over, err, c.reason)
	}
	s.expect("all tracks after a refusal", s.index("127.0.0.1"), tracks)
	if _, after := s.look("nothing", "192.0.2.9", 0); after.Size.Total != before.Size.Total {
		s.t.Errorf("%d peers before a refusal, and %d after it", before.Size.Total, after.Size.Total)
	}
	watcher, _ := s.subscribe(key, netip.AddrPortFrom(e.Addr(), 0).String()) // is not refused
	watcher.Close()
}

// join announces a peer with its key, such as "k 192.0.2.1:1".
func (s *tester) join(peer string) error {
	key, endpoint, _ := strings.Cut(peer, " ")
	_, _, err := s.Announce(s.t.Context(), []byte(key), wire.Peer{Endpoint: netip.MustParseAddrPort(endpoint)}, constant(ttl), store.Want{}, nil)
	return err
}
