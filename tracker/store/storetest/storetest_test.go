package storetest

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A vague store does all that the contract allows: it forgets every second ID, its sizes are up to
// a second old, its totals are estimates, and it calls ttl twice.
type vague struct {
	*memory.Store
	mu    sync.Mutex
	calls int
	sizes map[string]sizeAt
}

type sizeAt struct {
	store.Size
	at time.Time
}

func (v *vague) NeverBlocks() bool { return false }

func (v *vague) Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.calls++; v.calls%2 == 0 {
		peer.ID = wire.ID{}
	}
	ttl(store.Size{Peers: 1, Total: 1})
	dst, res, err := v.Store.Announce(ctx, key, peer, func(size store.Size) time.Duration { return ttl(v.vaguely(key, size)) }, want, dst)
	res.Size = v.vaguely(key, res.Size)
	return dst, res, err
}

func (v *vague) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	dst, res, err := v.Store.Look(ctx, key, asker, want, dst)
	res.Size = v.vaguely(key, res.Size)
	return dst, res, err
}

func (v *vague) Subscribe(ctx context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	dst, size, sub, err := v.Store.Subscribe(ctx, key, peer, notify, dst)
	return dst, v.vaguely(key, size), sub, err
}

// vaguely returns the last size of the track if it is less than a second old. Otherwise it returns
// size with an estimated total.
func (v *vague) vaguely(key []byte, size store.Size) store.Size {
	old := v.sizes[string(key)]
	if old.Peers == 0 || time.Since(old.at) >= time.Second {
		size.Total = size.Total*3/4 + 1
		old = sizeAt{size, time.Now()}
		v.sizes[string(key)] = old
	}
	return old.Size
}

// A vague store passes the cases that depend on what the contract allows.
func TestVague(t *testing.T) {
	run(t, func(*testing.T) store.Store {
		return &vague{Store: memory.New(), sizes: map[string]sizeAt{}}
	}, false, "a lapsed peer is neither returned nor counted", "an announce lists a peer for its ttl", "the ttl depends on the size",
		"an id is replaced and removed", "a size is at most a second old", "a subscription has the joins and leaves",
		"each peer lapses at its own time", "random calls")
}
