package memory

import (
	"bytes"
	"hash/maphash"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A shard has the tracks of a part of the keys, and one lock for them.
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

	// due has, for each page of tracks, a time not later than when the first of them is due.
	due []stamp

	topics map[string]*topic // the keys that somebody subscribes to

	// registrations per address, of addresses in this shard's care: see [Limits.MaxPerAddr].
	addrMu sync.Mutex
	addrs  []uint16 // registrations by counter
	// registered is the sum of addrs.
	registered int
}

// A track has the peers of a key. It is there as long as it has one.
type track struct {
	next handle // in the bucket
	key  handle
	fam  [2]handle // IPv4, IPv6; 0 while there is no such peer
	// soon is not later than when the first peer lapses: nothing has to be looked at before.
	soon stamp
	tag  uint16 // of the key's hash, to pass by other keys without reading them
	born uint32 // the second when it was made, since the store was
}

// few is how many peers are looked at in one go, and under one hold of the lock, for whether they
// have lapsed. A larger track is left to the sweep.
const few = 1000

// pageBytes is small, because every shard has a page in part empty for each size it uses, and just
// what Go's heap has for a span, so that one page given back leaves no hole among others.
const pageBytes = 8192

func (s *shard) init(m *Store) {
	s.m, s.buckets, s.count, s.due = m, nil, 0, nil
	s.tracks = slab[track]{room: pageBytes / 24} // 24 bytes long, as the next
	s.families = slab[family]{room: pageBytes / 24}
	s.keys = slab[byte]{room: pageBytes}
	s.words = slab[uint32]{room: pageBytes / 4}
	s.ids = slab[wire.ID]{room: pageBytes / len(wire.ID{})}
}

// The shard takes the top bits of a key's hash, the tag the next, the bucket the low ones.
func tagOf(hash uint64) uint16 { return uint16(hash >> 40) }

func (s *shard) keyOf(t *track) []byte {
	block := s.keys.at(t.key)
	return block[1 : 1+int(block[0])]
}

// lookup returns 0 when there is no such track.
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

// live is lookup, after what has lapsed is gone.
func (s *shard) live(key []byte, hash uint64, now stamp) handle {
	h := s.lookup(key, hash)
	if h == 0 {
		return 0
	}
	if t := s.tracks.one(h); t.soon.until(now) > 0 || s.len(t) > few {
		return h
	}
	return s.expire(h, now)
}

// add makes a track, which admit has counted. A peer has to follow.
func (s *shard) add(key []byte, hash uint64, since time.Duration) handle {
	if s.count == len(s.buckets) {
		s.rehash(max(1, 2*len(s.buckets)))
	}
	h := s.tracks.alloc(1)
	t := s.tracks.one(h)
	t.tag, t.born = tagOf(hash), uint32(since/time.Second)
	t.soon = stampOf(int64(t.born)) + horizon
	for len(s.due) <= h.page() {
		s.due = append(s.due, t.soon)
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
		s.link(h, maphash.Bytes(s.m.seed, s.keyOf(s.tracks.one(h))))
	}
}

// drop forgets a track whose peers are gone.
func (s *shard) drop(h handle) {
	t := s.tracks.one(h)
	at := &s.buckets[maphash.Bytes(s.m.seed, s.keyOf(t))&uint64(len(s.buckets)-1)]
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

// table is empty, of no width, where the family has no peers.
func (s *shard) table(t *track, fam int) table {
	if t.fam[fam] == 0 {
		return table{}
	}
	v := table{family: s.families.one(t.fam[fam]), width: widths[fam], seed: s.m.mix}
	v.words = s.words.at(v.slots)
	v.cap = len(v.words) / v.width
	if v.ids != 0 {
		v.labels = s.ids.at(v.ids)
	}
	return v
}

func (s *shard) len(t *track) (n int) {
	for _, f := range t.fam {
		if f != 0 {
			n += s.families.one(f).len()
		}
	}
	return n
}

func (s *shard) size(t *track, since time.Duration) store.Size {
	age := since.Truncate(time.Second) - time.Duration(t.born)*time.Second
	return store.Size{Peers: s.len(t), Total: int(s.m.peers.Load()), Age: age}
}

func (s *shard) visible(t *track, asker wire.Scope) (n int) {
	for _, f := range t.fam {
		if f != 0 {
			n += s.families.one(f).visible(asker)
		}
	}
	return n
}

// insert adds a peer that is not there.
func (s *shard) insert(t *track, r record, fam int, scope wire.Scope) (table, int) {
	if t.fam[fam] == 0 {
		t.fam[fam] = s.families.alloc(1)
		s.families.one(t.fam[fam]).slots = s.words.alloc(widths[fam])
	}
	v := s.table(t, fam)
	if v.len() >= room(v.cap) {
		// The next size class: a quarter more, or twice as much while a table is small.
		v = s.resize(t, fam, v.cap+1)
	}
	i, _ := v.find(r)
	copy(v.at(i), r)
	v.scopes[scope]++
	s.changed(t, r, true)
	return v, i
}

// resize moves a table into at least n slots. It moves every peer at once, 10 to 20 ns each: a
// track of a million keeps its shard waiting that long when it has grown by a quarter.
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
		if old.labels != nil {
			s.label(&v, j, old.labels[i])
		}
	}
	s.words.free(oldSlots)
	s.ids.free(oldIDs)
	return v
}

