package tracker

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// maxCalls is how many calls of a store may wait at a time. If each takes 20 ms, these are 200,000
	// in a second. Each needs the stack of a goroutine and some buffers, about 16 KB.
	maxCalls = 4096
	// A call is late after lateAfter. While more than maxLate calls are late, there are no new ones. A
	// few late calls say little: one of the servers of a shared table may be away, and the others answer.
	lateAfter = 500 * time.Millisecond
	maxLate   = 256

	slotTime = 100 * time.Millisecond
	numSlots = 64
)

// errSlow is the error of a call that a gate refuses.
var errSlow = errors.New("the shared table is slow")

// A gate has the calls of clients to a store that may block. If the store becomes slow, calls get errSlow
// at once, and do not wait for the store, too. The gate opens again as soon as calls have returned.
type gate struct {
	store.Store
	began time.Time
	calls atomic.Int32 // that have not returned
	// slots has how many calls have not returned by the time at which they began. There is a slot for
	// each slotTime, modulo numSlots. No call should take as long as all slots.
	slots [numSlots]atomic.Int32
}

func newGate(s store.Store) *gate { return &gate{Store: s, began: time.Now()} }

// enter begins a call, or returns errSlow. The caller must give the slot to leave.
func (g *gate) enter() (slot *atomic.Int32, err error) {
	now := int(time.Since(g.began) / slotTime)
	slot = &g.slots[now%numSlots]
	slot.Add(1) // before calls, or a call that enters at the same time would count as late
	if n := int(g.calls.Add(1)); n > maxCalls || n > maxLate && n-g.recent(now) > maxLate {
		g.leave(slot)
		return nil, errSlow
	}
	return slot, nil
}

// recent returns how many calls have not returned and are not late. now is the number of a slot; others
// may be in the next one already.
func (g *gate) recent(now int) (n int) {
	for i := max(0, now-int(lateAfter/slotTime)); i <= now+1; i++ {
		n += int(g.slots[i%numSlots].Load())
	}
	return n
}

func (g *gate) leave(slot *atomic.Int32) {
	g.calls.Add(-1)
	slot.Add(-1)
}

func (g *gate) Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	slot, err := g.enter()
	if err != nil {
		return dst, store.Result{}, err
	}
	defer g.leave(slot)
	return g.Store.Announce(ctx, key, peer, ttl, want, dst)
}

func (g *gate) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	slot, err := g.enter()
	if err != nil {
		return dst, store.Result{}, err
	}
	defer g.leave(slot)
	return g.Store.Look(ctx, key, asker, want, dst)
}

func (g *gate) Leave(ctx context.Context, key []byte, endpoint netip.AddrPort) error {
	slot, err := g.enter()
	if err != nil {
		return err
	}
	defer g.leave(slot)
	return g.Store.Leave(ctx, key, endpoint)
}

func (g *gate) Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error) {
	slot, err := g.enter()
	if err != nil {
		return dst, err
	}
	defer g.leave(slot)
	return g.Store.Scrape(ctx, keys, asker, dst)
}

func (g *gate) Subscribe(ctx context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	slot, err := g.enter()
	if err != nil {
		return dst, store.Size{}, nil, err
	}
	defer g.leave(slot)
	return g.Store.Subscribe(ctx, key, peer, notify, dst)
}

// storeRefusal is the refusal of a request for which the store has no time, or does not answer. Its
// Retry is partly random: otherwise all that were refused together would come back together.
func storeRefusal(reason string) *wire.RefusalError {
	retry := (5*time.Second + rand.N(11*time.Second)).Truncate(time.Second)
	return &wire.RefusalError{Status: 503, Reason: reason, Retry: retry}
}
