package memory

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// A record is a peer packed into 32-bit words: the address, 1 word in IPv4 and 4 in IPv6, and one
// more for the port and the stamp. A word of 0 in the last place is an empty slot.
type record []uint32

// widths are the words of a record by family.
var widths = [2]int{2, 5}

// A stamp is a second of this process's life in 15 bits, compared around the clock: what lies
// less than horizon ahead is to come, everything else is past. The top bit is set, so that no
// stamp is 0. The seconds are those of the store's clock, which stands still unless the store is
// swept: no stamp gets old enough to be ahead again.
type stamp uint16

const (
	horizon = 1<<14 - 1 // seconds
	maxTTL  = (horizon - 1) * time.Second
	// held is for a peer that an open stream holds: it does not lapse.
	held stamp = 1
)

func stampOf(second int64) stamp { return 1<<15 | stamp(second) }

// until is how many seconds s is ahead of now, negative when it is past.
func (s stamp) until(now stamp) int { return int(int16((s-now)<<1) >> 1) }

func (s stamp) lapsed(now stamp) bool { return s != held && s.until(now) <= 0 }

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// pack writes an endpoint into buf, without a stamp.
func pack(buf *[5]uint32, e netip.AddrPort) record {
	r := record(buf[:widths[familyOf(e.Addr())]])
	if len(r) == 2 {
		a := e.Addr().As4()
		r[0] = binary.BigEndian.Uint32(a[:])
	} else {
		a := e.Addr().As16()
		for i := range 4 {
			r[i] = binary.BigEndian.Uint32(a[4*i:])
		}
	}
	r[len(r)-1] = uint32(e.Port()) << 16
	return r
}

func (r record) addr() netip.Addr {
	if len(r) == 2 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], r[0])
		return netip.AddrFrom4(a)
	}
	var a [16]byte
	for i := range 4 {
		binary.BigEndian.PutUint32(a[4*i:], r[i])
	}
	return netip.AddrFrom16(a)
}

func (r record) endpoint() netip.AddrPort { return netip.AddrPortFrom(r.addr(), r.port()) }

func (r record) port() uint16     { return uint16(r[len(r)-1] >> 16) }
func (r record) stamp() stamp     { return stamp(r[len(r)-1]) }
func (r record) setStamp(s stamp) { r[len(r)-1] = r[len(r)-1]&^0xffff | uint32(s) }
func (r record) empty() bool      { return r[len(r)-1] == 0 }

// same says whether two records of one width are of one endpoint.
func (r record) same(o record) bool {
	last := len(r) - 1
	if (r[last]^o[last])>>16 != 0 {
		return false
	}
	for i := range last {
		if r[i] != o[i] {
			return false
		}
	}
	return true
}

// A family is the peers of a track in IPv4 or in IPv6: a hash set with linear probing. Slots are
// in the order of the hashes, scaled to however many there are, so that a set is copied into a
// larger one from front to back, and any number of slots will do.
type family struct {
	slots handle // in shard.words: records
	ids   handle // in shard.ids: as many IDs; 0 while nobody gave one
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

// A table is a family with its slots at hand.
type table struct {
	*family
	words  []uint32
	labels []wire.ID // nil, or one for each slot
	width  int
	cap    int
	seed   [2]uint64
}

func (t *table) at(i int) record {
	from, to := i*t.width, i*t.width+t.width
	return t.words[from:to:to]
}

// home is the slot where the search for a peer begins. The seed keeps those who choose their
// addresses from choosing where they collide.
func (t *table) home(r record) int {
	port := len(r) - 1
	h := t.seed[0] ^ uint64(r[port]>>16)
	for i, w := range r[:port] {
		if i > 0 {
			h = fold(h, t.seed[1])
		}
		h ^= uint64(w) << 16
	}
	// Twice: after once the ports of one address are an arithmetic progression, and one seed in a
	// hundred puts them close together.
	h = fold(fold(h, t.seed[1]), t.seed[0]|1)
	slot, _ := bits.Mul64(h, uint64(t.cap))
	return int(slot)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// find returns the slot of a peer, or else the empty one where it would go, which is out of range
// when there is none.
func (t *table) find(r record) (i int, found bool) {
	if t.cap == 0 {
		return 0, false
	}
	i = t.home(r)
	last := t.width - 1
	low := r[last-1] // of the address, where it differs most
	for range t.cap {
		at := t.words[i*t.width : (i+1)*t.width]
		if at[last] == 0 {
			return i, false
		}
		if at[last-1] == low && record(at).same(r) {
			return i, true
		}
		if i++; i == t.cap {
			i = 0
		}
	}
	return t.cap, false
}

// remove empties slot i and closes the gap: what follows moves back as far as its home allows.
func (t *table) remove(i int) {
	gap := i
	for j := i + 1; ; j++ {
		if j == t.cap {
			j = 0
		}
		if j == i || t.at(j).empty() {
			break
		}
		if t.steps(t.home(t.at(j)), j) < t.steps(gap, j) {
			continue // its home is behind the gap
		}
		copy(t.at(gap), t.at(j))
		if t.labels != nil {
			t.labels[gap] = t.labels[j]
		}
		gap = j
	}
	clear(t.at(gap)) // but for the ID: a peer that joins brings its own, or none
}

// steps is how far a search goes from one slot to another.
func (t *table) steps(from, to int) int {
	if to < from {
		to += t.cap
	}
	return to - from
}

// room is how many peers so many slots may hold. Probing takes longer the fuller a table is; 8
// slots are read in one go either way.
func room(slots int) int {
	if slots <= 8 {
		return slots
	}
	return slots - slots/9
}
