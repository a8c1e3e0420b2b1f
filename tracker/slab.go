package tracker

import "math/bits"

// A slab hands out blocks of Ts from a few larger pages and names them by handles, not pointers:
// a million small tracks are some tens of thousands of objects to the garbage collector, none of
// which it has to look into.
type slab[T any] struct {
	room  int       // how many Ts a page holds, unless a single block is larger
	pages []page[T] // by number; the first is nobody's, so that handle 0 is none
	open  []uint32  // by size class: the first page with room, 0 if none
	// spare is a page without blocks, 0 if none. One is kept, so that a track that comes and
	// goes allocates nothing; the others are given back.
	spare uint32
}

// A page has up to 64 blocks of one size.
type page[T any] struct {
	items []T    // nil when given back
	used  uint64 // bit i: block i is taken
	size  uint32 // of a block
	next  uint32 // the next page with room in this class
}

// A handle is a page's number and, in the low 6 bits, the block's.
type handle uint32

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

func (s *slab[T]) perPage(size uint32) int {
	return max(1, min(64, s.room/int(size)))
}

// alloc returns a zeroed block of at least n Ts.
func (s *slab[T]) alloc(n int) handle {
	c, size := class(n)
	for len(s.open) <= c {
		s.open = append(s.open, 0)
	}
	i := s.open[c]
	if i == 0 {
		i = uint32(max(1, len(s.pages)))
		for len(s.pages) <= int(i) {
			s.pages = append(s.pages, page[T]{size: uint32(size)})
		}
		s.open[c] = i
	}
	if i == s.spare {
		s.spare = 0
	}
	p := &s.pages[i]
	per := s.perPage(p.size)
	if p.items == nil {
		p.items = make([]T, size*per)
	}
	block := bits.TrailingZeros64(^p.used)
	p.used |= 1 << block
	if bits.OnesCount64(p.used) == per {
		s.open[c] = p.next
	}
	return handle(i<<6 | uint32(block))
}

// at is the block of a handle. It stays where it is until it is freed.
func (s *slab[T]) at(h handle) []T {
	p := &s.pages[h>>6]
	from, to := uint32(h&63)*p.size, uint32(h&63)*p.size+p.size
	return p.items[from:to:to]
}

// one is the block of a handle where blocks are single Ts.
func (s *slab[T]) one(h handle) *T { return &s.pages[h>>6].items[h&63] }

// free takes a block back. Handle 0 is nothing to do.
func (s *slab[T]) free(h handle) {
	if h == 0 {
		return
	}
	i := uint32(h >> 6)
	p := &s.pages[i]
	per := s.perPage(p.size)
	if bits.OnesCount64(p.used) == per {
		c, _ := class(int(p.size))
		p.next, s.open[c] = s.open[c], i
	}
	p.used &^= 1 << (h & 63)
	switch {
	case p.used == 0 && per == 1: // large, and growth comes here only now and then
		p.items = nil
		return
	case p.used == 0:
		if s.spare != 0 {
			s.pages[s.spare].items = nil
		}
		s.spare = i
	}
	clear(s.at(h))
}

// from is the first handle in use that is not below h, 0 at the end.
func (s *slab[T]) from(h handle) handle {
	for i := h >> 6; int(i) < len(s.pages); i++ {
		if used := s.pages[i].used >> (h & 63); used != 0 {
			return i<<6 | h&63 + handle(bits.TrailingZeros64(used))
		}
		h = 0
	}
	return 0
}
