package memory

import (
	"bytes"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A shard has the tracks of a part of the keys, and one lock for them. It finds the track of a key
// by a hash table with chains. Tracks and all that belongs to them are in slabs and refer to each
// other by handles, so the garbage collector has no pointers to follow.
type shard struct {
	mu      sync.Mutex
	m       *Store
	buckets []handle // a power of two of them: the first track of each chain
	count   int      // of tracks

	tracks   slab[track]
	keys     slab[byte] // the length of the key, then the key
	families slab[family]
	words    slab[uint32]
	ids      slab[wire.ID]

	// pageDue has, for each page of tracks, the earliest due of its tracks, or an earlier time. A
	// sweep skips the pages in which no track is due.
	pageDue []expiry

	watched map[string]*watchers // by key, while there is a subscription

	// addrs counts the registrations of the addresses that this shard counts: see limits.go.
	addrMu     sync.Mutex
	addrs      []uint16
	registered int // the sum of addrs
}

// A track has the peers of a key. It exists while it has at least one.
type track struct {
	next handle // the next track in the bucket
	key  handle
	fam  [2]handle // IPv4, IPv6; 0 without such a peer
	// due is when the first peer lapses, or earlier. Before it, the track has no lapsed peers.
	due  expiry
	tag  uint16 // bits of the key's hash: a track with another tag has another key
	born uint32 // the second in which the track was made
}

// pageBytes is small, because a shard has a partly empty page for each size of block that it uses.
// It is also a size of Go's heap, so the hole that a page leaves there fits the next page.
const pageBytes = 8192

func (s *shard) init() {
	s.buckets, s.count, s.pageDue = nil, 0, nil
	s.tracks = slab[track]{perPage: pageBytes / 24} // a track has 24 bytes, and so has a family
	s.families = slab[family]{perPage: pageBytes / 24}
	s.keys = slab[byte]{perPage: pageBytes}
	s.words = slab[uint32]{perPage: pageBytes / 4}
	s.ids = slab[wire.ID]{perPage: pageBytes / len(wire.ID{})}
}

// tagOf returns bits of a hash that choose neither the shard, as the highest do, nor the bucket, as
// the lowest do.
func tagOf(hash uint64) uint16 { return uint16(hash >> 40) }

func (s *shard) keyOf(t *track) []byte {
	block := s.keys.at(t.key)
	return block[1 : 1+int(block[0])]
}

// lookup returns the track of a key, or 0. It may have lapsed peers.
func (s *shard) lookup(key []byte, hash uint64) handle {
	if s.count == 0 {
		return 0
	}
	for h := s.buckets[hash&uint64(len(s.buckets)-1)]; h != 0; {
		t := s.tracks.one(h)
		if t.tag == tagOf(hash) && string(s.keyOf(t)) == string(key) {
			return h
		}
		h = t.next
	}
	return 0
}

// current returns the track of a key, or 0. If the track is small, its lapsed peers are removed.
func (s *shard) current(key []byte, hash uint64, now expiry) handle {
	h := s.lookup(key, hash)
	if h == 0 {
		return 0
	}
	if t := s.tracks.one(h); t.due.after(now) <= 0 && s.trackLen(t) <= small {
		h = s.expire(h, &position{}, math.MaxInt, now)
	}
	return h
}

// enter returns the track, the table and the slot of a peer. It adds the peer, and the track if h
// is 0, unless a limit refuses them. A peer that it has added has no expiry yet.
func (s *shard) enter(h handle, key []byte, hash uint64, peer packed, now time.Duration) (handle, table, int, error) {
	fam := peer.family()
	if h != 0 {
		v := s.table(s.tracks.one(h), fam)
		if i, found := v.find(peer); found {
			return h, v, i, nil
		}
	}
	addr := peer.addr()
	if err := s.admit(h, addr); err != nil {
		return 0, table{}, 0, err
	}
	if h == 0 {
		h = s.add(key, hash, now)
	}
	t := s.tracks.one(h)
	if t.fam[fam] == 0 {
		t.fam[fam] = s.families.alloc(1)
		s.families.one(t.fam[fam]).slots = s.words.alloc(widths[fam])
	}
	v := s.table(t, fam)
	if v.len() >= maxPeers(v.cap) {
		// The next size of block is a quarter larger, or twice as large while a table is small.
		v = s.resize(t, fam, v.cap+1)
	}
	i, _ := v.find(peer)
	copy(v.at(i), peer)
	v.scopes[wire.ScopeOf(addr)]++
	s.recordChange(t, peer, true)
	s.m.schedule()
	return h, v, i, nil
}

// add makes a track, which admit has counted. The caller adds a peer.
func (s *shard) add(key []byte, hash uint64, now time.Duration) handle {
	if s.count == len(s.buckets) {
		s.rehash(max(1, 2*len(s.buckets)))
	}
	h := s.tracks.alloc(1)
	t := s.tracks.one(h)
	t.tag, t.born = tagOf(hash), uint32(now/time.Second)
	t.due = expiryAt(now) + horizon
	for len(s.pageDue) <= h.page() {
		s.pageDue = append(s.pageDue, t.due)
	}
	t.key = s.keys.alloc(1 + len(key))
	block := s.keys.at(t.key)
	block[0] = byte(len(key))
	copy(block[1:], key)
	s.link(h, hash)
	s.count++
	return h
}

func (s *shard) link(h handle, hash uint64) {
	b := &s.buckets[hash&uint64(len(s.buckets)-1)]
	s.tracks.one(h).next, *b = *b, h
}

func (s *shard) rehash(n int) {
	s.buckets = make([]handle, n)
	for h := s.tracks.from(0); h != 0; h = s.tracks.from(h + 1) {
		s.link(h, maphash.Bytes(s.m.keySeed, s.keyOf(s.tracks.one(h))))
	}
}

// drop removes a track that has no peers.
func (s *shard) drop(h handle) {
	t := s.tracks.one(h)
	at := &s.buckets[maphash.Bytes(s.m.keySeed, s.keyOf(t))&uint64(len(s.buckets)-1)]
	for *at != h {
		at = &s.tracks.one(*at).next
	}
	*at = t.next
	s.keys.free(t.key)
	s.tracks.free(h)
	s.count--
	s.m.keys.Add(-1)
	if s.count < len(s.buckets)/4 {
		s.rehash(len(s.buckets) / 2)
	}
}

// table returns the table of a family, without slots if the track has no such peers.
func (s *shard) table(t *track, fam int) table {
	if t.fam[fam] == 0 {
		return table{}
	}
	v := table{family: s.families.one(t.fam[fam]), width: widths[fam], seed: s.m.peerSeed}
	v.words = s.words.at(v.slots)
	v.cap = len(v.words) / v.width
	if v.ids != 0 {
		v.peerIDs = s.ids.at(v.ids)
	}
	return v
}

func (s *shard) trackLen(t *track) (n int) {
	for _, f := range t.fam {
		if f != 0 {
			n += s.families.one(f).len()
		}
	}
	return n
}

func (s *shard) size(t *track, now time.Duration) store.Size {
	age := now.Truncate(time.Second) - time.Duration(t.born)*time.Second
	return store.Size{Peers: s.trackLen(t), Total: int(s.m.peers.Load()), Age: age}
}

func (s *shard) trackVisible(t *track, asker wire.Scope) (n int) {
	for _, f := range t.fam {
		if f != 0 {
			n += s.families.one(f).visible(asker)
		}
	}
	return n
}

// resize gives a table at least n slots. It moves every peer at once, which takes 10 to 20 ns each:
// the shard of a track of a million waits that long whenever the track has grown by a quarter.
func (s *shard) resize(t *track, fam, n int) table {
	old := s.table(t, fam)
	oldSlots, oldIDs := old.slots, old.ids
	old.slots, old.ids = s.words.alloc(n*old.width), 0
	v := s.table(t, fam)
	for i := range old.cap {
		r := old.at(i)
		if r.empty() {
			continue
		}
		j, _ := v.find(r)
		copy(v.at(j), r)
		if old.peerIDs != nil {
			s.setID(&v, j, old.peerIDs[i])
		}
	}
	s.words.free(oldSlots)
	s.ids.free(oldIDs)
	return v
}

// setID sets the ID of the peer in slot i. The first ID in a table allocates memory for all.
func (s *shard) setID(v *table, i int, id wire.ID) {
	if v.peerIDs == nil {
		if id == (wire.ID{}) {
			return
		}
		v.ids = s.ids.alloc(v.cap)
		v.peerIDs = s.ids.at(v.ids)
	}
	v.peerIDs[i] = id
}

// remove removes the peer in slot i. The table stays as large as it is until tidy.
func (s *shard) remove(t *track, v *table, i int) {
	s.recordChange(t, v.at(i), false)
	addr := v.at(i).addr()
	v.scopes[wire.ScopeOf(addr)]--
	v.vacate(i)
	s.m.uncount(addr)
}

// tidy gives back the memory of peers that are gone: of tables that are half empty, and of a track
// without peers. It returns h, or 0 if the track is gone.
func (s *shard) tidy(h handle) handle {
	t := s.tracks.one(h)
	for fam := range t.fam {
		v := s.table(t, fam)
		switch {
		case v.cap == 0:
		case v.len() == 0:
			s.words.free(v.slots)
			s.ids.free(v.ids)
			s.families.free(t.fam[fam])
			t.fam[fam] = 0
		case v.len() < v.cap/2:
			s.resize(t, fam, v.cap*3/4)
		}
	}
	if t.fam == [2]handle{} {
		s.drop(h)
		return 0
	}
	return h
}

// index appends the tracks of which the asker sees peers, from h on. It stops after a while, so
// that others get the lock, and returns where to go on.
func (s *shard) index(dst []wire.Track, h handle, asker wire.Scope, now expiry) (_ []wire.Track, next handle, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for steps := small; steps > 0; steps-- {
		if h = s.tracks.from(h); h == 0 {
			return dst, 0, false
		}
		t := s.tracks.one(h)
		if n := s.trackLen(t); n <= small && t.due.after(now) <= 0 {
			steps -= n
			if s.expire(h, &position{}, math.MaxInt, now) == 0 {
				h++
				continue
			}
		}
		if n := s.trackVisible(t, asker); n > 0 {
			dst = append(dst, wire.Track{Key: wire.KeyOf(bytes.Clone(s.keyOf(t))), Count: n})
		}
		h++
	}
	return dst, h, true
}

// trim gives unused memory back.
func (s *shard) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		if s.buckets != nil {
			s.init()
		}
		return
	}
	s.tracks.trim()
	s.keys.trim()
	s.families.trim()
	s.words.trim()
	s.ids.trim()
}
