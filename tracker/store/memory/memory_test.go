package memory_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
	"ntrack/tracker/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func anHour(store.Size) time.Duration { return time.Hour }

func TestMemory(t *testing.T) {
	storetest.RunExact(t, func(*testing.T) store.Store { return memory.New() })
}

func TestMemoryLimits(t *testing.T) {
	storetest.RunLimits(t, func(_ *testing.T, l store.Limits) store.Store {
		m := memory.New()
		m.Limits = l
		return m
	})
}

// The store gives the memory of departed peers back: a track that was large takes little memory,
// and of many tracks only the pages of the few that remain stay in memory.
func TestMemoryGivesBack(t *testing.T) {
	const n = 60_000
	peer := func(i int) wire.Peer {
		return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 1), ID: wire.ID{1}}
	}
	for name, key := range map[string]func(i int) []byte{
		"one track":   func(int) []byte { return []byte("k") },
		"many tracks": func(i int) []byte { return fmt.Appendf(nil, "a key of some bytes: %d", i) },
	} {
		m := memory.New()
		inUse := func() int {
			m.Sweep()
			runtime.GC()
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			return int(s.HeapAlloc)
		}
		before := inUse()
		for i := range n {
			if _, _, err := m.Announce(t.Context(), key(i), peer(i), anHour, store.Want{}, nil); err != nil {
				t.Fatal(err)
			}
		}
		full := inUse() - before
		for i := range n - 100 {
			_ = m.Leave(t.Context(), key(i), peer(i).Endpoint)
		}
		if remaining := inUse() - before; full < 25*n || remaining > full/9 {
			t.Errorf("%s: %d bytes of %d remain", name, remaining, full)
		}
		runtime.KeepAlive(m)
	}
}

// allChanges returns the changes that wait for a subscription.
func allChanges(sub store.Subscription) (changes []store.Change, live bool) {
	for {
		batch, live := sub.Next()
		if batch == nil {
			return changes, live
		}
		changes = append(changes, batch.Changes...)
	}
}

// At most 256 batches wait for a subscriber, because each takes memory.
func TestSlowSubscriberIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		_, _, sub, err := m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		change := func(n int) {
			for i := range n {
				_, _, _ = m.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}, anHour, store.Want{}, nil)
				time.Sleep(100 * time.Millisecond)
			}
			for i := range n {
				_ = m.Leave(t.Context(), []byte("k"), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i)))
				time.Sleep(100 * time.Millisecond)
			}
		}
		change(120)
		if changes, live := allChanges(sub); len(changes) != 240 || !live {
			t.Errorf("%d changes, live %v", len(changes), live)
		}
		change(1000)
		if changes, live := allChanges(sub); len(changes) > 256 || live {
			t.Errorf("%d changes, live %v", len(changes), live)
		}
	})
}

// If peers come and go all the time, each subscriber gets fewer batches the more subscribers there are. A
// change after a pause comes after 50 ms, however many there are, and every change within a second.
func TestBatchesOfManySubscribers(t *testing.T) {
	for _, c := range []struct{ subscribers, most, least int }{
		{1, 40, 30},    // every 50 ms
		{8000, 11, 8},  // every 200 ms
		{40_000, 5, 3}, // every 500 ms
	} {
		synctest.Test(t, func(t *testing.T) {
			m := memory.New()
			key := []byte("k")
			began := time.Now()
			var notified, changed, after atomic.Int64 // times since began
			for i := range c.subscribers {
				notify := func() {}
				if i == 0 {
					notify = func() {
						notified.Add(1)
						after.Store(int64(time.Since(began)) - changed.Load())
					}
				}
				_, _, sub, err := m.Subscribe(t.Context(), key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, notify, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer sub.Close()
			}
			join := func(i int) {
				changed.Store(int64(time.Since(began)))
				p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
				_, _, _ = m.Announce(t.Context(), key, p, anHour, store.Want{}, nil)
			}
			for i := range 2 {
				join(i)
				time.Sleep(time.Second)
				if after := time.Duration(after.Load()); notified.Swap(0) != 1 || after > 50*time.Millisecond {
					t.Errorf("%d subscribers: not one batch after a lone join, or %v later", c.subscribers, after)
				}
			}
			for i := range 200 {
				join(2 + i)
				time.Sleep(10 * time.Millisecond)
			}
			if n := int(notified.Load()); n > c.most || n < c.least {
				t.Errorf("%d subscribers: %d batches in 2 s, want %d to %d", c.subscribers, n, c.least, c.most)
			}
			time.Sleep(time.Second)
		})
	}
}

// Many changes at once do not wait for the time of a large batch: that would end subscriptions.
func TestManyChangesOfManySubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		key := []byte("k")
		var subs [40_000]store.Subscription
		for i := range subs {
			_, _, subs[i], _ = m.Subscribe(t.Context(), key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {}, nil)
			defer subs[i].Close()
		}
		const n = 60_000
		got := 0
		for i := range n {
			p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
			_, _, _ = m.Announce(t.Context(), key, p, anHour, store.Want{}, nil)
			if i%100 > 0 && i < n-1 {
				continue
			}
			time.Sleep(time.Millisecond)
			if i == n-1 {
				time.Sleep(time.Second)
			}
			changes, live := allChanges(subs[0])
			if got += len(changes); !live {
				t.Fatalf("after %d joins and %d changes, the subscription has ended", i+1, got)
			}
		}
		if got != n {
			t.Errorf("%d changes for %d joins", got, n)
		}
	})
}

