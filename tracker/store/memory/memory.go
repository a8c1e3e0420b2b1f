// Package memory keeps the peers of a tracker in the memory of its process, in packed tables.
//
// A [Store] has 32 shards. Each shard has a lock and the tracks of a part of the keys (shard.go).
// The peers of a track are in one hash table for IPv4 and one for IPv6 (table.go). Slabs allocate
// the memory of tracks and tables (slab.go), and a ledger counts it, so that it stays within
// [store.Limits] (ledger.go, limits.go). A reply has a random sample of the peers (sample.go),
// which are in a random order of the slots (permutation.go). Subscriptions are notified of changes
// in batches (watchers.go), and the changes that wait for them count, too (waiting.go). Peers lapse
// on a clock that runs only while the process runs (lapse.go), but not while a subscription holds
// them (holds.go).
package memory

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A Store is a [store.Store] in the memory of this process. Make one with [New]. It removes lapsed
// peers by itself, and need not be closed. Its sizes are exact, and it keeps peer IDs
// as long as there is memory for them.
//
// Peers do not lapse because the process was stopped or the machine was suspended: at most 1.25
// seconds of each such gap count. If the subscription of a peer ends in a gap of 20 seconds or
// more, or within 5 seconds after the gap, the peer stays for another 30 seconds, so that it can
// subscribe again.
//
// An IPv4 peer takes about 11 bytes and an IPv6 peer 30, and either takes 25 more if a peer of its
// track has an ID. A track takes about 70 bytes and its key. The longest ttl is 4 h 33 min.
type Store struct {
	// Limits must not change once the store is used.
	Limits store.Limits

	clock    clock
	epoch    string
	keySeed  maphash.Seed
	peerSeed [2]uint64

	shards [1 << shardBits]shard

	recipients sync.Pool // of *[]recipient, for watchers.flush

	keys, peers atomic.Int64 // the counts of all shards together
	changes     atomic.Int64 // the bytes of the changes that wait for subscriptions (waiting.go)
	ledger      ledger       // of the memory of all shards
	// scheduled says that a timer will call housekeep. A timer runs only while there is a track. So
	// an empty store takes no time, and the garbage collector can free a store that is not used
	// after its last peer has lapsed.
	scheduled atomic.Bool
}

const shardBits = 5

// GCPercent is a good argument for [runtime/debug.SetGCPercent] in a process that keeps little but a
// Store. The heap then grows by a tenth between two collections, instead of doubling. A collection
// is cheap, because it has no pointers to follow in the table. So announces cost no more CPU time
// than with Go's default, as docs/performance.md shows.
const GCPercent = 10

// New returns an empty store.
func New() *Store {
	m := &Store{
		epoch:    strconv.FormatUint(rand.Uint64(), 36),
		keySeed:  maphash.MakeSeed(),
		peerSeed: [2]uint64{rand.Uint64(), rand.Uint64() | 1},
	}
	m.clock.init()
	m.recipients.New = func() any { return new([]recipient) }
	for i := range m.shards {
		m.shards[i].store = m
		m.shards[i].init()
	}
	return m
}

// NeverBlocks implements [store.Store].
func (m *Store) NeverBlocks() bool { return true }

func (m *Store) shardOf(key []byte) (s *shard, hash uint64) {
	hash = maphash.Bytes(m.keySeed, key)
	return &m.shards[hash>>(64-shardBits)], hash
}

// Announce implements [store.Store].
func (m *Store) Announce(_ context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	var buf [5]uint32
	self := pack(&buf, peer.Endpoint)
	s, hash := m.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.clock.now()
	nowExpiry := expiryAt(now)
	h, tab, i, err := s.enter(s.current(key, hash, nowExpiry), key, hash, self, now)
	if err != nil {
		return dst, store.Result{}, err
	}
	t := s.tracks.get(h)
	size := s.size(t, now)
	// A whole second, rounded up so that the peer stays for at least its ttl.
	until := (now + min(ttl(size), maxTTL) + time.Second - 1).Truncate(time.Second)
	expiry := expiryAt(until)
	switch old := tab.at(i).expiry(); {
	case old == held:
		s.watched[string(key)].extend(peer.Endpoint, until)
	case old == 0 || expiry.after(nowExpiry) > old.after(nowExpiry):
		tab.at(i).setExpiry(expiry)
	}
	s.lowerDue(h, expiry, nowExpiry)
	s.setID(&tab, i, peer.ID)
	scope := wire.ScopeOf(peer.Endpoint.Addr())
	return s.sample(dst, t, want, scope, self, nowExpiry), store.Result{Count: s.trackVisibleLen(t, scope), Size: size}, nil
}

// Look implements [store.Store].
func (m *Store) Look(_ context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s, hash := m.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.clock.now()
	nowExpiry := expiryAt(now)
	h := s.current(key, hash, nowExpiry)
	if h == 0 {
		return dst, store.Result{Size: store.Size{Total: int(m.peers.Load())}}, nil
	}
	t, scope := s.tracks.get(h), wire.ScopeOf(asker)
	return s.sample(dst, t, want, scope, nil, nowExpiry), store.Result{Count: s.trackVisibleLen(t, scope), Size: s.size(t, now)}, nil
}

// Leave implements [store.Store].
func (m *Store) Leave(_ context.Context, key []byte, endpoint netip.AddrPort) error {
	var buf [5]uint32
	self := pack(&buf, endpoint)
	s, hash := m.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.lookup(key, hash)
	if h == 0 {
		return nil
	}
	t := s.tracks.get(h)
	tab := s.table(t, self.family())
	if i, found := tab.find(self); found {
		if tab.at(i).expiry() == held {
			s.watched[string(key)].endHolds(endpoint)
		}
		s.remove(t, &tab, i)
		s.tidy(h)
	}
	return nil
}

// Remove implements [store.Store]. It locks the shard for some peers at a time.
func (m *Store) Remove(_ context.Context, key []byte) error {
	s, hash := m.shardOf(key)
	p := position{}
	for s.removeSome(key, hash, &p) {
		runtime.Gosched()
	}
	return nil
}

// Scrape implements [store.Store].
func (m *Store) Scrape(_ context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error) {
	for _, k := range keys {
		_, res, _ := m.Look(context.Background(), k.Bytes(), asker, store.Want{}, nil)
		dst = append(dst, wire.Track{Key: k, Count: res.Count})
	}
	if len(keys) > 0 {
		return dst, nil
	}
	for i := range m.shards {
		for h, more := handle(0), true; more; {
			dst = slices.Grow(dst, stepsPerLock) // here, because it may copy all of dst
			dst, h, more = m.shards[i].scrapeSome(dst, h, wire.ScopeOf(asker), expiryAt(m.clock.now()))
		}
	}
	return dst, nil
}
