// Package memory keeps the peers of a tracker in the memory of its process, in a packed table.
//
// A [Store] has 32 shards. Each has a lock and the tracks of a part of the keys (shard.go). The
// peers of a track are in a hash table (table.go), whose memory a slab hands out (slab.go).
// A reply has a random sample of them (sample.go). Subscriptions are notified of changes in batches
// (watchers.go). Peers lapse on a clock that runs only while the process does (lapse.go).
package memory

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A Store is a [store.Store] in the memory of this process. Make one with [New]. It removes lapsed
// peers by itself, and there is nothing to close. Its sizes are exact, and it keeps peer ids.
//
// Only time in which the process runs counts. Peers do not lapse because the process was stopped or
// the machine was suspended: at most 1.25 seconds of each such gap count. A peer whose subscription
// ended during a gap of 20 seconds or more stays for another 30 seconds, so that it can come back.
//
// A peer takes about 11 bytes in IPv4 and 30 in IPv6, and 25 more if peers of its track gave IDs. A
// track takes about 70 bytes and its key. The store cuts a ttl to 4 h 33 min.
type Store struct {
	// Limits must not change once the store is used.
	Limits store.Limits

	clock    clock
	epoch    string
	keySeed  maphash.Seed
	peerSeed [2]uint64

	shards [1 << shardBits]shard

	keys, peers atomic.Int64 // in all shards
	// scheduled says that a timer will call housekeep. There is one while there is a track. So an
	// empty store costs nothing, and an unused one becomes garbage after its last peer has lapsed.
	scheduled atomic.Bool
}

const shardBits = 5

// New returns an empty store.
func New() *Store {
	m := &Store{
		epoch:    strconv.FormatUint(rand.Uint64(), 36),
		keySeed:  maphash.MakeSeed(),
		peerSeed: [2]uint64{rand.Uint64(), rand.Uint64() | 1},
	}
	m.clock.init()
	for i := range m.shards {
		m.shards[i].m = m
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
	second := expiryAt(now)
	h, v, i, err := s.enter(s.current(key, hash, second), key, hash, self, now)
	if err != nil {
		return dst, store.Result{}, err
	}
	t := s.tracks.one(h)
	size := s.size(t, now)
	// Rounded up to a whole second, so that the peer stays for its ttl at least.
	until := (now + min(ttl(size), maxTTL) + time.Second - 1).Truncate(time.Second)
	expiry := expiryAt(until)
	switch old := v.at(i).expiry(); {
	case old == held:
		s.watched[string(key)].keep(peer.Endpoint, until)
	case old == 0 || expiry.after(second) > old.after(second):
		v.at(i).setExpiry(expiry)
	}
	s.dueAt(h, expiry, second)
	s.setID(&v, i, peer.ID)
	scope := wire.ScopeOf(peer.Endpoint.Addr())
	return s.sample(dst, t, want, scope, self, second), store.Result{Count: s.trackVisible(t, scope), Size: size}, nil
}

// Look implements [store.Store].
func (m *Store) Look(_ context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s, hash := m.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.clock.now()
	second := expiryAt(now)
	h := s.current(key, hash, second)
	if h == 0 {
		return dst, store.Result{Size: store.Size{Total: int(m.peers.Load())}}, nil
	}
	t, scope := s.tracks.one(h), wire.ScopeOf(asker)
	return s.sample(dst, t, want, scope, nil, second), store.Result{Count: s.trackVisible(t, scope), Size: s.size(t, now)}, nil
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
	t := s.tracks.one(h)
	v := s.table(t, self.family())
	if i, found := v.find(self); found {
		if v.at(i).expiry() == held {
			s.watched[string(key)].release(endpoint)
		}
		s.remove(t, &v, i)
		s.tidy(h)
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
			dst, h, more = m.shards[i].index(dst, h, wire.ScopeOf(asker), expiryAt(m.clock.now()))
		}
	}
	return dst, nil
}
