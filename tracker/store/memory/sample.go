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

// sample appends up to want.Peers peers of t that an asker of this scope sees. It leaves out self,
// which is nil if the asker is not listed. It visits slots in a random order until it has enough
// peers, so the time does not depend on the size of the track.
func (s *shard) sample(dst []wire.Peer, t *track, want store.Want, asker wire.Scope, self packed, now expiry) []wire.Peer {
	if want.Peers <= 0 {
		return dst
	}
	var draws [2]draw
	var n [2]int // the peers that may be drawn, by family; lapsed peers count
	for i := range draws {
		tab := s.table(t, i)
		if tab.cap == 0 {
			continue
		}
		n[i] = tab.visibleLen(asker)
		draws[i].all = n[i] == tab.len()
		if len(self) == tab.width {
			n[i]-- // visibleLen counts the asker
		}
		if !want.IDs {
			tab.peerIDs = nil // reading an ID is a cache miss
		}
		draws[i].table = tab
	}
	share, before := shares(want.Peers, n[0], n[1]), len(dst)
	for i := range draws {
		d := &draws[i]
		if d.steps = min(d.cap, maxSteps); d.steps == 0 {
			continue
		}
		d.asker, d.now = asker, now
		if share[i] == n[i] {
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
	dst = draws[0].take(dst, share[0])
	dst = draws[1].take(dst, share[0]+share[1]-(len(dst)-before))
	// A family may give fewer peers than it should, because n counts lapsed peers. The other family
	// makes up for it.
	return draws[0].take(dst, share[0]+share[1]-(len(dst)-before))
}

// shares says how many of want peers to draw from n4 peers in IPv4 and from n6 in IPv6. The shares
// are in proportion to n4 and n6, so that every peer has the same chance, but each family gets at
// least a quarter if it has enough peers.
func shares(want, n4, n6 int) [2]int {
	if n4+n6 <= want {
		return [2]int{n4, n6}
	}
	k4 := want * n4 / (n4 + n6)
	if rand.IntN(n4+n6) < want*n4%(n4+n6) {
		k4++ // rounded up at random, so that a single peer may be of either family
	}
	if quarter := (want + 3) / 4; want > 1 {
		k4 = max(k4, min(quarter, n4))
		k4 = min(k4, want-min(quarter, n6))
	}
	return [2]int{k4, want - k4}
}

// A draw takes peers from a table.
type draw struct {
	table
	// next is the next slot to visit if all peers are wanted, because their order does not matter
	// then. It is -1 if the slots come from order.
	next  int
	order permutation
	steps int // how many slots the draw may still visit
	asker wire.Scope
	all   bool   // the asker sees every peer of the table
	self  packed // is not taken
	port  uint32 // of self
	now   expiry
}

// maxSteps bounds a draw from a large table in which most peers are hidden or have lapsed, because
// other calls wait for it. It is enough for 50 peers if the asker may get one slot in a hundred.
const maxSteps = 8192

// take appends k peers, or fewer if there are no more slots or steps.
func (d *draw) take(dst []wire.Peer, k int) []wire.Peer {
	const batch = 16
	dst = slices.Grow(dst, min(k, d.steps))
	var slots [batch]int
	var ends [batch]uint32 // the last word of each slot
	for k > 0 && d.steps > 0 {
		// In a large table, reading a slot is a cache miss. So a batch of slots is read before any
		// of them is looked at: the processor then waits for all of them at the same time.
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

// A permutation has each number from 0 to n-1 once, in a random order. The memory and the time for
// each number do not depend on n.
//
// It shuffles up to maxShuffled numbers. For more, it counts through m bits, where 2^m is the first
// power of two that is at least n. It mixes the bits of each count in a way that can be inverted,
// and skips results of n or more. Each permutation has a new seed. There are far fewer such orders
// than n!, but every number and every pair comes first as often as any other, as TestPermutation
// shows.
type permutation struct {
	n, i uint64 // i is the next count

	// For up to maxShuffled numbers. The numbers from index i on are yet to come.
	shuffled [maxShuffled]uint8
	random   uint64 // the state of the generator

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
