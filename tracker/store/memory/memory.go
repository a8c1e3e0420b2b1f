// Package memory keeps the peers of a tracker in the memory of its process, in a packed table.
package memory

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A Store is a [store.Store] in this process's memory, and nowhere else. Make one with [New]. It
// forgets what has lapsed by itself; there is nothing to close.
//
// Only time in which the process runs counts. Peers do not lapse because it was stopped or the
// machine was suspended: of each such gap at most 1.25 seconds count. A peer whose subscription
// ended during a gap of 20 seconds or more stays for another 30 seconds, to come back.
//
// A peer takes about 11 bytes in IPv4 and 30 in IPv6, and 25 more where peers of the track gave
// IDs; a track takes about 70 and its key. A ttl is cut to 4 h 33 min.
type Store struct {
	// Limits must not change once the store is used.
	Limits store.Limits

	clock clock
	epoch string
	seed  maphash.Seed
	mix   [2]uint64 // seeds the hash of peers

	shards [1 << shardBits]shard

	keys, peers atomic.Int64 // in all shards
	// awake says that a timer will call housekeep: it does as long as there is a track, so that
	// an empty store costs nothing and an abandoned one is garbage after its last peer lapsed.
	awake atomic.Bool
}

const (
	shardBits = 5
	// trimEvery is how many seconds memory that is not used is kept for whoever comes next.
	trimEvery = 5
)

// New returns an empty store.
func New() *Store {
	m := &Store{
		epoch: strconv.FormatUint(rand.Uint64(), 36),
		seed:  maphash.MakeSeed(),
		mix:   [2]uint64{rand.Uint64(), rand.Uint64() | 1},
	}
	m.clock.init()
	for i := range m.shards {
		m.shards[i].init(m)
	}
	return m
}

// Prompt implements [store.Store]: no method waits for anything but a lock.
func (m *Store) Prompt() bool { return true }

// second is the one that has begun.
func (m *Store) second() int64 { return int64(m.clock.now() / time.Second) }

func (m *Store) find(key []byte) (s *shard, hash uint64) {
	hash = maphash.Bytes(m.seed, key)
	return &m.shards[hash>>(64-shardBits)], hash
}

// Announce implements [store.Store].
func (m *Store) Announce(_ context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	addr := peer.Endpoint.Addr()
	fam, scope := familyOf(addr), wire.ScopeOf(addr)
	var buf [5]uint32
	self := pack(&buf, peer.Endpoint)

	s, hash := m.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	since := m.clock.now()
	now := stampOf(int64(since / time.Second))

	var v table
	var i int
	found := false
	h := s.live(key, hash, now)
	if h != 0 {
		v = s.table(s.tracks.one(h), fam)
		i, found = v.find(self)
	}
	if !found {
		if err := s.admit(h, addr); err != nil {
			return dst, store.Result{}, err
		}
		if h == 0 {
			h = s.add(key, hash, since)
		}
		v, i = s.insert(s.tracks.one(h), self, fam, scope)
		m.wake()
	}
	t := s.tracks.one(h)
	size := s.size(t, since)
	// Whoever comes at half past a second stays until after the second his ttl ends in.
	until := int64((since + min(ttl(size), maxTTL) + time.Second - 1) / time.Second)
	expiry := stampOf(until)
	if !found {
		v.at(i).setStamp(expiry)
	} else if old := v.at(i).stamp(); old == held {
		s.topics[string(key)].keep(peer.Endpoint, until)
	} else if expiry.until(now) > old.until(now) {
		v.at(i).setStamp(expiry)
	}
	s.lapses(h, expiry, now)
	s.label(&v, i, peer.ID)
	return s.sample(dst, t, want, scope, self, now), store.Result{Count: s.visible(t, scope), Size: size}, nil
}

// Look implements [store.Store].
func (m *Store) Look(_ context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s, hash := m.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	since := m.clock.now()
	now := stampOf(int64(since / time.Second))
	h := s.live(key, hash, now)
	if h == 0 {
		return dst, store.Result{Size: store.Size{Total: int(m.peers.Load())}}, nil
	}
	t, scope := s.tracks.one(h), wire.ScopeOf(asker)
	return s.sample(dst, t, want, scope, nil, now), store.Result{Count: s.visible(t, scope), Size: s.size(t, since)}, nil
}

// Leave implements [store.Store].
func (m *Store) Leave(_ context.Context, key []byte, endpoint netip.AddrPort) error {
	var buf [5]uint32
	self := pack(&buf, endpoint)
	s, hash := m.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.lookup(key, hash)
	if h == 0 {
		return nil
	}
	t := s.tracks.one(h)
	v := s.table(t, familyOf(endpoint.Addr()))
	if i, found := v.find(self); found {
		if v.at(i).stamp() == held {
			s.topics[string(key)].release(endpoint)
		}
		s.remove(t, &v, i)
		s.tidy(h)
	}
	return nil
}

// Scrape implements [store.Store].
func (m *Store) Scrape(_ context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error) {
	scope := wire.ScopeOf(asker)
	for _, k := range keys {
		_, res, _ := m.Look(context.Background(), k.Bytes(), asker, store.Want{}, nil)
		dst = append(dst, wire.Track{Key: k, Count: res.Count})
	}
	if len(keys) > 0 {
		return dst, nil
	}
	for i := range m.shards {
		for h, more := handle(0), true; more; {
			dst, h, more = m.shards[i].index(dst, h, scope, stampOf(m.second()))
		}
	}
	return dst, nil
}

// wake sees to it that housekeep will be called as the next second begins.
func (m *Store) wake() {
	if !m.awake.Load() && m.awake.CompareAndSwap(false, true) {
		m.clock.start()
		now := m.clock.now()
		time.AfterFunc(now.Truncate(tickEvery)+tickEvery-now, m.housekeep)
	}
}

func (m *Store) housekeep() {
	m.sweep()
	if m.keys.Load() == 0 || m.second()%trimEvery == 0 {
		m.trim()
	}
	m.awake.Store(false)
	if m.keys.Load() > 0 {
		m.wake()
	}
}

// sweep takes out the peers that have lapsed, shard by shard and never for long.
func (m *Store) sweep() {
	for i := range m.shards {
		m.clock.tick()
		var at cursor
		for m.shards[i].sweep(&at, stampOf(m.second())) {
			runtime.Gosched()
		}
	}
}

// trim gives back memory.
func (m *Store) trim() {
	for i := range m.shards {
		m.shards[i].trim()
	}
}
