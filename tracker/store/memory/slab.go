package memory

import (
	"math"
	"math/bits"
	"unsafe"
)

// A slab allocates blocks of values of type T in pages. A block has a handle instead of a pointer. So the garbage
// collector finds some ten thousand objects for a million small tracks, and no pointers in them.
type slab[T any] struct {
	perPage int       // how many values a page has, unless one block is larger
	pages   []page[T] // by number; page 0 is not used, so that handle 0 can mean no block
	open    []uint32  // by size class: the first page with a free block, or 0
	// idle is the number of pages that have memory and no taken block. A slab keeps some of them until
	// trim, so that tracks that come and go allocate nothing.
	idle   int
	unused uint32  // the first number in the list of pages without memory, or 0
	values int     // how many values the pages have room for
	ledger *ledger // counts the bytes of the pages and of their list
}

// A page has up to 256 blocks of one size.
type page[T any] struct {
	items  []T       // nil if the page has no memory
	taken  [4]uint64 // bit i is set if block i is taken
	count  uint16    // of taken blocks
	blocks uint16    // of all blocks
	size   uint32    // of a block, in values
	// next and prev are numbers of pages: the neighbors in the list of open pages of a size class. Of
	// a page without memory, next is the next page without memory.
	next, prev uint32
}

// A handle names a block: its low 8 bits are the number of the block in its page, and the others
// are the number of the page.
type handle uint32

func (h handle) page() int { return int(h >> 8) }

// pageOf returns the first handle of a page.
func pageOf(page int) handle { return handle(page << 8) }

// class returns the size class for blocks of n values, and the size of its blocks. Sizes of up to 8 are
// exact. Above 8, each power of two has four classes, so a block is at most a quarter larger than
// n.
func class(n int) (c, size int) {
	if n <= 8 {
		return n, n
	}
	shift := bits.Len(uint(n-1)) - 3 // the size is a multiple of 1<<shift: 10, 12, 14, 16, 20, 24, ...
	q := (n - 1) >> shift            // 4 to 7
	return 4*shift + q + 1, (q + 1) << shift
}

// alloc returns a zeroed block of at least n values.
func (s *slab[T]) alloc(n int) handle {
	c, size := class(n)
	for len(s.open) <= c {
		s.open = append(s.open, 0)
	}
	i := s.open[c]
	if i == 0 {
		i = s.newPage(size)
		s.pushOpen(i, c)
	}
	p := &s.pages[i]
	if p.count == 0 {
		s.idle--
	}
	if p.count++; p.count == p.blocks {
		s.pullOpen(i, c)
	}
	w := 0
	for p.taken[w] == math.MaxUint64 {
		w++
	}
	block := bits.TrailingZeros64(^p.taken[w])
	p.taken[w] |= 1 << block
	return handle(i<<8 | uint32(64*w+block))
}

// newPage returns the number of a new page for blocks of this size.
func (s *slab[T]) newPage(size int) uint32 {
	i := s.unused
	blocks := s.blocksOf(size)
	if i == 0 {
		if len(s.pages) == cap(s.pages) {
			s.growList()
		}
		i = uint32(len(s.pages))
		s.pages = s.pages[:i+1]
	}
	p := &s.pages[i]
	s.unused = p.next
	*p = page[T]{items: make([]T, size*blocks), size: uint32(size), blocks: uint16(blocks)}
	s.idle++
	s.count(size * blocks)
	return i
}

// blocksOf is how many blocks of this size a new page has. Each size has a page that is partly
// empty. So a slab with few pages makes them small, to waste less memory. A slab with many pages
// makes them larger, so that there are fewer objects.
func (s *slab[T]) blocksOf(size int) int {
	most := 64
	if len(s.pages) > 32 {
		most = 256
	}
	return max(1, min(s.perPage/size, most))
}

// grownCap is the capacity of the next list of pages.
func (s *slab[T]) grownCap() int { return cap(s.pages) + cap(s.pages)/4 + 8 }

// growList makes the list of pages longer. For a moment both lists exist.
func (s *slab[T]) growList() {
	old := s.listBytes()
	pages := make([]page[T], max(1, len(s.pages)), s.grownCap()) // page 0 is not used
	copy(pages, s.pages)
	s.pages = pages
	s.ledger.take(s.listBytes())
	s.ledger.take(-old)
}

