//go:build linux

package memory_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

//	go test ./tracker/store/memory -run '^$' -bench Memory

// cpu is the processor time of this process. On a busy machine it is more exact than the wall
// clock.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory of this process after a garbage collection.
func resident(b *testing.B) (rss, heap float64) {
	debug.FreeOSMemory()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages := 0
	if _, err := fmt.Sscan(strings.Fields(string(text))[1], &pages); err != nil {
		b.Fatal(err)
	}
	return float64(pages * os.Getpagesize()), float64(s.HeapInuse)
}

func publicPeer(i int) wire.Peer {
	return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)}
}

func nthKey(key *[20]byte, n int) {
	binary.BigEndian.PutUint64(key[:], uint64(n)*0x9e3779b97f4a7c15)
}

// fill announces this many peers under each of this many keys of 20 bytes. It announces the first
// peer of every key, then the second of every key, and so on.
func fill(b *testing.B, m *memory.Store, keys, peers int, change func(*wire.Peer)) {
	var key [20]byte
	for p := range peers {
		for k := range keys {
			nthKey(&key, k)
			peer := publicPeer(k*peers + p)
			if change != nil {
				change(&peer)
			}
			if _, _, err := m.Announce(b.Context(), key[:], peer, anHour, store.Want{}, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkMemoryAnnounce(b *testing.B) {
	for _, n := range []int{50, 1_000, 100_000, 1_000_000} {
		var m *memory.Store
		var key [20]byte
		dst := make([]wire.Peer, 0, 50)
		at := 0
		run := func(name string, op func(i int)) {
			b.Run(fmt.Sprintf("%s/peers=%d", name, n), func(b *testing.B) {
				if m == nil {
					m = memory.New()
					fill(b, m, 1, n, nil)
				}
				b.ReportAllocs()
				start := cpu(b)
				for b.Loop() {
					at = (at + 7919) % n // far away, so that the peer is not in the cache
					op(at)
				}
				b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
			})
		}
		run("give50", func(i int) {
			_, _, _ = m.Announce(b.Context(), key[:], publicPeer(i), anHour, store.Want{Peers: 50}, dst)
		})
		run("renew", func(i int) { _, _, _ = m.Announce(b.Context(), key[:], publicPeer(i), anHour, store.Want{}, dst) })
		run("leave+join", func(i int) {
			_ = m.Leave(b.Context(), key[:], publicPeer(i).Endpoint)
			_, _, _ = m.Announce(b.Context(), key[:], publicPeer(i), anHour, store.Want{}, dst)
		})
	}
}

// The usual load: renewals of random peers in 10,000 tracks of 80 peers. It runs as many goroutines
// as processors (-cpu 1,2).
func BenchmarkMemoryTracks(b *testing.B) {
	const keys, peers = 10_000, 80
	m := memory.New()
	fill(b, m, keys, peers, nil)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		var key [20]byte
		dst := make([]wire.Peer, 0, 50)
		for pb.Next() {
			i := rand.IntN(keys * peers)
			nthKey(&key, i/peers)
			_, _, _ = m.Announce(b.Context(), key[:], publicPeer(i), anHour, store.Want{Peers: 50}, dst)
		}
	})
	b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
}

func withID(p *wire.Peer) {
	a := p.Endpoint.Addr().As4()
	copy(p.ID[:], "-NT0100-")
	copy(p.ID[8:], a[:])
}

func inIPv6(p *wire.Peer) {
	a := p.Endpoint.Addr().As4()
	wide := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	copy(wide[4:], a[:])
	p.Endpoint = netip.AddrPortFrom(netip.AddrFrom16(wide), 6881)
}

// How much memory a peer takes, without what an empty store takes, and how long a full garbage
// collection takes. Run one case at a time, because each case leaves garbage in the heap:
//
//	go test ./tracker/store/memory -run '^$' -bench 'MemorySize/20000x50$' -benchtime 1x
func BenchmarkMemorySize(b *testing.B) {
	for _, c := range []struct {
		name        string
		keys, peers int
		change      func(*wire.Peer)
	}{
		{"20000x50", 20_000, 50, nil},
		{"20000x50+id", 20_000, 50, withID},
		{"20000x50-IPv6", 20_000, 50, inIPv6},
		{"20000x80", 20_000, 80, nil},
		{"1000000x1", 1_000_000, 1, nil},
		{"1x1000000", 1, 1_000_000, nil},
		{"200000x50", 200_000, 50, nil},
		{"10000000x1", 10_000_000, 1, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				m := memory.New()
				rss, heap := resident(b)
				fill(b, m, c.keys, c.peers, c.change)
				m.Sweep()
				rss2, heap2 := resident(b)
				start, had := time.Now(), cpu(b)
				runtime.GC()
				gc, used := time.Since(start), cpu(b)-had
				n := float64(c.keys * c.peers)
				b.ReportMetric((rss2-rss)/n, "rss-B/peer")
				b.ReportMetric((heap2-heap)/n, "heap-B/peer")
				b.ReportMetric(float64(gc)/1e6, "gc-ms")
				b.ReportMetric(float64(used)/1e6, "gc-cpu-ms")
				runtime.KeepAlive(m)
			}
		})
	}
}

// How much processor time a sweep takes when no peer has lapsed since the last sweep.
func BenchmarkMemorySweep(b *testing.B) {
	for _, c := range []struct{ keys, peers int }{{1_000_000, 1}, {20_000, 50}, {100, 10_000}, {1, 1_000_000}} {
		b.Run(fmt.Sprintf("%dx%d", c.keys, c.peers), func(b *testing.B) {
			m, stop := memory.NewStoppable()
			fill(b, m, c.keys, c.peers, nil)
			var key [20]byte
			for k := range c.keys { // one peer of each track has lapsed
				nthKey(&key, k)
				_, _, _ = m.Announce(b.Context(), key[:], publicPeer(c.keys*c.peers+k), func(store.Size) time.Duration { return time.Second }, store.Want{}, nil)
			}
			for range 3 {
				stop(time.Second)
				m.Sweep()
			}
			start := cpu(b)
			for b.Loop() {
				m.Sweep()
			}
			b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
		})
	}
}
