package valkey

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// Each tracker counts for itself, but refuses no peer that another one has listed.
func TestMaxPerAddrOfTwo(t *testing.T) {
	url := valkeytest.Start(t, valkeytest.Options{}).URL()
	a, b := open(t, Config{URL: url, MaxPerAddr: 2}), open(t, Config{URL: url, MaxPerAddr: 2})
	announce := func(s *Store, port uint16) error {
		_, _, err := s.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}, fixed(time.Minute), store.Want{}, nil)
		return err
	}
	for _, c := range []struct {
		s       *Store
		port    uint16
		refused bool
	}{{a, 1, false}, {a, 2, false}, {a, 3, true}, {b, 3, false}, {b, 4, false}, {b, 5, true}, {a, 3, false}, {a, 4, false}, {a, 5, true}, {a, 1, false}} {
		err := announce(c.s, c.port)
		var full *store.FullError
		if refused := errors.As(err, &full) && full.What == store.FullPeersPerAddr && full.Max == 2; refused != c.refused || err != nil && !refused {
			t.Errorf("port %d: %v, want a refusal: %v", c.port, err, c.refused)
		}
	}
}

// The table of addresses is empty after all peers have lapsed, has a bound, and counts holds.
func TestAddrsForget(t *testing.T) {
	var c clock
	c.start = time.Now()
	c.offset.Store(1000 * int64(time.Second))
	a := newAddrs(2, &c)
	peer := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
	count := func() (n int) {
		for i := range a.shards {
			n += a.shards[i].n
		}
		return n
	}
	key := []byte("k")
	for i := range 1000 {
		a.reserve(key, peer(i), false)
		a.finish(key, peer(i), 1060, i%2 == 0)
	}
	if n := count(); n != 500 {
		t.Errorf("%d peers count, want those that were listed", n)
	}
	a.reserve(key, peer(1), false)
	a.hold("k", peer(1))
	a.finish(key, peer(1), 0, false)
	c.offset.Store(1061 * int64(time.Second))
	for i := range a.shards {
		a.sweep(i)
	}
	if n := count(); n != 1 {
		t.Errorf("%d peers count, want the one that is held", n)
	}
	a.unhold("k", peer(1))
	if n := count(); n != 0 {
		t.Errorf("in the end %d peers count", n)
	}
	for i := range a.shards {
		a.shards[i].n = maxAddrPeers
	}
	for i := range 70 {
		if !a.reserve([]byte(fmt.Sprint(i)), peer(0), false) {
			t.Error("a full table refuses a peer")
		}
	}
	for i := range a.shards {
		if len(a.shards[i].peers) > 0 {
			t.Error("a full table counts another peer")
		}
	}
}
