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

// RunLimits holds the stores that make returns to [store.Limits]. It is for stores that have
// them.
func RunLimits(t *testing.T, make func(*testing.T, store.Limits) store.Store) {
	for _, c := range []struct {
		name   string
		limits store.Limits
		fits   []string // announces: key, space, endpoint
		over   string
		inform string
		leave  string // makes room for over
		beside string // still fits when over does not
	}{
		{"keys", store.Limits{MaxKeys: 2}, []string{"a 192.0.2.1:1", "b 192.0.2.1:1"}, "c 192.0.2.1:1", "too many keys: at most 2", "a 192.0.2.1:1", "b 192.0.2.2:1"},
		{"peers", store.Limits{MaxPeers: 2}, []string{"a 192.0.2.1:1", "b [2001:db8::1]:1"}, "a 192.0.2.2:1", "too many peers: at most 2", "b [2001:db8::1]:1", ""},
		{"peers per key", store.Limits{MaxPeersPerKey: 2}, []string{"a 192.0.2.1:1", "a [2001:db8::1]:1"}, "a 192.0.2.2:1", "too many peers of this key: at most 2", "a 192.0.2.1:1", "b 192.0.2.2:1"},
		{"per IPv4 address", store.Limits{MaxPerAddr: 2}, []string{"a 192.0.2.1:1", "b 192.0.2.1:1"}, "a 192.0.2.1:2", "too many registrations of this address: at most 2", "b 192.0.2.1:1", "a 192.0.2.2:1"},
		{"per address of either family", store.Limits{MaxPerAddr: 1}, []string{"a 192.0.2.1:1", "a [0:0:c000:201::1]:1"}, "a 192.0.2.1:2", "too many registrations of this address: at most 1", "a 192.0.2.1:1", "a 192.0.2.2:1"},
		{"per IPv6 network", store.Limits{MaxPerAddr: 2}, []string{"a [2001:db8::1]:1", "b [2001:db8::2]:1"}, "a [2001:db8::3]:2", "too many registrations of this address: at most 2", "b [2001:db8::2]:1", "a [2001:db8:0:1::1]:1"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &tester{t, make(t, c.limits)}
				join := func(what string) error {
					key, endpoint, _ := strings.Cut(what, " ")
					_, _, err := s.Announce(t.Context(), []byte(key), wire.Peer{Endpoint: netip.MustParseAddrPort(endpoint)}, lasting(ttl), store.Want{}, nil)
					return err
				}
				total := func() int {
					_, r, err := s.Look(t.Context(), []byte("nothing"), netip.MustParseAddr("192.0.2.9"), store.Want{}, nil)
					if err != nil {
						t.Fatal(err)
					}
					return r.Size.Total
				}
				refused := func() {
					t.Helper()
					before, peers := s.index("127.0.0.1"), total()
					var full *store.FullError
					if err := join(c.over); !errors.As(err, &full) || err.Error() != c.inform {
						t.Errorf("%s: %v, want %s", c.over, err, c.inform)
					}
					key, endpoint, _ := strings.Cut(c.over, " ")
					_, sub, err := s.Subscribe(t.Context(), []byte(key), wire.Peer{Endpoint: netip.MustParseAddrPort(endpoint)}, func() {
						t.Errorf("%s: a subscription that was refused is notified", c.over)
					}, nil)
					if !errors.As(err, &full) || err.Error() != c.inform || sub != nil {
						t.Errorf("%s subscribes: %v, want %s", c.over, err, c.inform)
					}
					s.expect("after a refusal", s.index("127.0.0.1"), before)
					if n := total(); n != peers {
						t.Errorf("after a refusal there are %d peers, before it %d", n, peers)
					}
					_, sub, err = s.Subscribe(t.Context(), []byte(key), wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddrPort(endpoint).Addr(), 0)}, func() {}, nil)
					if err != nil {
						t.Fatal("a looker: ", err)
					}
					sub.Close()
				}
				accepted := func(what string) {
					t.Helper()
					if err := join(what); err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
				for range 2 { // the second time they renew
					for _, f := range c.fits {
						accepted(f)
					}
				}
				refused()
				if c.beside != "" {
					accepted(c.beside)
				}
				refused()
				key, endpoint, _ := strings.Cut(c.leave, " ")
				s.leave(key, endpoint)
				if c.name == "keys" {
					s.expect("one key has gone", s.index("127.0.0.1"), `"b":2`)
				}
				accepted(c.over)
				time.Sleep(ttl + settle) // what has lapsed counts no more
				for _, f := range c.fits {
					accepted(f)
				}
				refused()
			})
		})
	}
	t.Run("together", func(t *testing.T) {
		// Whichever limit refuses, the others must not have counted.
		synctest.Test(t, func(t *testing.T) {
			s := &tester{t, make(t, store.Limits{MaxKeys: 3, MaxPeers: 3, MaxPerAddr: 2})}
			join := func(key string, host, port byte) error {
				p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), uint16(port))}
				_, _, err := s.Announce(t.Context(), []byte(key), p, lasting(ttl), store.Want{}, nil)
				return err
			}
			for i := range 10 {
				full := []error{join("a", 1, 1), join("b", 1, 2), join("c", 1, 3), join("c", 2, 1), join("d", 2, 2), join("a", 2, 2)}
				for j, err := range full {
					if ok := j != 2 && j < 4; ok != (err == nil) {
						t.Fatalf("round %d, announce %d: %v", i, j, err)
					}
				}
				s.leave("a", "192.0.2.1:1")
				s.leave("b", "192.0.2.1:2")
				s.leave("c", "192.0.2.2:1")
			}
		})
	})
	t.Run("subscriptions", func(t *testing.T) {
		// What a subscription took is free once it has ended, and a subscriber without a port takes
		// nothing.
		synctest.Test(t, func(t *testing.T) {
			s := &tester{t, make(t, store.Limits{MaxKeys: 1, MaxPeers: 1, MaxPeersPerKey: 1, MaxPerAddr: 1})}
			w, _ := s.subscribe("w", "192.0.2.1:0")
			for i := range 10 {
				f, _ := s.subscribe(fmt.Sprint("a", i), "192.0.2.1:1")
				f.sub.Close()
				s.announce(fmt.Sprint("b", i), "192.0.2.1:2", 0)
				s.leave(fmt.Sprint("b", i), "192.0.2.1:2")
			}
			w.sub.Close()
		})
	})
	t.Run("none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &tester{t, make(t, store.Limits{})}
			for i := range 500 {
				s.announce(fmt.Sprint("k", i), "192.0.2.1:1", 0)
				s.announce("k", fmt.Sprintf("192.0.2.1:%d", i+1), 0)
			}
			s.expect("k", s.index("127.0.0.1", "k"), `"k":500`)
		})
	})
}
