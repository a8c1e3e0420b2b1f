package valkey_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ntrack/tracker/store/valkey"
)

// loadTracks has a few tracks, in several partitions. Peers 0 to 9 of each stay all the time: the
// even ones by announces, the odd ones by streams at either tracker. Others join and leave.
const (
	loadTracks = 12
	loadStay   = 10
	loadAll    = 20
)

// A load keeps two trackers busy while something happens to their engine.
type load struct {
	t        *testing.T
	a, b     *valkey.Store
	ledger   *ledger
	watchers [loadTracks][]*watcher // the members first
	stop     context.CancelFunc
	busy     sync.WaitGroup
	good     atomic.Int64 // calls without an error
	refused  atomic.Int64

	mu     sync.Mutex
	listed map[listed]bool // whether a peer that joins and leaves is listed; absent if nobody knows
}

func loadKey(k int) string { return fmt.Sprintf("track %d", k) }

// startLoad lists the peers that stay, and starts the others. Every watcher sees the peers that stay
// before it returns. One tracker for a and b is enough for it.
func startLoad(t *testing.T, a, b *valkey.Store) *load {
	t.Helper()
	l := &load{t: t, a: a, b: b, ledger: &ledger{}, listed: make(map[listed]bool)}
	for k := range loadTracks {
		for i, e := range peers(0, loadStay) {
			s := a
			if i%4 >= 2 {
				s = b
			}
			if i%2 == 0 {
				_, err := announce(s, loadKey(k), e, longTTL)
				must(t, err)
			} else {
				l.watchers[k] = append(l.watchers[k], member(t, l.ledger, s, loadKey(k), e))
			}
		}
		l.ledger.stays(loadKey(k), peers(0, loadStay)...)
		l.watchers[k] = append(l.watchers[k], watch(t, l.ledger, a, loadKey(k)), watch(t, l.ledger, b, loadKey(k)))
		agree(t, repaired, a, loadKey(k), peers(0, loadStay), l.watchers[k]...)
	}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	t.Cleanup(l.busy.Wait)
	t.Cleanup(stop)
	for worker := range 4 {
		l.busy.Go(func() { l.work(ctx, worker) })
	}
	return l
}

// work makes the peers of some tracks join and leave.
func (l *load) work(ctx context.Context, worker int) {
	for ctx.Err() == nil {
		k := rand.IntN(loadTracks/4)*4 + worker
		e := peer(loadStay + rand.IntN(loadAll-loadStay))
		s := l.a
		if rand.IntN(2) == 0 {
			s = l.b
		}
		place := listed{loadKey(k), e}
		joins := rand.IntN(2) == 0
		l.mu.Lock()
		delete(l.listed, place)
		l.mu.Unlock()
		began := time.Now()
		var err error
		if joins {
			_, err = announce(s, place.key, e, longTTL)
		} else {
			err = leave(s, place.key, e)
		}
		if took := time.Since(began); took > patience/2 {
			l.t.Errorf("a call took %v", took)
		}
		if refused(l.t, err) {
			l.refused.Add(1)
		} else {
			l.good.Add(1)
			l.mu.Lock()
			l.listed[place] = joins
			l.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// flows waits until calls succeed again: more than there are workers.
func (l *load) flows() {
	l.t.Helper()
	began := l.good.Load()
	eventually(l.t, patience, func() error {
		if n := l.good.Load() - began; n < 50 {
			return fmt.Errorf("%d calls succeeded since the fault, and %d were refused in all", n, l.refused.Load())
		}
		return nil
	})
}

// settle ends the load, lists or removes the peers of which nobody knows whether they are listed, and
// waits until every watcher sees what the table has, within the time of the repairs.
func (l *load) settle() {
	l.t.Helper()
	l.stop()
	l.busy.Wait()
	var want [loadTracks][]netip.AddrPort
	for k := range loadTracks {
		want[k] = peers(0, loadStay)
		for _, e := range peers(loadStay, loadAll) {
			// Announces or leaves in the last moments before a fault may be lost, so each happens again.
			if l.listed[listed{loadKey(k), e}] {
				_, err := announce(l.a, loadKey(k), e, longTTL)
				must(l.t, err)
				want[k] = append(want[k], e)
			} else {
				must(l.t, leave(l.b, loadKey(k), e))
			}
		}
	}
	deadline := time.Now().Add(repaired)
	for k := range loadTracks {
		for _, s := range []*valkey.Store{l.a, l.b} {
			agree(l.t, time.Until(deadline), s, loadKey(k), want[k], l.watchers[k]...)
		}
	}
	if l.good.Load() == 0 {
		l.t.Error("no call succeeded")
	}
}
