package valkey

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// The clock of a tracker is wrong by an hour, or by years. Peers lapse when their ttl has passed, and streams
// hold theirs, as if it were right.
func TestFaultClockWrong(t *testing.T) {
	t.Parallel()
	v := startVirtual(t, valkeytest.Options{})
	for _, behind := range []time.Duration{time.Hour, -time.Hour, 20 * 365 * 24 * time.Hour} {
		v.ahead = behind
		synctest.Test(t, func(t *testing.T) { clockIsBehind(t, v) })
	}
}

func clockIsBehind(t *testing.T, v *virtualTime) {
	defer v.empty(t)
	time.Sleep(24 * time.Hour) // a bubble begins with the year 2000, and scores before it are not kept
	s, err := Open(t.Context(), Config{URL: v.engine.URL(), adjust: v.adjust})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	key, watching := []byte("k"), netip.MustParseAddr("192.0.2.9")
	endpoint := func(i byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, i}), 1) }
	list := func(i byte, ttl time.Duration) {
		t.Helper()
		if _, _, err := s.Announce(t.Context(), key, wire.Peer{Endpoint: endpoint(i)}, func(store.Size) time.Duration { return ttl }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, want int) {
		t.Helper()
		given, r, err := s.Look(t.Context(), key, watching, store.Want{Peers: 10}, nil)
		if err != nil || len(given) != want || r.Count != want {
			t.Errorf("%s: %d peers given, count %d, want %d; %v", what, len(given), r.Count, want, err)
		}
	}
	subscribe := func(self netip.AddrPort) store.Subscription {
		t.Helper()
		_, _, sub, err := s.Subscribe(t.Context(), key, wire.Peer{Endpoint: self}, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	changes := func(what string, sub store.Subscription, want ...store.Change) {
		t.Helper()
		var got []store.Change
		for {
			batch, live := sub.Next()
			if !live {
				t.Errorf("%s: the subscription has ended", what)
			}
			if batch == nil {
				break
			}
			got = append(got, batch.Changes...)
		}
		if len(got) != len(want) || len(want) > 0 && got[0] != want[0] {
			t.Errorf("%s: changes %v, want %v", what, got, want)
		}
	}

	list(1, 100*time.Second)
	list(2, time.Hour)
	watcher, member := subscribe(netip.AddrPortFrom(watching, 0)), subscribe(endpoint(3))
	expect("at the beginning", 3)
	time.Sleep(2 * time.Second)
	changes("at the beginning", watcher, store.Change{Endpoint: endpoint(3), Joined: true})
	time.Sleep(96 * time.Second)
	expect("before the lapse", 3)
	changes("before the lapse", watcher)
	time.Sleep(4 * time.Second)
	expect("after the lapse", 2)
	changes("after the lapse", watcher, store.Change{Endpoint: endpoint(1)})
	time.Sleep(50 * time.Minute) // many leases
	expect("after 50 minutes", 2)
	changes("after 50 minutes", watcher)
	member.Close()
	time.Sleep(2 * time.Second)
	expect("after the stream", 1)
	changes("after the stream", watcher, store.Change{Endpoint: endpoint(3)})
	time.Sleep(10 * time.Minute)
	expect("after all have lapsed", 0)
	changes("after all have lapsed", watcher, store.Change{Endpoint: endpoint(2)})
	watcher.Close()
}
