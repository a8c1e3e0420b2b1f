package valkey_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// A stream moves to another tracker, and the peer leaves at once, while messages about both streams are
// still on their way. The Leave ends the new stream.
func TestFaultLeaveSoon(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	a := open(t, valkey.Config{URL: engine.URL()})
	b := open(t, valkey.Config{URL: engine.URL()})
	l := &ledger{}
	const key = "k"
	watcher := watch(t, l, a, key)
	watch(t, l, b, key)
	for i := range 150 {
		member(t, l, a, key, peer(i)).close()
		second := member(t, l, b, key, peer(i))
		must(t, leave(a, key, peer(i)))
		eventually(t, repaired, func() error { return ended(second) })
	}
	agree(t, repaired, a, key, nil, watcher)
}

// Two trackers remove a track, one soon after the other. Streams that began in between end.
func TestFaultRemoveTwice(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	a := open(t, valkey.Config{URL: engine.URL()})
	b := open(t, valkey.Config{URL: engine.URL()})
	l := &ledger{}
	const key = "k"
	first := watch(t, l, a, key)
	must(t, a.Remove(t.Context(), []byte(key)))
	eventually(t, repaired, func() error { return ended(first) })
	// The message of that Remove comes before the one about this member.
	second, other := member(t, l, a, key, peer(1)), watch(t, l, b, key)
	agree(t, repaired, b, key, peers(1, 2), other)
	agree(t, repaired, a, key, peers(1, 2), second)
	must(t, b.Remove(t.Context(), []byte(key)))
	eventually(t, repaired, func() error { return ended(second) })
	agree(t, repaired, a, key, nil)
}

// Many peers have a stream at each of three trackers. Two of these end at the same time, while the third tracker
// writes its leases again. It keeps the peers listed.
func TestFaultThirdStays(t *testing.T) {
	t.Parallel()
	const tracks, perTrack = 10, 20
	engine := valkeytest.Start(t, valkeytest.Options{})
	var stores []*valkey.Store
	for range 3 {
		stores = append(stores, open(t, valkey.Config{URL: engine.URL()}))
	}
	l := &ledger{}
	key := func(k int) string { return fmt.Sprintf("track %d", k) }
	var watchers [tracks]*watcher
	for k := range tracks {
		watchers[k] = watch(t, l, stores[0], key(k))
	}
	var streams [3][]*watcher
	for i, s := range stores {
		for k := range tracks {
			for _, self := range peers(0, perTrack) {
				streams[i] = append(streams[i], member(t, l, s, key(k), self))
				l.stays(key(k), self)
			}
		}
	}
	for k := range tracks {
		agree(t, repaired, stores[0], key(k), peers(0, perTrack), watchers[k])
	}
	var ending sync.WaitGroup
	for _, at := range streams[:2] {
		ending.Go(func() {
			for _, w := range at {
				w.close()
			}
		})
	}
	ending.Wait()
	// A lease that was not written again would lapse after eleven seconds.
	for began := time.Now(); time.Since(began) < 12*time.Second; {
		for k := range tracks {
			agree(t, repaired, stores[0], key(k), peers(0, perTrack), watchers[k])
		}
	}
}
