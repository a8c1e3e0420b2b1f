package memory

import (
	"math/bits"
	"unsafe"
)

// segmentLen is how many buckets the memory of one segment has.
const segmentLen = 256

// buckets are a hash table with chains. It grows and shrinks by one bucket at a time (linear hashing).
// Its memory has segments that do not move. So no call that adds or removes a track moves many others.
//
// If there are n buckets, and 2^k < n <= 2^(k+1), the lowest k+1 bits of a hash are the number of its
// bucket. If that bucket does not exist yet, the lowest k bits are. When it is added, it gets its
// tracks from there.
type buckets struct {
	segments []*[segmentLen]handle
	n        int // how many buckets are in use
	ledger   *ledger
}

func (b *buckets) at(i int) *handle { return &b.segments[i/segmentLen][i%segmentLen] }

// of returns the bucket of a hash. There must be at least one bucket.
func (b *buckets) of(hash uint64) *handle {
	k := bits.Len(uint(b.n - 1))
	i := int(hash & (1<<k - 1))
	if i >= b.n {
		i -= 1 << (k - 1)
	}
	return b.at(i)
}

// origin returns the bucket that has the tracks of bucket i until there is a bucket i.
func (b *buckets) origin(i int) *handle { return b.at(i - 1<<(bits.Len(uint(i))-1)) }

// grow adds a bucket, the last one. It empties the bucket that had the tracks of the new one, and
// returns its chain. The caller has to link these tracks again.
func (b *buckets) grow() (chain handle) {
	i := b.n
	if i == segmentLen*len(b.segments) {
		if i == segmentLen*cap(b.segments) {
			b.growList()
		}
		b.segments = append(b.segments, new([segmentLen]handle))
		b.ledger.take(segmentBytes)
	}
	if b.n++; i == 0 {
		return 0
	}
	o := b.origin(i)
	chain, *o = *o, 0
	return chain
}

// shrink removes the last of several buckets. It returns the chain of this bucket, and the bucket that the
// tracks of the chain belong to now.
func (b *buckets) shrink() (chain handle, to *handle) {
	b.n--
	last := b.at(b.n)
	chain, *last = *last, 0
	if b.n%segmentLen == 0 {
		end := len(b.segments) - 1
		b.segments[end] = nil
		b.segments = b.segments[:end]
		b.ledger.take(-segmentBytes)
	}
	return chain, b.origin(b.n)
}

const (
	segmentBytes = segmentLen * int(unsafe.Sizeof(handle(0)))
	pointerBytes = int(unsafe.Sizeof(uintptr(0)))
)

// grownCap is the capacity of the next list of segments.
func (b *buckets) grownCap() int { return cap(b.segments) + cap(b.segments)/4 + 8 }

// growList makes the list of segments longer. For a moment both lists exist.
func (b *buckets) growList() {
	old := cap(b.segments)
	b.segments = append(make([]*[segmentLen]handle, 0, b.grownCap()), b.segments...)
	b.ledger.take(cap(b.segments) * pointerBytes)
	b.ledger.take(-old * pointerBytes)
}

// need is how many bytes grow takes.
func (b *buckets) need() int {
	switch b.n {
	case segmentLen * cap(b.segments):
		return segmentBytes + b.grownCap()*pointerBytes
	case segmentLen * len(b.segments):
		return segmentBytes
	}
	return 0
}

// bytes is the memory of the buckets.
func (b *buckets) bytes() int {
	return len(b.segments)*segmentBytes + cap(b.segments)*pointerBytes
}
