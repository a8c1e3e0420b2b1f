package valkey

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// BenchmarkAnnounce renews peers of 1,000 tracks of 100 peers from several goroutines at a time.
func BenchmarkAnnounce(b *testing.B) {
	s := open(b, Config{URL: valkeytest.Start(b, valkeytest.Options{}).URL()})
	const tracks, peers = 1000, 100
	announce := func(dst []wire.Peer, track, peer int) []wire.Peer {
		key := binary.BigEndian.AppendUint32([]byte("the key of a track: "), uint32(track))
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(peer)}), uint16(1+peer))}
		given, _, err := s.Announce(b.Context(), key, p, fixed(time.Hour), store.Want{Peers: 50}, dst)
		if err != nil {
			b.Fatal(err)
		}
		return given
	}
	for i := range tracks * peers {
		announce(nil, i/peers, i%peers)
	}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var dst []wire.Peer
		for pb.Next() {
			dst = announce(dst[:0], rand.IntN(tracks), rand.IntN(peers))
		}
	})
}
