package memory

import (
	"bytes"
	"hash/maphash"
	"sync"
	"time"
	"unsafe"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A shard has the tracks of a part of the keys, and one lock for them. It finds the track of a key
// in a hash table with chains. Tracks and their parts are in slabs (slab.go) and refer to each
// other by handles, so the garbage collector has no pointers to follow.
type shard struct {
	mu      sync.Mutex
	store   *Store  // set once, so it needs no lock
	buckets buckets // the first track of each chain (buckets.go)
	count   int     // of tracks

	tracks slab[track]
	keys   slab[byte] // the length of the key, then the key
	heads  slab[tableHead]
	words  slab[uint32]
	ids    slab[wire.ID]

	// pageDue has, for each page of tracks, the earliest track.due on the page, or an earlier time.
	// A sweep skips a page before that time (lapse.go).
	pageDue []expiry

	watched map[string]*watchers // by key, while there is a subscription (watchers.go)

	// addrs has counters of the peers of each address. The shard that counts an address need not be
	// the shard of the keys that its peers announce (limits.go).
	addrMu  sync.Mutex
	addrs   []uint16
	addrSum int // the sum of addrs
}

// A track has the peers of a key. It exists while it has at least one.
type track struct {
	next  handle // the next track in the bucket
	key   handle
	heads [2]handle // of the tables of IPv4 and IPv6; 0 without peers of the family
	// due is when the first peer lapses, or earlier. Until then, the track has no lapsed peers.
	due  expiry
	tag  uint16 // bits of the key's hash: tracks with different tags have different keys
	born uint32 // the second in which the track was made
}

// pageBytes is small, because a shard has a partly empty page for each size of block that it uses.
// It is also a size class of Go's allocator, so the memory of a freed page fits the next page.
const pageBytes = 8192

// init makes the shard empty.
func (s *shard) init() {
	l := &s.store.ledger
	l.take(-s.bytes())
	s.buckets, s.count, s.pageDue = buckets{ledger: l}, 0, nil
	s.tracks = slab[track]{perPage: pageBytes / 24, ledger: l} // a track and a tableHead have 24 bytes each
	s.heads = slab[tableHead]{perPage: pageBytes / 24, ledger: l}
	s.keys = slab[byte]{perPage: pageBytes, ledger: l}
	s.words = slab[uint32]{perPage: pageBytes / 4, ledger: l}
	s.ids = slab[wire.ID]{perPage: pageBytes / len(wire.ID{}), ledger: l}
}

// tagOf returns bits from the middle of a hash. The highest bits choose the shard, and the lowest
// bits the bucket.
func tagOf(hash uint64) uint16 { return uint16(hash >> 40) }

func (s *shard) keyOf(t *track) []byte {
	block := s.keys.at(t.key)
	return block[1 : 1+int(block[0])]
}

// lookup returns the track of a key, or 0 if there is none. The track may have lapsed peers.
func (s *shard) lookup(key []byte, hash uint64) handle {
	if s.count == 0 {
		return 0
	}
	for h := *s.buckets.of(hash); h != 0; {
		t := s.tracks.get(h)
		if t.tag == tagOf(hash) && string(s.keyOf(t)) == string(key) {
			return h
		}
		h = t.next
	}
	return 0
}

// current returns the track of a key, or 0 if there is none. It removes the lapsed peers of a small
// track.
func (s *shard) current(key []byte, hash uint64, now expiry) handle {
	h := s.lookup(key, hash)
	if h == 0 {
		return 0
	}
	if t := s.tracks.get(h); t.due.after(now) <= 0 && s.trackLen(t) <= smallTrack {
		h = s.expireAll(h, now)
	}
	return h
}

// enter returns the track, the table and the slot of a peer. It adds a new peer, and makes the
// track if h is 0, unless a limit refuses the peer. A new peer has no expiry until the caller sets
// it.
func (s *shard) enter(h handle, key []byte, hash uint64, peer packed, now time.Duration) (handle, table, int, error) {
	fam := peer.family()
	if h != 0 {
		tab := s.table(s.tracks.get(h), fam)
		if i, found := tab.find(peer); found {
			return h, tab, i, nil
		}
	}
	if h != 0 && s.trackLen(s.tracks.get(h)) >= maxTrackLen {
		return 0, table{}, 0, &store.FullError{What: "peers of this key", Max: maxTrackLen}
	}
	addr := peer.addr()
	reserved, err := s.admit(h, len(key), fam, addr)
	if err != nil {
		return 0, table{}, 0, err
	}
	if h == 0 {
		h = s.add(key, hash, now)
	}
	t := s.tracks.get(h)
	if t.heads[fam] == 0 {
		t.heads[fam] = s.heads.alloc(1)
		s.heads.get(t.heads[fam]).slots = s.words.alloc(widths[fam])
	}
	tab := s.table(t, fam)
	if tab.len() >= maxPeers(tab.cap) {
		// One more slot is enough: the slab rounds up to the next size of block.
		tab = s.resize(t, fam, tab.cap+1)
	}
	s.store.ledger.release(reserved)
	i, _ := tab.find(peer)
	copy(tab.at(i), peer)
	tab.scopes[wire.ScopeOf(addr)]++
	s.recordChange(t, peer, true)
	s.store.scheduleHousekeeping()
	return h, tab, i, nil
}

// add makes a track without peers. The caller has called admit, which counts the track, and adds a
// peer.
func (s *shard) add(key []byte, hash uint64, now time.Duration) handle {
	if s.count >= s.buckets.n {
		s.addBucket()
	}
	h := s.tracks.alloc(1)
	t := s.tracks.get(h)
	t.tag, t.born = tagOf(hash), uint32(now/time.Second)
	t.due = expiryAt(now) + horizon
	if h.page() >= len(s.pageDue) {
		s.growPageDue(t.due)
	}
	t.key = s.keys.alloc(1 + len(key))
	block := s.keys.at(t.key)
	block[0] = byte(len(key))
	copy(block[1:], key)
	s.link(h, hash)
	s.count++
	return h
}

// growPageDue makes pageDue as long as the list of pages can get before it grows. A page that does
// not exist yet is due at this time, or earlier: then a sweep only looks at it too early.
func (s *shard) growPageDue(due expiry) {
	old, grown := s.pageDue, make([]expiry, cap(s.tracks.pages))
	s.store.ledger.take(len(grown) * int(unsafe.Sizeof(due)))
	for i := copy(grown, old); i < len(grown); i++ {
		grown[i] = due
	}
	s.pageDue = grown
	s.store.ledger.take(-len(old) * int(unsafe.Sizeof(due)))
}

func (s *shard) link(h handle, hash uint64) {
	b := s.buckets.of(hash)
	s.tracks.get(h).next, *b = *b, h
}

// addBucket adds a bucket, and moves the tracks that belong to it from another one.
func (s *shard) addBucket() {
	for h := s.buckets.grow(); h != 0; {
		next := s.tracks.get(h).next
		s.link(h, s.hashOf(h))
		h = next
	}
}

// removeBucket removes a bucket, and moves its tracks to another one.
func (s *shard) removeBucket() {
	chain, to := s.buckets.shrink()
	for chain != 0 {
		h := chain
		t := s.tracks.get(h)
		chain, t.next, *to = t.next, *to, h
	}
}

func (s *shard) hashOf(h handle) uint64 {
	return maphash.Bytes(s.store.keySeed, s.keyOf(s.tracks.get(h)))
}

// drop removes a track that has no peers.
func (s *shard) drop(h handle) {
	t := s.tracks.get(h)
	at := s.buckets.of(s.hashOf(h))
	for *at != h {
		at = &s.tracks.get(*at).next
	}
	*at = t.next
	s.keys.free(t.key)
	s.tracks.free(h)
	s.count--
	s.store.keys.Add(-1)
	// There are at most twice as many buckets as tracks, so that a track which comes and goes moves no
	// bucket.
	for range 2 {
		if s.buckets.n > max(1, 2*s.count) {
			s.removeBucket()
		}
	}
}

// table returns the table of a family (0 for IPv4, 1 for IPv6). It has no slots if the track has no
// peers of the family.
func (s *shard) table(t *track, fam int) table {
	if t.heads[fam] == 0 {
		return table{}
	}
	tab := table{tableHead: s.heads.get(t.heads[fam]), width: widths[fam], seed: s.store.peerSeed}
	tab.words = s.words.at(tab.slots)
	tab.cap = len(tab.words) / tab.width
	if tab.ids != 0 {
		tab.peerIDs = s.ids.at(tab.ids)
	}
	return tab
}

func (s *shard) trackLen(t *track) (n int) {
	for _, h := range t.heads {
		if h != 0 {
			n += s.heads.get(h).len()
		}
	}
	return n
}

func (s *shard) size(t *track, now time.Duration) store.Size {
	age := now.Truncate(time.Second) - time.Duration(t.born)*time.Second
	return store.Size{Peers: s.trackLen(t), Total: int(s.store.peers.Load()), Age: age}
}

// trackVisibleLen is how many peers of a track the asker sees.
func (s *shard) trackVisibleLen(t *track, asker wire.Scope) (n int) {
	for _, h := range t.heads {
		if h != 0 {
			n += s.heads.get(h).visibleLen(asker)
		}
	}
	return n
}

// maxTrackLen is how many peers a track may have. The largest tracks in public have some hundred
// thousand.
const maxTrackLen = 1_000_000

// resize gives a table at least n slots. The caller has reserved the memory. It moves all peers in one
// go, which takes 10 to 20 ns for each. So a track of maxTrackLen peers locks its shard for up to 20
// ms, each time that it has grown by a quarter.
func (s *shard) resize(t *track, fam, n int) table {
	old := s.table(t, fam)
	head := s.heads.get(t.heads[fam])
	oldSlots, oldIDs := head.slots, head.ids
	head.slots, head.ids = s.words.alloc(n*old.width), 0
	tab := s.table(t, fam)
	keepIDs := old.peerIDs != nil
	for i := range old.cap {
		p := old.at(i)
		if p.empty() {
			continue
		}
		j, _ := tab.find(p)
		copy(tab.at(j), p)
		if keepIDs {
			keepIDs = s.setID(&tab, j, old.peerIDs[i])
		}
	}
	s.words.free(oldSlots)
	s.ids.free(oldIDs)
	return tab
}

// setID sets the ID of the peer in slot i. The first ID of a table allocates memory for the IDs of
// all its slots. If there is no room for it, setID forgets the ID and returns false.
func (s *shard) setID(tab *table, i int, id wire.ID) bool {
	if tab.peerIDs == nil {
		if id == (wire.ID{}) {
			return true
		}
		need := s.ids.need(tab.cap)
		if !s.store.ledger.reserve(need, s.store.roomForKeys()) {
			return false
		}
		tab.ids = s.ids.alloc(tab.cap)
		tab.peerIDs = s.ids.at(tab.ids)
		s.store.ledger.release(need)
	}
	tab.peerIDs[i] = id
	return true
}

// remove removes the peer in slot i. It does not shrink the table: tidy does.
func (s *shard) remove(t *track, tab *table, i int) {
	s.recordChange(t, tab.at(i), false)
	s.discard(tab, i)
}

// discard is remove for a track without live subscriptions: it records no leave.
func (s *shard) discard(tab *table, i int) {
	addr := tab.at(i).addr()
	tab.scopes[wire.ScopeOf(addr)]--
	tab.vacate(i)
	s.store.uncount(addr)
}

// removeSome ends all subscriptions to a key, and removes peers from its track, beginning at the
// slot p counted from the end of the table. It stops after stepsPerLock slots, so that other calls
// get the lock, and reports whether there are more.
func (s *shard) removeSome(key []byte, hash uint64, p *position) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watched[string(key)]; w != nil {
		w.endAll()
	}
	h := s.lookup(key, hash)
	if h == 0 {
		return false
	}
	t := s.tracks.get(h)
	for steps := stepsPerLock; p.fam < len(t.heads); p.fam, p.slot = p.fam+1, 0 {
		tab := s.table(t, p.fam)
		for ; p.slot < tab.cap; steps-- {
			if steps == 0 {
				return true
			}
			// From the end, because only a peer from a later slot may move into the gap.
			if i := tab.cap - 1 - p.slot; tab.at(i).empty() {
				p.slot++
			} else {
				s.discard(&tab, i)
			}
		}
	}
	*p = position{}
	return s.tidy(h) != 0 // peers may have come in the meantime
}

