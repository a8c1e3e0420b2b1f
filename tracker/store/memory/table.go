package memory

// How the peers of a track are stored: each packed into words, in a hash table for each family.

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"ntrack/announce/wire"
)

// A packed is a peer in words of 32 bits: its address in 1 word (IPv4) or 4 (IPv6), and one more
// word for the port and the expiry. A slot whose last word is 0 is empty.
type packed []uint32

// widths is how many words a peer has, by family.
var widths = [2]int{2, 5}

// pack writes an endpoint into buf, without an expiry.
func pack(buf *[5]uint32, e netip.AddrPort) packed {
	var p packed
	if e.Addr().Is4() {
		p = buf[:widths[0]]
		a := e.Addr().As4()
		p[0] = binary.BigEndian.Uint32(a[:])
	} else {
		p = buf[:widths[1]]
		a := e.Addr().As16()
		for i := range 4 {
			p[i] = binary.BigEndian.Uint32(a[4*i:])
		}
	}
	p[len(p)-1] = uint32(e.Port()) << 16
	return p
}

func (p packed) family() int {
	if len(p) == widths[0] {
		return 0
	}
	return 1
}

func (p packed) addr() netip.Addr {
	if p.family() == 0 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], p[0])
		return netip.AddrFrom4(a)
	}
	var a [16]byte
	for i := range 4 {
		binary.BigEndian.PutUint32(a[4*i:], p[i])
	}
	return netip.AddrFrom16(a)
}

func (p packed) endpoint() netip.AddrPort {
	return netip.AddrPortFrom(p.addr(), uint16(p[len(p)-1]>>16))
}

func (p packed) expiry() expiry     { return expiry(p[len(p)-1]) }
func (p packed) setExpiry(e expiry) { p[len(p)-1] = p[len(p)-1]&^0xffff | uint32(e) }
func (p packed) empty() bool        { return p[len(p)-1] == 0 }

// same reports whether two peers of one family have the same endpoint.
func (p packed) same(o packed) bool {
	last := len(p) - 1
	if (p[last]^o[last])>>16 != 0 {
		return false
	}
	for i := range last {
		if p[i] != o[i] {
			return false
		}
	}
	return true
}

// A family is the peers of a track in IPv4 or in IPv6: a hash set with linear probing. It may have
// any number of slots, because a hash is scaled to it. The slots are in the order of the hashes, so
// a set is copied into a larger one from front to back.
type family struct {
	slots handle // in shard.words: peers
	ids   handle // in shard.ids: one for each slot; 0 while no peer has given one
	// scopes counts the peers by scope, lapsed ones included.
	scopes [wire.NumScopes]uint32
}

func (f *family) len() int {
	return int(f.scopes[0] + f.scopes[1] + f.scopes[2] + f.scopes[3])
}

// visible is how many peers an asker sees.
func (f *family) visible(asker wire.Scope) int {
	n := uint32(0)
	for s, k := range f.scopes {
		if asker.Sees(wire.Scope(s)) {
			n += k
		}
	}
	return int(n)
}

// A table is a family with its memory at hand.
type table struct {
	*family
	words   []uint32
	peerIDs []wire.ID // nil, or one for each slot
	width   int
	cap     int // slots
	seed    [2]uint64
}

func (t *table) at(i int) packed {
	from, to := i*t.width, i*t.width+t.width
	return t.words[from:to:to]
}

// home is the slot where the search for a peer begins. Clients choose their addresses; the seed
// keeps them from choosing their slots.
func (t *table) home(p packed) int {
	port := len(p) - 1
	h := t.seed[0] ^ uint64(p[port]>>16)
	for i, w := range p[:port] {
		if i > 0 {
			h = fold(h, t.seed[1])
		}
		h ^= uint64(w) << 16
	}
	// Folded twice: once leaves the ports of one address in an arithmetic progression, which one
	// seed in a hundred puts close together.
	h = fold(fold(h, t.seed[1]), t.seed[0]|1)
	slot, _ := bits.Mul64(h, uint64(t.cap))
	return int(slot)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// find returns the slot of a peer. If the peer is not there, it returns the empty slot where it
// would go, or t.cap if all are taken.
func (t *table) find(p packed) (i int, found bool) {
	if t.cap == 0 {
		return 0, false
	}
	i = t.home(p)
	last := t.width - 1
	low := p[last-1] // the part of the address in which most differ
	for range t.cap {
		at := t.words[i*t.width : (i+1)*t.width]
		if at[last] == 0 {
			return i, false
		}
		if at[last-1] == low && packed(at).same(p) {
			return i, true
		}
		if i++; i == t.cap {
			i = 0
		}
	}
	return t.cap, false
}

// vacate empties slot i and closes the gap: the peers after it move back as far as their homes
// allow.
func (t *table) vacate(i int) {
	gap := i
	for j := i + 1; ; j++ {
		if j == t.cap {
			j = 0
		}
		if j == i || t.at(j).empty() {
			break
		}
		if t.distance(t.home(t.at(j)), j) < t.distance(gap, j) {
			continue // its home is after the gap
		}
		copy(t.at(gap), t.at(j))
		if t.peerIDs != nil {
			t.peerIDs[gap] = t.peerIDs[j]
		}
		gap = j
	}
	clear(t.at(gap)) // the ID stays: the next peer in the slot sets its own, or none
}

// distance is how far a search goes from one slot to another.
func (t *table) distance(from, to int) int {
	if to < from {
		to += t.cap
	}
	return to - from
}

// maxPeers returns how many peers may be in that many slots. A search takes longer the fuller a
// table is. Up to 8 slots it does not matter: they are read together.
func maxPeers(slots int) int {
	if slots <= 8 {
		return slots
	}
	return slots - slots/9
}