func (s *slab[T]) listBytes() int { return cap(s.pages) * int(unsafe.Sizeof(page[T]{})) }

// count adds n to the values that the pages have room for.
func (s *slab[T]) count(n int) {
	var v T
	s.values += n
	s.ledger.take(n * int(unsafe.Sizeof(v)))
}

// bytes is the memory of the pages and of their list.
func (s *slab[T]) bytes() int {
	var v T
	return s.values*int(unsafe.Sizeof(v)) + s.listBytes()
}

// need is how many bytes alloc(n) takes from the Go heap. It is 0 if there is a free block.
func (s *slab[T]) need(n int) int {
	c, size := class(n)
	if c < len(s.open) && s.open[c] != 0 {
		return 0
	}
	var v T
	need := size * s.blocksOf(size) * int(unsafe.Sizeof(v))
	if s.growsList() {
		need += s.grownCap() * int(unsafe.Sizeof(page[T]{}))
	}
	return need
}

// growsList reports whether a new page needs a longer list of pages.
func (s *slab[T]) growsList() bool { return s.unused == 0 && len(s.pages) == cap(s.pages) }

// pushOpen adds a page to the list of open pages of its class.
func (s *slab[T]) pushOpen(i uint32, class int) {
	p, first := &s.pages[i], s.open[class]
	p.next, p.prev = first, 0
	s.pages[first].prev = i // if first is 0, nothing reads this
	s.open[class] = i
}

// pullOpen removes a page from the list of open pages of its class.
func (s *slab[T]) pullOpen(i uint32, class int) {
	p := &s.pages[i]
	if s.open[class] == i {
		s.open[class] = p.next
	} else {
		s.pages[p.prev].next = p.next
	}
	s.pages[p.next].prev = p.prev
}

// trim gives the memory of all idle pages back to the Go heap.
func (s *slab[T]) trim() {
	for i := 1; s.idle > 0; i++ {
		if p := &s.pages[i]; p.count == 0 && p.items != nil {
			s.giveBack(uint32(i))
		}
	}
}

func (s *slab[T]) giveBack(i uint32) {
	c, _ := class(int(s.pages[i].size))
	s.pullOpen(i, c)
	s.count(-len(s.pages[i].items))
	s.pages[i] = page[T]{next: s.unused}
	s.unused = i
	s.idle--
}

// at returns the block of a handle. The block does not move until it is freed.
func (s *slab[T]) at(h handle) []T {
	p := &s.pages[h>>8]
	from, to := uint32(h&255)*p.size, uint32(h&255)*p.size+p.size
	return p.items[from:to:to]
}

// get returns the value of a block of size 1.
func (s *slab[T]) get(h handle) *T { return &s.pages[h>>8].items[h&255] }

// free frees a block. It ignores handle 0.
func (s *slab[T]) free(h handle) {
	if h == 0 {
		return
	}
	i := uint32(h >> 8)
	p := &s.pages[i]
	if p.count == p.blocks {
		c, _ := class(int(p.size))
		s.pushOpen(i, c)
	}
	p.taken[h&255>>6] &^= 1 << (h & 63)
	if p.count--; p.count > 0 {
		clear(s.at(h))
		return
	}
	s.idle++
	switch {
	case p.blocks == 1: // a large block; few tracks need one of its size
		s.giveBack(i)
	case s.idle > 4+len(s.pages)/32: // keep about 3 % of the pages
		s.trim()
	default:
		clear(s.at(h))
	}
}

// from returns the first handle of a taken block that is not below h, or 0 if there is none.
func (s *slab[T]) from(h handle) handle {
	for i := h >> 8; int(i) < len(s.pages); i++ {
		for w := h & 255 >> 6; w < 4; w++ {
			if taken := s.pages[i].taken[w] >> (h & 63); taken != 0 {
				return i<<8 | w<<6 | h&63 + handle(bits.TrailingZeros64(taken))
			}
			h = 0 // the other words, and pages, from their first bit on
		}
	}
	return 0
}
