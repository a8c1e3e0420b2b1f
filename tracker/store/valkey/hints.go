package valkey

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	hintSlots = 1 << 16
	// maxSizeAge is how old a size may be.
	maxSizeAge = time.Second
	// maxHintAge is how old counts may be by which a sample is asked for. Only the current counts decide
	// whether it is good enough. So it is long: without a hint, an announce to a track of more peers than
	// are wanted reads twice.
	maxHintAge = 10 * time.Minute
)

// A hint is what was read about a track a moment ago.
type hint struct {
	counts  [sets]int
	birth   int64 // the number of the track, or 0
	isFresh bool  // the size is not too old
}

// hidden reports whether the track had peers in a set before first.
func (h *hint) hidden(first int) bool {
	for _, n := range h.counts[:first] {
		if n > 0 {
			return true
		}
	}
	return false
}

// hints is a table of fixed size, in which a track overwrites a smaller one, or an old one.
// It takes 4 MB.
type hints struct {
	seed  maphash.Seed
	start time.Time
	slots []hintSlot
	locks [64]sync.Mutex
}

type hintSlot struct {
	hash   uint64
	at     time.Duration
	birth  int64
	counts [sets]uint32
}

// size is how many peers the track had.
func (s *hintSlot) size() (n uint64) {
	for _, c := range s.counts {
		n += uint64(c)
	}
	return n
}

func newHints() *hints {
	return &hints{seed: maphash.MakeSeed(), start: time.Now(), slots: make([]hintSlot, hintSlots)}
}

// get returns what is known about a track, and false if nothing is.
func (h *hints) get(key []byte) (hint, bool) {
	hash := maphash.Bytes(h.seed, key)
	mu := &h.locks[hash%uint64(len(h.locks))]
	mu.Lock()
	slot := h.slots[hash%hintSlots]
	mu.Unlock()
	age := time.Since(h.start) - slot.at
	if slot.hash != hash || age > maxHintAge {
		return hint{}, false
	}
	found := hint{birth: slot.birth, isFresh: age < maxSizeAge}
	for i, n := range slot.counts {
		found.counts[i] = int(n)
	}
	return found, true
}

// remember makes what was read a hint for the next calls.
func (q *query) remember() {
	h := q.store.hints
	hash := maphash.Bytes(h.seed, q.key)
	slot := hintSlot{hash: hash, at: time.Since(h.start), birth: q.birth}
	for i, n := range q.counts {
		slot.counts[i] = uint32(n)
	}
	mu := &h.locks[hash%uint64(len(h.locks))]
	mu.Lock()
	defer mu.Unlock()
	// A small track needs no hint: its first pipeline reads all of it.
	if old := &h.slots[hash%hintSlots]; old.hash == hash || slot.at-old.at > maxHintAge || old.size() <= slot.size() {
		*old = slot
	}
}
