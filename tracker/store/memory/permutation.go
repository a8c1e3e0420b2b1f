package memory

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// A permutation has each number from 0 to n-1 once, in a random order. The memory and the time for
// each number do not depend on n.
//
// It shuffles up to maxShuffled numbers. For more, it counts from 0 to 2^m-1, where 2^m is the first
// power of two that is at least n. It mixes the bits of each count in a way that can be inverted,
// and skips results of n or more. Each permutation has new random keys. There are far fewer such
// orders than n!. But each number is equally likely to be first, and each pair of numbers to be the
// first two. TestPermutation shows that.
type permutation struct {
	n, i uint64 // i is the next count

	// For up to maxShuffled numbers. Those from index i on are still to come.
	shuffled [maxShuffled]uint8
	random   uint64 // the state of the random generator

	// For more numbers.
	mask  uint64
	shift int
	key   [3]struct{ xor, mul uint64 }
}

const maxShuffled = 256

func (p *permutation) init(n int) {
	p.n, p.i = uint64(n), 0
	if n <= maxShuffled {
		for i := 0; i < n; i += 8 { // 0, 1, 2 and so on, eight at a time
			binary.LittleEndian.PutUint64(p.shuffled[i:], 0x0706050403020100+uint64(i)*0x0101010101010101)
		}
		p.random = rand.Uint64()
		return
	}
	m := bits.Len64(p.n - 1)
	p.mask, p.shift = 1<<m-1, (m+1)/2
	for r := range p.key {
		p.key[r].xor, p.key[r].mul = rand.Uint64(), rand.Uint64()|1
	}
}

// fill writes the next numbers into out. All calls together must not ask for more than n numbers.
func (p *permutation) fill(out []int) {
	if p.n <= maxShuffled {
		for k := range out {
			// This is splitmix64. 32 of its bits are enough to choose one of 256 numbers.
			p.random += 0x9e3779b97f4a7c15
			x := p.random
			x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
			x = (x ^ x>>27) * 0x94d049bb133111eb
			j := p.i + ((x>>32)*(p.n-p.i))>>32
			out[k] = int(p.shuffled[j])
			p.shuffled[j] = p.shuffled[p.i]
			p.i++
		}
		return
	}
	// The shift is less than 64. &63 shows that to the compiler, which then omits checks.
	i, key, mask, shift := p.i, p.key, p.mask, p.shift&63
	for k := 0; k < len(out); i++ {
		x := i
		for r := range key { // each round maps m bits to m bits, one to one
			x = (x ^ key[r].xor) * key[r].mul & mask
			x ^= x >> shift
		}
		out[k] = int(x)
		if x < p.n { // compiles to a conditional move: a branch would often be mispredicted
			k++
		}
	}
	p.i = i
}
