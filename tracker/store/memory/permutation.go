package memory

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// permutation yields each of 0..n-1 once, in an order drawn at random, in constant memory and at
// a cost per step that does not depend on n.
//
// Up to small it shuffles for real. Above, it runs a counter through invertible mixing of m bits,
// 2^m being the first power of two not below n, and skips what falls outside 0..n-1. Either is
// seeded anew for each permutation; that leaves far fewer orders than n!, but each value and each
// pair comes as often as any other, which TestPermutation shows.
type permutation struct {
	n, i uint64

	shuffled [small]uint8
	random   uint64 // the state of a generator

	mask  uint64
	shift int
	key   [3]struct{ xor, mul uint64 }
}

const small = 256

func (p *permutation) init(n int) {
	p.n, p.i = uint64(n), 0
	if n <= small {
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

// fill writes the next values into out. It must not be called for more than n in all.
func (p *permutation) fill(out []int) {
	if p.n <= small {
		for k := range out {
			// splitmix64, of which 32 bits are plenty to choose among 256.
			p.random += 0x9e3779b97f4a7c15
			x := p.random
			x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
			x = (x ^ x>>27) * 0x94d049bb133111eb
			j := p.i + x>>32*(p.n-p.i)>>32
			out[k] = int(p.shuffled[j])
			p.shuffled[j] = p.shuffled[p.i]
			p.i++
		}
		return
	}
	i, key, mask, shift := p.i, p.key, p.mask, p.shift&63
	for k := 0; k < len(out); i++ {
		x := i
		for r := range key { // each step is a bijection of m bits
			x = (x ^ key[r].xor) * key[r].mul & mask
			x ^= x >> shift
		}
		out[k] = int(x)
		if x < p.n { // no branch in machine code: it would be mispredicted every other time
			k++
		}
	}
	p.i = i
}
