package memory

import (
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// The shares add up to the peers that are wanted, and no share is more than its family has.
func TestShares(t *testing.T) {
	for n4 := range 40 {
		for n6 := range 40 {
			for want := 1; want < 50; want++ {
				for range 4 {
					s := shares(want, n4, n6)
					if s[0] < 0 || s[0] > n4 || s[1] < 0 || s[1] > n6 || s[0]+s[1] != min(want, n4+n6) {
						t.Fatalf("the shares of %d from %d and %d peers are %v", want, n4, n6, s)
					}
				}
			}
		}
	}
}

// A draw ends after maxSteps slots even if nearly all peers are hidden, because other calls wait
// for it.
func TestDrawIsBounded(t *testing.T) {
	m := New()
	for i := range 100_000 {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)}
		if i == 0 {
			p.Endpoint = netip.MustParseAddrPort("192.0.2.1:1")
		}
		if _, _, err := m.Announce(t.Context(), []byte("k"), p, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	const rounds = 500
	for range rounds {
		peers, r, err := m.Look(t.Context(), []byte("k"), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: 50}, nil)
		if err != nil || r.Count != 1 {
			t.Fatal(r, err)
		}
		found += len(peers)
	}
	if found == rounds {
		t.Error("each draw finds the only visible peer, so it visits the whole table")
	}
	if found == 0 { // by chance less than once in 10^16 runs
		t.Error("no draw finds the only visible peer, so all draws visit the same slots")
	}
}
