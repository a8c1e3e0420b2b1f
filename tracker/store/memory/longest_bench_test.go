//go:build linux

package memory_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// How much processor time the longest of many calls takes. All calls for the keys of its shard wait for it.
// Run it several times, because some calls also pay for interrupts and page faults:
//
//	go test ./tracker/store/memory -run '^$' -bench MemoryLongest -benchtime 1x -count 5
func BenchmarkMemoryLongest(b *testing.B) {
	const n = 1_000_000
	var key [20]byte
	announce := func(b *testing.B, m *memory.Store, p wire.Peer) {
		if _, _, err := m.Announce(b.Context(), key[:], p, anHour, store.Want{}, nil); err != nil {
			b.Fatal(err)
		}
	}
	longest := func(b *testing.B, name string, n int, call func(i int)) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var most time.Duration
		for i := range n {
			start := threadTime(b)
			call(i)
			most = max(most, threadTime(b)-start)
		}
		b.ReportMetric(float64(most)/1e3, name+"-max-µs")
	}
	run := func(name string, f func(b *testing.B, m *memory.Store)) {
		b.Run(name, func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection takes processor time from the calls
			for range b.N {
				f(b, memory.New())
			}
			b.ReportMetric(0, "ns/op")
		})
	}
	run(fmt.Sprintf("keys=%d", n), func(b *testing.B, m *memory.Store) {
		longest(b, "join", n, func(i int) {
			nthKey(&key, i)
			announce(b, m, publicPeer(i))
		})
		longest(b, "leave", n, func(i int) {
			nthKey(&key, i)
			_ = m.Leave(b.Context(), key[:], publicPeer(i).Endpoint)
		})
	})
	run(fmt.Sprintf("peers=%d", n), func(b *testing.B, m *memory.Store) {
		longest(b, "join", n, func(i int) { announce(b, m, publicPeer(i)) })
		longest(b, "leave", n, func(i int) { _ = m.Leave(b.Context(), key[:], publicPeer(i).Endpoint) })
	})
	run("streams=10000", func(b *testing.B, m *memory.Store) {
		const n = 10_000
		var subs [n]store.Subscription
		dst := make([]wire.Peer, 0, n)
		longest(b, "subscribe", n, func(i int) {
			var err error
			if dst, _, subs[i], err = m.Subscribe(b.Context(), key[:], publicPeer(i), func() {}, dst[:0]); err != nil {
				b.Fatal(err)
			}
		})
		longest(b, "join", 10, func(i int) { announce(b, m, publicPeer(n+i)) })
		longest(b, "leave", 1000, func(i int) { _ = m.Leave(b.Context(), key[:], publicPeer(n-1-i).Endpoint) })
		longest(b, "close", n, func(i int) { subs[i].Close() })
	})
	run("scrape", func(b *testing.B, m *memory.Store) {
		fill(b, m, n, 1, nil)
		stop, most := make(chan struct{}), make(chan time.Duration)
		go func() { // announces at the same time
			var key [20]byte
			var longest time.Duration
			for i := 0; ; i = (i + 7919) % n {
				select {
				case <-stop:
					most <- longest
					return
				default:
				}
				binary.BigEndian.PutUint64(key[:], uint64(i)*0x9e3779b97f4a7c15)
				start := time.Now()
				_, _, _ = m.Announce(b.Context(), key[:], publicPeer(i), anHour, store.Want{}, nil)
				longest = max(longest, time.Since(start))
			}
		}()
		if _, err := m.Scrape(b.Context(), nil, netip.MustParseAddr("192.0.2.1"), nil); err != nil {
			b.Fatal(err)
		}
		close(stop)
		b.ReportMetric(float64(<-most)/1e3, "announce-max-µs")
	})
}
