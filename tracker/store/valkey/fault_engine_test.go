package valkey_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// The database is killed, and comes back with its data. Nobody has left, and all streams continue.
func TestFaultEngineKilledWithData(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{Durable: true, Config: []string{"appendfsync always"}})
	l := startLoad(t, open(t, valkey.Config{URL: engine.URL()}), open(t, valkey.Config{URL: engine.URL()}))
	for range 2 {
		l.flows()
		engine.Kill()
		refusedNow(t, l)
		engine.Restart(true)
	}
	l.flows()
	l.settle()
}

// refusedNow waits until calls are refused.
func refusedNow(t *testing.T, l *load) {
	t.Helper()
	began := l.refused.Load()
	eventually(t, patience, func() error {
		if l.refused.Load() == began {
			return errors.New("no call was refused")
		}
		return nil
	})
}

// The database is killed, and comes back empty. Nobody is reported as having left. All streams end,
// because the epoch is new, and the same at both trackers.
func TestFaultEngineKilledWithoutData(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	a, b := open(t, valkey.Config{URL: engine.URL()}), open(t, valkey.Config{URL: engine.URL()})
	l := &ledger{}
	l.stays("k", peers(0, 4)...)
	for _, e := range peers(0, 2) {
		_, err := announce(a, "k", e, longTTL)
		must(t, err)
	}
	before := []*watcher{member(t, l, a, "k", peer(2)), member(t, l, b, "k", peer(3)), watch(t, l, a, "k"), watch(t, l, b, "k")}
	agree(t, repaired, a, "k", peers(0, 4), before...)
	epoch := before[0].sub.Epoch()
	for _, w := range before {
		if w.sub.Epoch() != epoch {
			t.Errorf("two streams have the epochs %q and %q", epoch, w.sub.Epoch())
		}
	}
	engine.Restart(false)
	for _, w := range before {
		eventually(t, 2*repaired, func() error { return ended(w) })
	}
	var after []*watcher
	for i, s := range []*valkey.Store{a, b} {
		eventually(t, patience, func() error {
			w, err := subscribe(t, l, s, "k", peer(2+i))
			if err == nil {
				t.Cleanup(w.close)
				after = append(after, w)
			} else if !errors.Is(err, store.ErrUnavailable) {
				t.Error(err)
			}
			return err
		})
	}
	if after[0].sub.Epoch() == epoch || after[0].sub.Epoch() != after[1].sub.Epoch() {
		t.Errorf("the epochs are %q and %q, and %q before", after[0].sub.Epoch(), after[1].sub.Epoch(), epoch)
	}
	for _, e := range peers(0, 2) {
		_, err := announce(b, "k", e, longTTL)
		must(t, err)
	}
	agree(t, repaired, b, "k", peers(0, 4), after...)
}

// The database stands still for a while, with its connections open. Calls fail early, streams stay, and
// nobody leaves.
func TestFaultEngineSuspended(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	l := startLoad(t, open(t, valkey.Config{URL: engine.URL()}), open(t, valkey.Config{URL: engine.URL()}))
	l.flows()
	engine.Suspend()
	began := time.Now()
	refusedNow(t, l)
	if took := time.Since(began); took > 2*repaired {
		t.Errorf("a call took %v to fail", took)
	}
	engine.Resume()
	l.flows()
	l.settle()
}

// The memory of the database is full. New peers are refused, and those that streams hold stay for
// longer than their lease. When there is room again, announces succeed.
func TestFaultEngineFull(t *testing.T) {
	t.Parallel()
	const lease = 3 * time.Second
	engine := valkeytest.Start(t, valkeytest.Options{Config: []string{"maxmemory-policy noeviction"}})
	a := open(t, valkey.Config{URL: engine.URL(), Lease: lease})
	b := open(t, valkey.Config{URL: engine.URL(), Lease: lease})
	l := &ledger{}
	l.stays("k", peers(0, 4)...)
	for _, e := range peers(0, 2) {
		_, err := announce(a, "k", e, longTTL)
		must(t, err)
	}
	watchers := []*watcher{member(t, l, a, "k", peer(2)), member(t, l, b, "k", peer(3)), watch(t, l, a, "k"), watch(t, l, b, "k")}
	agree(t, repaired, a, "k", peers(0, 4), watchers...)
	engine.Must("CONFIG", "SET", "maxmemory", "1mb")
	full := time.Now()
	for tries := 0; time.Since(full) < 2*lease; tries++ {
		_, err := announce(b, fmt.Sprint("new ", tries), peer(4), longTTL)
		if refusal, ok := errors.AsType[*store.FullError](err); !ok || refusal.What != store.FullMemory {
			t.Fatalf("an announce to a full database: %v", err)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	agree(t, repaired, a, "k", peers(0, 4), watchers...)
	l.goes("k", peer(0))
	must(t, leave(b, "k", peer(0))) // which needs no memory
	engine.Must("CONFIG", "SET", "maxmemory", "0")
	_, err := announce(b, "k", peer(4), longTTL)
	must(t, err)
	agree(t, repaired, a, "k", peers(1, 5), watchers...)
}
