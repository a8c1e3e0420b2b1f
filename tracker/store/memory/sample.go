package memory

import (
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
	share, start := shares(want.Peers, n[0], n[1]), len(dst)
	for i := range draws {
		d := &draws[i]
		if d.steps = min(d.cap, max(maxSteps, 4*share[i])); d.steps == 0 {
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
		draws[0].port = self[len(self)-1] >> 16 // the last word has the port and the expiry
		draws[1].port = draws[0].port
	}
	dst = draws[0].take(dst, share[0])
	dst = draws[1].take(dst, share[0]+share[1]-(len(dst)-start))
	// A family may give fewer peers than it should, because n counts lapsed peers. The other family
	// makes up for it.
	return draws[0].take(dst, share[0]+share[1]-(len(dst)-start))
}

// shares says how many of want peers to draw from n4 peers in IPv4 and from n6 in IPv6. The shares
// are in proportion to n4 and n6, so that every peer has the same chance. But each family gets at
// least a quarter, or less if it has fewer peers.
func shares(want, n4, n6 int) [2]int {
	if n4+n6 <= want {
		return [2]int{n4, n6}
	}
	k4 := want * n4 / (n4 + n6)
	if rand.IntN(n4+n6) < want*n4%(n4+n6) {
		k4++ // rounded up at random: if want is 1, either family then has a chance
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
	// If all peers of the table are wanted, their order does not matter, and next is the next slot
	// to visit. Otherwise next is -1, and the slots come from order.
	next  int
	order permutation
	steps int // how many slots the draw may still visit
	asker wire.Scope
	all   bool   // the asker sees every peer of the table
	self  packed // the asker, which is not taken; nil if it is not listed
	port  uint32 // of self
	now   expiry
}

// maxSteps is how many slots a draw visits at most, or four times as many as there are peers to draw,
// because other calls wait for the lock of the shard. If most peers of a large table are hidden or have lapsed, the sample may be too small. It
// has [wire.DefaultWant] peers as long as the asker may get the peer of one slot in a hundred.
const maxSteps = 8192

// take appends k peers, or fewer if there are no more slots or steps.
func (d *draw) take(dst []wire.Peer, k int) []wire.Peer {
	const batch = 16
	dst = slices.Grow(dst, min(k, d.steps))
	var slots [batch]int
	var lastWords [batch]uint32 // of each slot
	for k > 0 && d.steps > 0 {
		// In a large table, reading a slot is a cache miss. So this reads a batch of slots before it
		// looks at any of them: the processor then waits for all of them at the same time.
		n := min(k, d.steps, batch)
		d.steps -= n
		d.nextSlots(slots[:n])
		for j, i := range slots[:n] {
			lastWords[j] = d.words[i*d.width+d.width-1]
		}
		for j, i := range slots[:n] {
			if lastWords[j] == 0 || expiry(lastWords[j]).lapsed(d.now) {
				continue
			}
			p := d.at(i)
			if lastWords[j]>>16 == d.port && len(d.self) == len(p) && p.same(d.self) {
				continue
			}
			a := p.addr()
			if !d.all && !d.asker.Sees(wire.ScopeOf(a)) {
				continue
			}
			dst = dst[:len(dst)+1]
			peer := &dst[len(dst)-1]
			peer.Endpoint, peer.ID = netip.AddrPortFrom(a, uint16(lastWords[j]>>16)), wire.ID{}
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