// label gives the peer in slot i an ID. The first in a table makes room for everybody's.
func (s *shard) label(v *table, i int, id wire.ID) {
	if v.labels == nil {
		if id == (wire.ID{}) {
			return
		}
		v.ids = s.ids.alloc(v.cap)
		v.labels = s.ids.at(v.ids)
	}
	v.labels[i] = id
}

// remove takes out the peer in slot i. The table stays as large as it is: see tidy.
func (s *shard) remove(t *track, v *table, i int) {
	s.changed(t, v.at(i), false)
	addr := v.at(i).addr()
	v.scopes[wire.ScopeOf(addr)]--
	v.remove(i)
	s.m.release(addr)
}

// tidy gives back what peers that are gone have left: half-empty tables, and then the track. It
// returns h, or 0 if the track is gone.
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

// lapses notes when a peer of a track will.
func (s *shard) lapses(h handle, at, now stamp) {
	if t := s.tracks.one(h); at.until(now) < t.soon.until(now) {
		t.soon = at
		s.falls(h, at, now)
	}
}

// falls notes when a track is due.
func (s *shard) falls(h handle, due, now stamp) {
	if page := &s.due[h.page()]; due.until(now) < page.until(now) {
		*page = due
	}
}

// expire drops what has lapsed from a small track. It returns h, or 0 if nothing is left.
func (s *shard) expire(h handle, now stamp) handle {
	t := s.tracks.one(h)
	t.soon = now + horizon
	for fam := range t.fam {
		v := s.table(t, fam)
		s.lapse(t, &v, 0, 2*v.cap, now)
	}
	return s.tidy(h)
}

// lapse drops what has lapsed from slot i on, in at most n steps. It returns the slot to go on
// from and the steps left.
func (s *shard) lapse(t *track, v *table, i, n int, now stamp) (next, left int) {
	if v.cap == 0 {
		return i, n
	}
	last := v.width - 1
	soonest := max(1, t.soon.until(now))
	for words := v.words[i*v.width:]; n > 0 && i < v.cap; n-- {
		word := words[last]
		left := stamp(word).until(now)
		if word == 0 {
			left = horizon // no branch in machine code: it would be mispredicted every other time
		}
		if left < soonest && stamp(word) != held {
			if left <= 0 {
				s.remove(t, v, i) // and look at the slot again: another peer may have moved there
				continue
			}
			soonest, t.soon = left, stamp(word)
		}
		words = words[last+1:]
		i++
	}
	return i, n
}

// trim gives back memory.
func (s *shard) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		if s.buckets != nil {
			s.init(s.m)
		}
		return
	}
	s.tracks.trim()
	s.keys.trim()
	s.families.trim()
	s.words.trim()
	s.ids.trim()
}

// A cursor is where a sweep has got to.
type cursor struct {
	page  int // that it has entered
	track handle
	fam   int
	slot  int
}

// sweep drops what has lapsed among the next peers, at most few, and says whether there is more.
// What another moves meanwhile in a large track may be met a second later.
func (s *shard) sweep(c *cursor, now stamp) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for budget := few; budget > 0; {
		h := s.tracks.from(c.track)
		if h == 0 {
			return false
		}
		budget-- // to pass by costs, too
		if h.page() != c.page {
			if s.due[h.page()].until(now) > 0 {
				c.track = pageOf(h.page() + 1)
				continue
			}
			c.page = h.page()
			s.due[c.page] = now + horizon
		}
		if h != c.track {
			*c = cursor{page: c.page, track: h}
		}
		t := s.tracks.one(h)
		switch n := s.len(t); {
		case t.soon.until(now) > 0:
		case n <= few && c.fam == 0 && c.slot == 0:
			if n > budget && budget < few-1 {
				return true
			}
			budget -= n
			h = s.expire(h, now)
		default:
			// A large track is walked piece by piece, so its soon cannot be known: it is always due.
			t.soon = now
			v := s.table(t, c.fam)
			c.slot, budget = s.lapse(t, &v, c.slot, budget, now)
			if c.slot < v.cap {
				return true
			}
			if c.fam, c.slot = c.fam+1, 0; c.fam < len(t.fam) {
				continue
			}
			h = s.tidy(h)
		}
		if h != 0 {
			s.falls(h, t.soon, now)
		}
		*c = cursor{page: c.page, track: c.track + 1}
	}
	return true
}

// index appends the tracks from h on that asker sees peers of, at most few, and where to go on.
func (s *shard) index(dst []wire.Track, h handle, asker wire.Scope, now stamp) (_ []wire.Track, next handle, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for budget := few; budget > 0; budget-- {
		if h = s.tracks.from(h); h == 0 {
			return dst, 0, false
		}
		t := s.tracks.one(h)
		if n := s.len(t); n <= few && t.soon.until(now) <= 0 {
			budget -= n
			if s.expire(h, now) == 0 {
				h++
				continue
			}
		}
		if n := s.visible(t, asker); n > 0 {
			dst = append(dst, wire.Track{Key: wire.KeyOf(bytes.Clone(s.keyOf(t))), Count: n})
		}
		h++
	}
	return dst, h, true
}
