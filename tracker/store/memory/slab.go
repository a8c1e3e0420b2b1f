package memory

import (
	"math"
	"math/bits"
)

// A slab hands out blocks of Ts from a few larger pages and names them by handles, not pointers:
// a million small tracks are some tens of thousands of objects to the garbage collector, none of
// which it has to look into.
type slab[T any] struct {
	room  int       // how many Ts a page holds, unless a single block is larger
	pages []page[T] // by number; the first is nobody's, so that handle 0 is none
	open  []uint32  // by size class: the first page with room, 0 if none
	// idle counts the pages without blocks. Some are kept for a while, so that tracks that come
	// and go allocate nothing: see trim.
	idle int
	gone uint32 // the first number of a page given back, chained by next
}

// A page has up to 256 blocks of one size.
type page[T any] struct {
	items []T       // nil when given back
	used  [4]uint64 // bit i: block i is taken
	live  uint16    // how many are
	per   uint16    // how many there are
	size  uint32    // of a block
	// next and prev are the others with room in this class, while it has room itself.
	next, prev uint32
}

// A handle is a page's number and, in the low 8 bits, the block's.
type handle uint32

func (h handle) page() int { return int(h >> 8) }

// pageOf is the first handle of a page.
func pageOf(page int) handle { return handle(page << 8) }

// class rounds a size up, and numbers it: exact up to 8, then four sizes to a doubling, so that a
// block is never more than a quarter larger than asked for.
func class(n int) (c, size int) {
	if n <= 8 {
		return n, n
	}
	shift := bits.Len(uint(n-1)) - 3
	q := (n - 1) >> shift // 4 to 7
	return 4*shift + q + 1, (q + 1) << shift
}

// alloc returns a zeroed block of at least n Ts.
func (s *slab[T]) alloc(n int) handle {
	c, size := class(n)
	for len(s.open) <= c {
		s.open = append(s.open, 0)
	}
	i := s.open[c]
	if i == 0 {
		i = s.fresh(size)
		s.push(i, c)
	}
	p := &s.pages[i]
	if p.live == 0 {
		s.idle--
	}
	if p.live++; p.live == p.per {
		s.pull(i, c)
	}
	w := 0
	for p.used[w] == math.MaxUint64 {
		w++
	}
	block := bits.TrailingZeros64(^p.used[w])
	p.used[w] |= 1 << block
	return handle(i<<8 | uint32(64*w+block))
}

// fresh returns the number of a new page for blocks of this size.
func (s *slab[T]) fresh(size int) uint32 {
	i := s.gone
	if i == 0 {
		i = uint32(max(1, len(s.pages)))
		s.pages = append(s.pages, make([]page[T], int(i)+1-len(s.pages))...)
	}
	p := &s.pages[i]
	s.gone = p.next
	// A slab has a page in part empty for each size: small ones while it is small itself, and
	// then larger ones, which are fewer objects.
	most := 64
	if len(s.pages) > 32 {
		most = 256
	}
	per := max(1, min(s.room/size, most))
	*p = page[T]{items: make([]T, size*per), size: uint32(size), per: uint16(per)}
	s.idle++
	return i
}

// push and pull put a page on, and take it from, the list of those with room.
func (s *slab[T]) push(i uint32, class int) {
	p, first := &s.pages[i], s.open[class]
	p.next, p.prev = first, 0
	s.pages[first].prev = i // page 0 may say what it likes
	s.open[class] = i
}

func (s *slab[T]) pull(i uint32, class int) {
	p := &s.pages[i]
	if s.open[class] == i {
		s.open[class] = p.next
	} else {
		s.pages[p.prev].next = p.next
	}
	s.pages[p.next].prev = p.prev
}

// trim gives back the pages that are idle.
func (s *slab[T]) trim() {
	for i := 1; s.idle > 0; i++ {
		if p := &s.pages[i]; p.live == 0 && p.items != nil {
			s.giveBack(uint32(i))
		}
	}
}

func (s *slab[T]) giveBack(i uint32) {
	c, _ := class(int(s.pages[i].size))
	s.pull(i, c)
	s.pages[i] = page[T]{next: s.gone}
	s.gone = i
	s.idle--
}

// at is the block of a handle. It stays where it is until it is freed.
func (s *slab[T]) at(h handle) []T {
	p := &s.pages[h>>8]
	from, to := uint32(h&255)*p.size, uint32(h&255)*p.size+p.size
	return p.items[from:to:to]
}

// one is the block of a handle where blocks are single Ts.
func (s *slab[T]) one(h handle) *T { return &s.pages[h>>8].items[h&255] }

// free takes a block back. Handle 0 is nothing to do.
func (s *slab[T]) free(h handle) {
	if h == 0 {
		return
	}
	i := uint32(h >> 8)
	p := &s.pages[i]
	if p.live == p.per {
		c, _ := class(int(p.size))
		s.push(i, c)
	}
	p.used[h&255>>6] &^= 1 << (h & 63)
	if p.live--; p.live > 0 {
		clear(s.at(h))
		return
	}
	s.idle++
	switch {
	case p.per == 1: // large, and on the way to another size
		s.giveBack(i)
	case s.idle > 4+len(s.pages)/32:
		s.trim()
	default:
		clear(s.at(h))
	}
}

// from is the first handle in use that is not below h, 0 at the end.
func (s *slab[T]) from(h handle) handle {
	for i := h >> 8; int(i) < len(s.pages); i++ {
		for w := h & 255 >> 6; w < 4; w++ {
			if used := s.pages[i].used[w] >> (h & 63); used != 0 {
				return i<<8 | w<<6 | h&63 + handle(bits.TrailingZeros64(used))
			}
			h = 0
		}
	}
	return 0
}
