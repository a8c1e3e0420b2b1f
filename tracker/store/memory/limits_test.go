package memory_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// peerOf returns one of many peers, of both families, some with an ID.
func peerOf(n uint64) wire.Peer {
	p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)}), 1)}
	if n%3 == 0 {
		p.Endpoint = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 5: byte(n >> 16), 6: byte(n >> 8), 7: byte(n), 15: 1}), 1)
	}
	if n%5 == 0 {
		p.ID = wire.ID{1}
	}
	return p
}

// floods are the keys of floods of different shapes.
var floods = map[string]func(n uint64) []byte{
	"one giant track":      func(uint64) []byte { return []byte("k") },
	"tiny tracks":          func(n uint64) []byte { return fmt.Appendf(nil, "%d", n) },
	"long keys":            func(n uint64) []byte { return fmt.Appendf(nil, "%0255d", n) },
	"tracks of three":      func(n uint64) []byte { return fmt.Append(nil, n/3) },
	"tracks of many sizes": func(n uint64) []byte { return fmt.Append(nil, n%(1+n%1000)) },
}

// No flood makes the table take more bytes than its limit, also not while a table or the buckets grow.
// The process takes little more. A renewal is never refused.
func TestFloodsStayWithinMaxBytes(t *testing.T) {
	const most = 4 << 20
	for name, key := range floods {
		t.Run(name, func(t *testing.T) {
			heap := func() int64 {
				runtime.GC()
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				return int64(s.HeapAlloc)
			}
			before := heap()
			m := memory.New()
			m.WatchPeak()
			m.Limits = store.Limits{MaxBytes: most, MaxPerAddr: 1000}
			var listed []uint64
			join := func(n uint64) error {
				_, _, err := m.Announce(t.Context(), key(n), peerOf(n), anHour, store.Want{}, nil)
				return err
			}
			for n := uint64(0); n < 600_000 && (n < 1000 || m.Peak() < most/2 || len(listed) > int(n/2)); n++ {
				err := join(n)
				var full *store.FullError
				switch {
				case err == nil:
					listed = append(listed, n)
				case !errors.As(err, &full) || full.What != store.FullMemory:
					t.Fatal(err)
				}
			}
			stats, peak := m.Stats(), m.Peak()
			t.Logf("%d peers in %d bytes, at most %d", stats.Peers, stats.Bytes, peak)
			if peak > most || stats.Bytes < most/3 {
				t.Errorf("%d bytes, at most %d, want %d at most and nearly all of it", stats.Bytes, peak, most)
			}
			if took := heap() - before - int64(8*cap(listed)); took > int64(stats.Bytes)*5/4 {
				t.Errorf("the process takes %d bytes for a table of %d", took, stats.Bytes)
			}
			if err := m.CheckBytes(); err != nil {
				t.Error(err)
			}
			for _, n := range listed {
				if err := join(n); err != nil {
					t.Fatalf("a renewal: %v", err)
				}
			}
			for _, n := range listed {
				if err := m.Leave(t.Context(), key(n), peerOf(n).Endpoint); err != nil {
					t.Fatal(err)
				}
			}
			m.Sweep()
			if stats := m.Stats(); stats != (store.Stats{Limits: m.Limits}) {
				t.Errorf("after all have left: %+v", stats)
			}
			if peak := m.Peak(); peak > most {
				t.Errorf("at most %d bytes while peers left", peak)
			}
		})
	}
}

// A flood of fresh keys never gets the last eighth of the table, not even while it grows. The counters
// of addresses take a sixteenth at most.
func TestKeysStayBelowTheLastEighth(t *testing.T) {
	for _, keyLen := range []int{8, 60, 255} {
		for _, most := range []int64{1 << 20, 3 << 20, 5_000_000} {
			fill := func(perAddr int) (keys int, peak int64) {
				m := memory.New()
				m.WatchPeak()
				m.Limits = store.Limits{MaxBytes: most, MaxPerAddr: perAddr}
				for {
					n := uint64(keys)
					if _, _, err := m.Announce(t.Context(), fmt.Appendf(nil, "%0*d", keyLen, n), peerOf(5*n+1), anHour, store.Want{}, nil); err != nil {
						return keys, m.Peak()
					}
					keys++
				}
			}
			keys, peak := fill(0)
			if peak > most/8*7 || peak < most/8*6 {
				t.Errorf("%d keys of %d bytes take %d of %d bytes", keys, keyLen, peak, most)
			}
			if counted, _ := fill(1000); most > 4<<20 && counted < keys*85/100 {
				t.Errorf("with counters of addresses %d keys of %d bytes find room, without them %d", counted, keyLen, keys)
			}
		}
	}
}

// What peers that have left do not need any longer is there for others at once, in every part of the
// table: as much as after a sweep.
func TestRoomOfTheDeparted(t *testing.T) {
	fill := func(sweep bool) (peers uint64) {
		m := memory.New()
		m.Limits = store.Limits{MaxBytes: 4 << 20}
		var keys [][]byte
		for n := uint64(0); ; n++ {
			key := fmt.Appendf(nil, "%0200d", n)
			if _, _, err := m.Announce(t.Context(), key, peerOf(1), anHour, store.Want{}, nil); err != nil {
				break
			}
			keys = append(keys, key)
		}
		for _, key := range keys[200:] { // each part of the table keeps some
			if err := m.Leave(t.Context(), key, peerOf(1).Endpoint); err != nil {
				t.Fatal(err)
			}
		}
		if sweep {
			m.Sweep()
		}
		for {
			if _, _, err := m.Announce(t.Context(), fmt.Append(nil, peers%100), peerOf(5*peers+1), anHour, store.Want{}, nil); err != nil {
				return peers
			}
			peers++
		}
	}
	if got, want := fill(false), fill(true); got < want*98/100 {
		t.Errorf("%d peers find room, %d after a sweep", got, want)
	}
}

// Calls from many goroutines together stay within the limit, too.
func TestConcurrentFloodStaysWithinMaxBytes(t *testing.T) {
	m := memory.New()
	m.WatchPeak()
	m.Limits = store.Limits{MaxBytes: 1 << 20, MaxPerAddr: 1000}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20_000 {
				n := rand.Uint64N(100_000)
				key := fmt.Append(nil, n%3000*(n%2))
				if rand.IntN(3) == 0 {
					_ = m.Leave(t.Context(), key, peerOf(n).Endpoint)
				} else {
					_, _, _ = m.Announce(t.Context(), key, peerOf(n), anHour, store.Want{}, nil)
				}
			}
		})
	}
	wg.Wait()
	if peak := m.Peak(); peak > m.Limits.MaxBytes || peak < m.Limits.MaxBytes/2 {
		t.Errorf("at most %d bytes, want nearly %d", peak, m.Limits.MaxBytes)
	}
	if err := m.CheckBytes(); err != nil {
		t.Error(err)
	}
}
