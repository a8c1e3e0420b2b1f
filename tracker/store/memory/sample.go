package memory

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// shares divides want between n4 and n6 peers: in proportion, so that every peer is as likely to
// be given, but for the quarter that the smaller family is sure of.
func shares(want, n4, n6 int) [2]int {
	if n4+n6 <= want {
		return [2]int{n4, n6}
	}
	k4 := want * n4 / (n4 + n6)
	if rand.IntN(n4+n6) < want*n4%(n4+n6) {
		k4++ // rounded by chance, so that a want of 1 reaches both
	}
	if quarter := (want + 3) / 4; want > 1 {
		k4 = max(k4, min(quarter, n4))
		k4 = min(k4, want-min(quarter, n6))
	}
	return [2]int{k4, want - k4}
}

// A draw takes peers from a table in an order drawn anew each time: a permutation of the slots,
// computed, not stored, so that it costs about as many steps as peers are wanted, whatever the
// size of the table.
type draw struct {
	table
	order permutation
	// next is the slot to go on from where everybody is wanted and the order does not matter: -1
	// to follow the permutation.
	next  int
	left  int // steps
	asker wire.Scope
	all   bool   // asker sees every peer
	self  record // not to be given
	port  uint32 // of self
	now   stamp
}

// maxSteps bounds the search where few of very many peers can be given, for these are not worth
// holding everybody else up: 50 wanted are found where one slot in a hundred has one.
const maxSteps = 8192

// take appends at most k peers, and fewer only at the end of the table or of the patience for it.
func (d *draw) take(dst []wire.Peer, k int) []wire.Peer {
	const batch = 16
	dst = slices.Grow(dst, min(k, d.left))
	var slots [batch]int
	var ends [batch]uint32
	for k > 0 && d.left > 0 {
		// In a large table each slot is a cache miss: reading several, before the first is looked
		// at, waits for them together.
		n := min(k, d.left, batch)
		d.left -= n
		d.fill(slots[:n])
		for j, i := range slots[:n] {
			ends[j] = d.words[i*d.width+d.width-1]
		}
		for j, i := range slots[:n] {
			if ends[j] == 0 || stamp(ends[j]).lapsed(d.now) {
				continue
			}
			r := d.at(i)
			if ends[j]>>16 == d.port && len(d.self) == len(r) && r.same(d.self) {
				continue
			}
			a := r.addr()
			if !d.all && !d.asker.Sees(wire.ScopeOf(a)) {
				continue
			}
			dst = dst[:len(dst)+1]
			p := &dst[len(dst)-1]
			p.Endpoint, p.ID = netip.AddrPortFrom(a, uint16(ends[j]>>16)), wire.ID{}
			if d.labels != nil {
				p.ID = d.labels[i]
			}
			k--
		}
	}
	return dst
}

func (d *draw) fill(slots []int) {
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

// sample appends at most want peers of t that asker sees, self excepted, which may be nil.
func (s *shard) sample(dst []wire.Peer, t *track, want store.Want, asker wire.Scope, self record, now stamp) []wire.Peer {
	if want.Peers <= 0 {
		return dst
	}
	var draws [2]draw
	var n [2]int
	for i := range draws {
		v := s.table(t, i)
		if v.cap == 0 {
			continue
		}
		n[i] = v.visible(asker)
		draws[i].all = n[i] == v.len()
		if len(self) == v.width {
			n[i]-- // it sees itself
		}
		if !want.IDs {
			v.labels = nil // each is a cache miss
		}
		draws[i].table = v
	}
	take, had := shares(want.Peers, n[0], n[1]), len(dst)
	for i := range draws {
		d := &draws[i]
		if d.left = min(d.cap, maxSteps); d.left == 0 {
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
	dst = draws[1].take(dst, take[1]+take[0]-(len(dst)-had))
	// Where n counted peers that have lapsed, the other family fills the gap.
	return draws[0].take(dst, take[0]+take[1]-(len(dst)-had))
}
