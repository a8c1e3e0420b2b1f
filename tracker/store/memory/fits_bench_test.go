package memory_test

import (
	"fmt"
	"net/netip"
	"testing"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// BenchmarkFits counts the peers and keys that fit a table of 64 MiB, which is that of --max-memory 144M.
// Keys have 20 bytes. A flood of fresh keys gets seven eighths of the memory.
func BenchmarkFits(b *testing.B) {
	for _, c := range []struct {
		peers    int // of each key
		ipv6, id bool
	}{{1, false, false}, {1, true, false}, {50, false, false}, {50, true, false}, {50, false, true}, {1 << 30, false, false}} {
		b.Run(fmt.Sprintf("peers=%d,ipv6=%v,ids=%v", c.peers, c.ipv6, c.id), func(b *testing.B) {
			n := 0
			for b.Loop() {
				m := memory.New()
				m.Limits = store.Limits{MaxBytes: 64 << 20, MaxPerAddr: 10_000}
				for n = 0; ; n++ {
					a := netip.AddrFrom4([4]byte{11 + byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)})
					if c.ipv6 {
						a = netip.AddrFrom16([16]byte{0x20, 1, 4: byte(n >> 24), 5: byte(n >> 16), 6: byte(n >> 8), 7: byte(n), 15: 1})
					}
					p := wire.Peer{Endpoint: netip.AddrPortFrom(a, 1)}
					if c.id {
						p.ID = wire.ID{1}
					}
					if _, _, err := m.Announce(b.Context(), fmt.Appendf(nil, "%020d", n/c.peers), p, anHour, store.Want{}, nil); err != nil {
						break
					}
				}
			}
			b.ReportMetric(float64(n), "peers")
			b.ReportMetric(float64(n)/float64(min(c.peers, n)), "keys")
			b.ReportMetric(0, "ns/op")
		})
	}
}
