package memory

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// sample appends at most want peers of t that asker sees, without self, which may be nil. It draws
// them in a random order of slots, so it takes about as many steps as peers are wanted, whatever
// the size of the track.
func (s *shard) sample(dst []wire.Peer, t *track, want store.Want, asker wire.Scope, self packed, now expiry) []wire.Peer {
	if want.Peers <= 0 {
		return dst
	}
	var draws [2]draw
	var n [2]int
	for i := range draws {
		tab := s.table(t, i)
		if tab.cap == 0 {
			continue
		}
		n[i] = tab.visibleLen(asker)
		draws[i].all = n[i] == tab.len()
		if len(self) == tab.width {
			n[i]-- // the asker sees itself
		}
		if !want.IDs {
			tab.peerIDs = nil // to read each is a cache miss
		}
		draws[i].table = tab
	}
	take, before := shares(want.Peers, n[0], n[1]), len(dst)
	for i := range draws {
		d := &draws[i]
		if d.steps = min(d.cap, maxSteps); d.steps == 0 {
			continue
		}
		d.asker, d.now = asker, now
		if take[i] == n[i] {
			d.next = rand.IntN(d.cap)
		} else {
			d.next = -1
			d.order.init(d.cap)
		}
	}
	if self != nil {
		draws[0].self, draws[1].self = self, self
		draws[0].port = self[len(self)-1] >> 16
		draws[1].port = draws[0].port
	}
	dst = draws[0].take(dst, take[0])
	dst = draws[1].take(dst, take[1]+take[0]-(len(dst)-before))
	// n may have counted lapsed peers of one family. The other family fills the gap.
	return draws[0].take(dst, take[0]+take[1]-(len(dst)-before))
}

// shares divides want between n4 and n6 peers: in proportion, so that every peer has the same
// chance, except that the smaller family gets at least a quarter.
func shares(want, n4, n6 int) [2]int {
	if n4+n6 <= want {
		return [2]int{n4, n6}
	}
	k4 := want * n4 / (n4 + n6)
	if rand.IntN(n4+n6) < want*n4%(n4+n6) {
		k4++ // rounded at random, so that a want of 1 can get either family
	}
	if quarter := (want + 3) / 4; want > 1 {
		k4 = max(k4, min(quarter, n4))
		k4 = min(k4, want-min(quarter, n6))
	}
	return [2]int{k4, want - k4}
}

// A draw takes peers from a table in a random order of its slots.
type draw struct {
	table
	order permutation
	// next is the next slot, or -1 if the slots come in random order. If all peers are wanted,
	// their order does not matter.
	next  int
	steps int // that are left
	asker wire.Scope
	all   bool   // the asker sees every peer
	self  packed // is left out
	port  uint32 // of self
	now   expiry
}

// maxSteps bounds the search when few of very many peers can be given, so that other calls do not
// wait for it. It finds 50 peers where one slot in a hundred has one that can be given.
const maxSteps = 8192

// take appends k peers, or fewer if the slots or the steps run out.
func (d *draw) take(dst []wire.Peer, k int) []wire.Peer {
	const batch = 16
	dst = slices.Grow(dst, min(k, d.steps))
	var slots [batch]int
	var ends [batch]uint32
	for k > 0 && d.steps > 0 {
		// In a large table each slot is a cache miss. Reading several before looking at the first
		// waits for all of them together.
		n := min(k, d.steps, batch)
		d.steps -= n
		d.nextSlots(slots[:n])
		for j, i := range slots[:n] {
			ends[j] = d.words[i*d.width+d.width-1]
		}
		for j, i := range slots[:n] {
			if ends[j] == 0 || expiry(ends[j]).lapsed(d.now) {
				continue
			}
			p := d.at(i)
			if ends[j]>>16 == d.port && len(d.self) == len(p) && p.same(d.self) {
				continue
			}
			a := p.addr()
			if !d.all && !d.asker.Sees(wire.ScopeOf(a)) {
				continue
			}
			dst = dst[:len(dst)+1]
			peer := &dst[len(dst)-1]
			peer.Endpoint, peer.ID = netip.AddrPortFrom(a, uint16(ends[j]>>16)), wire.ID{}
			if d.peerIDs != nil {
				peer.ID = d.peerIDs[i]
			}
			k--
		}
	}
	return dst
}

func (d *draw) nextSlots(slots []int) {
	if d.next < 0 {
		d.order.fill(slots)
		return
	}
	for j := range slots {
		slots[j] = d.next
		if d.next++; d.next == d.cap {
			d.next = 0
		}
	}
}

// A permutation yields each of 0..n-1 once, in a random order. It takes constant memory, and a step
// takes as long for any n.
//
// Up to maxShuffled numbers it shuffles them. Above, it counts through m bits, where 2^m is the
// first power of two not below n, mixes the bits in a way that can be inverted, and skips results
// beyond n. Each permutation has a new seed. That gives far fewer orders than n!, but every number
// and every pair comes as often as any other, as TestPermutation shows.
type permutation struct {
	n, i uint64

	shuffled [maxShuffled]uint8
	random   uint64 // the state of a generator

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

// fill writes the next numbers into out. All calls together must not ask for more than n.
func (p *permutation) fill(out []int) {
	if p.n <= maxShuffled {
		for k := range out {
			// splitmix64; 32 bits of it are plenty to choose among 256.
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
		for r := range key { // each step maps m bits one to one
			x = (x ^ key[r].xor) * key[r].mul & mask
			x ^= x >> shift
		}
		out[k] = int(x)
		if x < p.n { // compiled without a branch, which would often be mispredicted
			k++
		}
	}
	p.i = i
}