// Batches that a subscriber does not see count, too, while an earlier one waits for it: they stay in
// memory with it. A subscriber that has taken all goes past them.
func TestUnseenBatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		var notified [2]int
		var subs [2]store.Subscription
		for i := range subs {
			_, _, sub, err := m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() { notified[i]++ }, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			subs[i] = sub
		}
		join := func(addr string, port int) {
			peer := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port))}
			_, _, _ = m.Announce(t.Context(), []byte("k"), peer, anHour, store.Want{}, nil)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		join("192.0.2.1", 1)
		if changes, live := allChanges(subs[1]); len(changes) != 1 || !live {
			t.Errorf("%d changes, live %v", len(changes), live)
		}
		for i := range 300 {
			join("10.0.0.1", 1+i)
		}
		if changes, live := allChanges(subs[0]); len(changes) > 0 || live {
			t.Errorf("the slow subscriber: %d changes, live %v", len(changes), live)
		}
		if changes, live := allChanges(subs[1]); len(changes) > 0 || !live {
			t.Errorf("the other subscriber: %d changes, live %v", len(changes), live)
		}
		if notified != [2]int{2, 1} {
			t.Errorf("notified %d times", notified)
		}
	})
}

// A refused announce or subscription leaves no track and no watchers in memory.
func TestRefusalLeavesNothing(t *testing.T) {
	m := memory.New()
	m.Limits.MaxPerAddr = 1
	peer := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	if _, _, err := m.Announce(t.Context(), []byte("k"), peer, anHour, store.Want{}, nil); err != nil {
		t.Fatal(err)
	}
	peer.Endpoint = netip.MustParseAddrPort("192.0.2.1:2")
	for _, key := range []string{"k", "l"} {
		if _, _, err := m.Announce(t.Context(), []byte(key), peer, anHour, store.Want{}, nil); err == nil {
			t.Errorf("an announce of %q is not refused", key)
		}
		if _, _, _, err := m.Subscribe(t.Context(), []byte(key), peer, func() {}, nil); err == nil {
			t.Errorf("a subscription to %q is not refused", key)
		}
	}
	if tracks, watched := m.Tracks(), m.Watched(); tracks != 1 || watched != 0 {
		t.Errorf("%d tracks and %d watched keys after refusals", tracks, watched)
	}
}

// A change that happens while a subscription is notified is in the next batch.
func TestChangeDuringNotification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		join := func(port uint16) {
			_, _, _ = m.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}, anHour, store.Want{}, nil)
		}
		var notified atomic.Int32
		_, _, sub, err := m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {
			if notified.Add(1) == 1 { // unlike others, this store allows calls in notify
				join(2)
			}
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		join(1)
		time.Sleep(time.Second)
		if changes, live := allChanges(sub); len(changes) != 2 || !live || notified.Load() != 2 {
			t.Errorf("changes %v, live %v, notified %d times", changes, live, notified.Load())
		}
		if n := m.Watched(); n != 1 {
			t.Errorf("%d keys have watchers", n)
		}
		sub.Close()
		if n := m.Watched(); n != 0 {
			t.Errorf("%d keys have watchers after Close", n)
		}
	})
}

// A store removes lapsed peers even without further calls. The empty store has no timer, so that
// the garbage collector can free it.
func TestMemoryForgets(t *testing.T) {
	forgotten := make(chan bool)
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		for i := range 1000 {
			_, _, err := m.Announce(t.Context(), fmt.Appendf(nil, "k%d", i), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, func(store.Size) time.Duration { return 150 * time.Second }, store.Want{}, nil)
			if err != nil {
				t.Fatal(err)
			}
		}
		if n := m.Tracks(); n != 1000 {
			t.Fatalf("%d tracks", n)
		}
		time.Sleep(161 * time.Second)
		synctest.Wait()
		if n := m.Tracks(); n != 0 {
			t.Errorf("%d tracks remain 11 s after their peers have lapsed", n)
		}
		runtime.AddCleanup(m, func(c chan bool) { close(c) }, forgotten)
	})
	deadline := time.After(10 * time.Second)
	for {
		runtime.GC()
		select {
		case <-forgotten:
			return
		case <-deadline:
			t.Fatal("the garbage collector does not free an empty store")
		case <-time.After(time.Millisecond):
		}
	}
}

// Subscriptions in one scope share their batches, so that a batch is made once for all of them.
func TestBatchesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		var subs []store.Subscription
		for i := range 4 { // each begins after one more join
			asker := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}), 0)
			_, _, sub, err := m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: asker}, func() {}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			subs = append(subs, sub)
			peer := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), uint16(1+i))}
			if _, _, err := m.Announce(t.Context(), []byte("k"), peer, anHour, store.Want{}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			first, _ := subs[0].Next()
			for j, sub := range subs {
				if b, _ := sub.Next(); j > 0 && (b == nil || b != first) {
					t.Errorf("subscription %d has a batch of its own after join %d", j, i)
				}
			}
		}
	})
}
