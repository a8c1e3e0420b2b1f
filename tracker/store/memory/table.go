package memory

// How the peers of a track are stored: packed into words, in one hash table for each family.

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"ntrack/announce/wire"
)

// A packed is a peer in words of 32 bits. Its address takes 1 word (IPv4) or 4 words (IPv6). Its
// port and its expiry share the last word. A slot whose last word is 0 is empty.
type packed []uint32

// widths says how many words a peer has, by family: 0 is IPv4, and 1 is IPv6.
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

// A tableHead is what a track keeps of its table for a family. The table is a hash set with linear
// probing. It may have any number of slots, because home scales a hash to this number. The peers
// are in the order of their hashes, so resize fills a larger table from front to back.
type tableHead struct {
	slots handle // in shard.words: a packed for each slot
	ids   handle // in shard.ids: an ID for each slot; 0 if no peer has given an ID
	// scopes counts the peers by scope, lapsed ones included.
	scopes [wire.NumScopes]uint32
}

func (h *tableHead) len() int {
	return int(h.scopes[0] + h.scopes[1] + h.scopes[2] + h.scopes[3])
}

// visibleLen is how many peers an asker of this scope sees, including itself.
func (h *tableHead) visibleLen(asker wire.Scope) int {
	n := uint32(0)
	for s, k := range h.scopes {
		if asker.Sees(wire.Scope(s)) {
			n += k
		}
	}
	return int(n)
}

// A table is a tableHead with the memory of its slots. The caller must hold the lock of the shard.
type table struct {
	*tableHead
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

// home is the slot where the search for a peer begins. The seed is secret, so clients cannot choose
// addresses whose peers have the same home.
func (t *table) home(p packed) int {
	port := len(p) - 1
	h := t.seed[0] ^ uint64(p[port]>>16)
	for i, w := range p[:port] {
		if i > 0 {
			h = fold(h, t.seed[1])
		}
		h ^= uint64(w) << 16
	}
	// After one fold, the hashes of one address with different ports are an arithmetic progression.
	// One seed in a hundred would put them into slots close together.
	h = fold(fold(h, t.seed[1]), t.seed[0]|1)
	slot, _ := bits.Mul64(h, uint64(t.cap))
	return int(slot)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// find returns the slot of a peer. If the table does not have the peer, find returns the empty slot
// that the peer would get, or t.cap if no slot is empty.
func (t *table) find(p packed) (i int, found bool) {
	if t.cap == 0 {
		return 0, false
	}
	i = t.home(p)
	last := t.width - 1
	low := p[last-1] // the end of the address, in which most addresses differ
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

// vacate removes the peer in slot i. It moves later peers into the gap, so that no slot between the
// home of a peer and the peer is empty: a search ends at an empty slot.
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
			continue // the home of this peer is after the gap
		}
		copy(t.at(gap), t.at(j))
		if t.peerIDs != nil {
			t.peerIDs[gap] = t.peerIDs[j]
		}
		gap = j
	}
	clear(t.at(gap)) // but not the ID: the next peer in the slot overwrites it
}

// distance is how many slots a search goes from one slot to another.
func (t *table) distance(from, to int) int {
	if to < from {
		to += t.cap
	}
	return to - from
}

// maxPeers is how many peers may be in a table with this many slots. The fuller a table is, the
// longer a search takes. Tables of up to 8 slots may be full, because a search of them is short.
func maxPeers(slots int) int {
	if slots <= 8 {
		return slots
	}
	return slots - slots/9
}
