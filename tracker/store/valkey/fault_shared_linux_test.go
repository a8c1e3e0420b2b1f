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

// A peer has streams at two trackers, which both renew its lease. The end of one of them changes nothing. After
// the end of both, the peer leaves within some seconds, and not only when its lease lapses.
func TestFaultSharedPeer(t *testing.T) {
	t.Parallel()
	v := startVirtual(t, valkeytest.Options{})
	for _, first := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) { sharedPeer(t, v, first) })
	}
}

func sharedPeer(t *testing.T, v *virtualTime, first int) {
	defer v.empty(t)
	time.Sleep(24 * time.Hour) // a bubble begins with the year 2000, and scores before it are not kept
	key, self := []byte("k"), netip.MustParseAddrPort("203.0.113.1:1")
	var stores []*Store
	var subs []store.Subscription
	subscribe := func(s *Store, e netip.AddrPort) store.Subscription {
		t.Helper()
		_, _, sub, err := s.Subscribe(t.Context(), key, wire.Peer{Endpoint: e}, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	for range 2 {
		s, err := Open(t.Context(), Config{URL: v.engine.URL(), adjust: v.adjust})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stores = append(stores, s)
		subs = append(subs, subscribe(s, self))
		time.Sleep(400 * time.Millisecond)
	}
	watcher := subscribe(stores[0], netip.MustParseAddrPort("192.0.2.9:0"))
	defer watcher.Close()
	expect := func(what string, listed int) {
		t.Helper()
		_, r, err := stores[0].Look(t.Context(), key, netip.MustParseAddr("192.0.2.9"), store.Want{}, nil)
		if err != nil || r.Count != listed {
			t.Errorf("%s: %d peers are listed, want %d; %v", what, r.Count, listed, err)
		}
		batch, live := watcher.Next()
		if left := batch != nil; left != (listed == 0) || !live {
			t.Errorf("%s: a watcher gets %+v (live: %v)", what, batch, live)
		}
	}
	time.Sleep(2 * time.Minute) // many renewals
	expect("two streams", 1)
	subs[first].Close()
	for range 100 {
		time.Sleep(time.Second)
		expect("one stream", 1)
	}
	// Another stream at that tracker, until both have renewed the lease.
	subs[first] = subscribe(stores[first], self)
	time.Sleep(time.Minute)
	for _, sub := range subs {
		sub.Close()
	}
	time.Sleep(sharedTime + 2*time.Second)
	expect("no stream", 0)
}
