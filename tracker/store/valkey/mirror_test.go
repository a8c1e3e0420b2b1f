package valkey

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// A mirror is compared with a map, over random changes.
func TestMirror(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	endpoint := func() netip.AddrPort {
		i := r.IntN(60)
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i / 4)})
		if i%2 == 0 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i / 4)})
		}
		return netip.AddrPortFrom(addr, uint16(65535-i))
	}
	var m mirror
	want := map[netip.AddrPort]score{}
	now := int64(1_800_000_000)
	for step := range 20_000 {
		e := endpoint()
		_, listed := want[e]
		switch r.IntN(5) {
		case 0, 1, 2:
			x := scoreOf(float64(now) + float64(r.IntN(200))/2)
			if joined := m.set(e, x); joined == listed {
				t.Fatalf("step %d of seed %d: %v joined: %v, listed before: %v", step, seed, e, joined, listed)
			}
			want[e] = x
		case 3:
			if left := m.remove(e); left != listed {
				t.Fatalf("step %d of seed %d: %v left: %v, listed before: %v", step, seed, e, left, listed)
			}
			delete(want, e)
		case 4:
			now += int64(r.IntN(4))
			lapsed := map[netip.AddrPort]score{}
			m.lapsed(now, func(e netip.AddrPort) { lapsed[e] = m.get(e) })
			for e, x := range want {
				if (x.float() <= float64(now)) != (lapsed[e] != 0) {
					t.Fatalf("step %d of seed %d: at %d the peer with the score %v is found: %v", step, seed, now, x.float(), lapsed[e] != 0)
				}
			}
			for e := range lapsed {
				m.remove(e)
				delete(want, e)
			}
		}
		got := map[netip.AddrPort]score{}
		m.each(func(e netip.AddrPort, x score) { got[e] = x })
		if !maps.Equal(got, want) || m.len() != len(want) || m.get(e) != want[e] {
			t.Fatalf("step %d of seed %d: %v, want %v", step, seed, got, want)
		}
	}
}

// A score has halves, also in a mirror, and no score is mistaken for no peer.
func TestScore(t *testing.T) {
	e := netip.MustParseAddrPort("192.0.2.1:1")
	for _, c := range []struct {
		value  float64
		lease  bool
		lapses int64 // the first second in which the peer is not listed
	}{
		{1_800_000_000, false, 1_800_000_000},
		{1_800_000_000.5, true, 1_800_000_001},
		{3_000_000_000.5, true, 3_000_000_001},
	} {
		var m mirror
		m.set(e, scoreOf(c.value))
		if x := m.get(e); x.float() != c.value || x.lease() != c.lease || x.lapsed(c.lapses-1) || !x.lapsed(c.lapses) {
			t.Errorf("%v: %v, a lease: %v, lapsed before and at %d: %v, %v", c.value, x.float(), x.lease(), c.lapses, x.lapsed(c.lapses-1), x.lapsed(c.lapses))
		}
	}
	for _, value := range []float64{-3, 0, 1e18} {
		var m mirror
		m.set(e, scoreOf(value))
		if x := m.get(e); x == 0 || x.lapsed(1_800_000_000) != (value < 1) {
			t.Errorf("%v: %v", value, x.float())
		}
	}
}
