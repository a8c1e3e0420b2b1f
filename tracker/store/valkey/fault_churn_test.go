package valkey_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// 200 members join, leave, move between three trackers, renew, and open and close streams for 20
// seconds. No leave is false, in the end every watcher sees what the table has, and nothing remains of
// the trackers.
func TestFaultChurn(t *testing.T) {
	const members, tracks, lasts = 200, 8, 20 * time.Second
	engine := valkeytest.Start(t, valkeytest.Options{})
	var stores []*valkey.Store
	for range 3 {
		stores = append(stores, open(t, valkey.Config{URL: engine.URL()}))
	}
	l := &ledger{}
	key := func(k int) string { return fmt.Sprintf("track %d", k) }
	var watchers [tracks][]*watcher
	for k := range tracks {
		for _, s := range stores {
			watchers[k] = append(watchers[k], watch(t, l, s, key(k)))
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var churning sync.WaitGroup
	end := time.Now().Add(lasts)
	listed := make([]bool, members) // in the end
	for i := range members {
		churning.Go(func() {
			listed[i] = churn(t, rand.New(rand.NewPCG(seed, uint64(i))), stores, l, key(i%tracks), peer(i), end)
		})
	}
	churning.Wait()
	deadline := time.Now().Add(repaired)
	for k := range tracks {
		var want []netip.AddrPort
		for i := k; i < members; i += tracks {
			if listed[i] {
				want = append(want, peer(i))
			}
		}
		for _, s := range stores {
			agree(t, time.Until(deadline), s, key(k), want, watchers[k]...)
		}
	}
	for k := range tracks {
		for _, w := range watchers[k] {
			w.close()
		}
	}
	for _, s := range stores {
		s.Close()
	}
	eventually(t, patience, func() error { return remains() })
}

// churn is one member until the end. It returns whether the member is listed then.
func churn(t *testing.T, r *rand.Rand, stores []*valkey.Store, l *ledger, key string, self netip.AddrPort, end time.Time) bool {
	var streams []*watcher
	announced := false // for longer than this test
	closeAll := func() {
		for _, w := range streams {
			w.close()
		}
		streams = nil
	}
	defer func() { t.Cleanup(closeAll) }()
	for time.Now().Before(end) {
		s := stores[r.IntN(len(stores))]
		var err error
		switch action := r.IntN(10); {
		case action < 3: // join or renew, perhaps at another tracker
			if _, err = announce(s, key, self, longTTL); err == nil {
				announced = true
				l.stays(key, self)
			}
		case action < 4: // join or renew for a short time, which a longer one outlasts
			_, err = announce(s, key, self, time.Second)
		case action < 5: // leave, which ends the streams
			l.goes(key, self)
			if err = leave(s, key, self); err == nil {
				announced = false
				closeAll()
			}
		case action < 8 && len(streams) < 3: // open a stream, perhaps as the second one
			var w *watcher
			if w, err = subscribe(t, l, s, key, self); err == nil {
				streams = append(streams, w)
				l.stays(key, self)
			}
		case len(streams) > 0: // close the oldest
			if len(streams) == 1 && !announced {
				l.goes(key, self)
			}
			streams[0].close()
			streams = streams[1:]
		}
		if err != nil {
			t.Errorf("%v of %q: %v", self, key, err)
			return false
		}
		select {
		case <-t.Context().Done():
			return false
		case <-time.After(time.Duration(r.IntN(600)) * time.Millisecond):
		}
	}
	// The last short announce lapses, if there is nothing else.
	return announced || len(streams) > 0
}

// remains returns an error if a goroutine of a store or its client is still there.
func remains() error {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, "tracker/store/valkey.(") || strings.Contains(stack, "redis/rueidis.") {
			return fmt.Errorf("still there: %s", stack)
		}
	}
	return nil
}