// tidy shrinks a table that is less than half full, and removes a table or a track without peers.
// It returns h, or 0 if it has removed the track.
func (s *shard) tidy(h handle) handle {
	t := s.tracks.get(h)
	for fam := range t.heads {
		tab := s.table(t, fam)
		switch {
		case tab.cap == 0:
		case tab.len() == 0:
			s.words.free(tab.slots)
			s.ids.free(tab.ids)
			s.heads.free(t.heads[fam])
			t.heads[fam] = 0
		case tab.len() < tab.cap/2:
			// While the table moves, both of its sizes are in memory. Without room for that, it stays
			// as it is.
			slots := tab.len() * 3 / 2
			if need := s.words.need(slots * tab.width); s.store.ledger.reserve(need, s.store.room()) {
				s.resize(t, fam, slots)
				s.store.ledger.release(need)
			}
		}
	}
	if t.heads == [2]handle{} {
		s.drop(h)
		return 0
	}
	return h
}

// scrapeSome appends the tracks of which the asker sees peers, beginning at handle h. It stops
// after stepsPerLock tracks, so that other calls get the lock, and returns the handle to continue
// at.
func (s *shard) scrapeSome(dst []wire.Track, h handle, asker wire.Scope, now expiry) (_ []wire.Track, next handle, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for steps := stepsPerLock; steps > 0; steps-- {
		if h = s.tracks.from(h); h == 0 {
			return dst, 0, false
		}
		t := s.tracks.get(h)
		if n := s.trackLen(t); n <= smallTrack && t.due.after(now) <= 0 {
			steps -= n
			if s.expireAll(h, now) == 0 {
				h++
				continue
			}
		}
		if n := s.trackVisibleLen(t, asker); n > 0 {
			dst = append(dst, wire.Track{Key: wire.KeyOf(bytes.Clone(s.keyOf(t))), Count: n})
		}
		h++
	}
	return dst, h, true
}

// trim gives pages without blocks back to the Go heap.
func (s *shard) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trimLocked()
}

// trimLocked is trim for a caller that holds the lock.
func (s *shard) trimLocked() {
	if s.count == 0 {
		if s.buckets.n > 0 {
			s.init()
		}
		return
	}
	s.tracks.trim()
	s.keys.trim()
	s.heads.trim()
	s.words.trim()
	s.ids.trim()
}
