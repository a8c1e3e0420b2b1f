package memory_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// changing is a store with little memory, a subscription to its key k, and a function with which peers
// join or leave there.
func changing(t *testing.T, subscriber string) (m *memory.Store, sub store.Subscription, change func(peers int, joined bool)) {
	m = memory.New()
	m.WatchPeak()
	m.Limits = store.Limits{MaxBytes: 4 << 20}
	_, _, sub, err := m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort(subscriber)}, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m, sub, func(peers int, joined bool) {
		for i := range peers {
			p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), 1)}
			for n := range 3 { // the second undoes the first
				var err error
				if joined == (n%2 == 0) {
					_, _, err = m.Announce(t.Context(), []byte("k"), p, anHour, store.Want{}, nil)
				} else {
					err = m.Leave(t.Context(), []byte("k"), p.Endpoint)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// If changes would take too much memory, the subscriptions of their key end. Joins and leaves go on,
// and the memory is there again.
func TestChangesStayWithinMaxBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sub, change := changing(t, "192.0.2.9:0")
		for i := range 100 {
			change(5, i%2 == 0)
			time.Sleep(time.Second)
		}
		if n := m.ChangeBytes(); n < 100*5*256 {
			t.Errorf("100 batches count for %d bytes", n)
		}
		if err := m.CheckBytes(); err != nil {
			t.Error(err)
		}
		if _, live := sub.Next(); !live {
			t.Error("the subscription has ended too early")
		}
		change(2000, true)
		if _, live := sub.Next(); live {
			t.Error("the subscription goes on without memory")
		}
		if peak := m.Peak(); peak > m.Limits.MaxBytes {
			t.Errorf("at most %d bytes", peak)
		}
		time.Sleep(2 * time.Second)
		if n := m.ChangeBytes(); n != 0 {
			t.Errorf("%d bytes of changes for no subscription", n)
		}
		sub.Close()
		_, _, sub, _ = m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {}, nil)
		defer sub.Close()
		_, _, err := m.Announce(t.Context(), []byte("k"), peerOf(1<<16+1), anHour, store.Want{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if changes, live := allChanges(sub); len(changes) != 1 || !live {
			t.Errorf("a new subscription gets %d changes, live %v", len(changes), live)
		}
	})
}

// A subscriber that takes its changes leaves nothing behind, nor does one that closes.
func TestTakenChangesAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sub, change := changing(t, "192.0.2.9:0")
		joined := false
		for _, end := range []func(){func() { allChanges(sub) }, sub.Close} {
			joined = !joined
			change(100, joined)
			time.Sleep(time.Second)
			if n := m.ChangeBytes(); n < 100*256 {
				t.Errorf("100 changes count for %d bytes", n)
			}
			end()
			time.Sleep(2 * time.Second)
			if n := m.ChangeBytes(); n != 0 {
				t.Errorf("%d bytes of changes that nobody waits for", n)
			}
			if err := m.CheckBytes(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A member whose subscription ends for want of memory stays listed until it can subscribe again.
func TestMembersStayWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sub, change := changing(t, "192.0.2.9:1")
		time.Sleep(time.Second)
		change(2000, true)
		if _, live := sub.Next(); live {
			t.Fatal("the subscription goes on without memory")
		}
		sub.Close()
		count := func() int {
			_, r, _ := m.Look(t.Context(), []byte("k"), netip.MustParseAddr("192.0.2.8"), store.Want{}, nil)
			return r.Count
		}
		if n := count(); n != 2001 {
			t.Errorf("%d members right after the end, want 2001", n)
		}
		time.Sleep(32 * time.Second)
		if n := count(); n != 2000 {
			t.Errorf("%d members 32 s after the end, want 2000", n)
		}
	})
}
