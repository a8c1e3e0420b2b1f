//go:build !race

package memory_test

import (
	"fmt"
	"net/netip"
	"testing"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A store that has been in use for a while allocates nothing when peers and keys come and go.
func TestMemoryAllocatesNothing(t *testing.T) {
	m := memory.New()
	dst := make([]wire.Peer, 0, 100)
	peer := func(i int) wire.Peer {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)}
		if i%2 == 0 {
			p.Endpoint = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 1)
			p.ID[0] = byte(i)
		}
		return p
	}
	keys := make([][]byte, 50)
	for k := range keys {
		keys[k] = fmt.Appendf(nil, "key %d", k)
	}
	for k := range 500 { // so that every shard has watchers of other keys
		_, _, sub, err := m.Subscribe(t.Context(), fmt.Appendf(nil, "watched %d", k), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:0")}, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
	}
	round := 0
	visit := func() {
		round++
		for k, key := range keys {
			p := peer(k + round)
			for range 2 {
				if _, _, err := m.Announce(t.Context(), key, p, anHour, store.Want{Peers: 50}, dst); err != nil {
					t.Fatal(err)
				}
				_, _, _ = m.Announce(t.Context(), []byte("everybody"), p, anHour, store.Want{Peers: 50}, dst)
			}
			_, _, _ = m.Look(t.Context(), key, p.Endpoint.Addr(), store.Want{Peers: 50}, dst)
			_ = m.Leave(t.Context(), key, p.Endpoint)
			if k%3 == 0 {
				_ = m.Leave(t.Context(), []byte("everybody"), p.Endpoint)
			}
		}
	}
	for range 1000 { // until no table and no slab grows any more
		visit()
	}
	if n := testing.AllocsPerRun(200, visit); n > 0 {
		t.Errorf("%v allocations in about 300 calls", n)
	}
}
