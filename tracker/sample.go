package tracker

import (
	"math/rand/v2"
	"net/netip"

	"ntrack/announce"
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
	k4 = max(min(k4, n4), want-n6)
	return [2]int{k4, want - k4}
}

// A draw takes peers from a table in an order drawn anew each time: a permutation of the slots,
// computed, not stored, so that it costs about as many steps as peers are wanted, whatever the
// size of the table.
type draw struct {
	table
	order permutation
	left  int // steps
	asker announce.Scope
	all   bool   // asker sees every peer
	self  record // not to be given
	now   stamp
}

// maxSteps bounds the search where few of very many peers can be given, for these are not worth
// holding everybody else up: 50 wanted are found where one slot in a hundred has one.
func maxSteps(want int) int { return 4096 + 100*want }

// take appends at most k peers, and fewer only at the end of the table or of the patience for it.
func (d *draw) take(dst []announce.Peer, k int) []announce.Peer {
	for ; k > 0 && d.left > 0; d.left-- {
		i := d.order.next()
		r := d.at(i)
		if r.empty() || r.stamp().lapsed(d.now) || len(d.self) == len(r) && r.same(d.self) {
			continue
		}
		a := r.addr()
		if !d.all && !d.asker.Sees(announce.ScopeOf(a)) {
			continue
		}
		p := announce.Peer{Endpoint: netip.AddrPortFrom(a, r.port())}
		if d.labels != nil {
			p.ID = d.labels[i]
		}
		dst = append(dst, p)
		k--
	}
	return dst
}

// sample appends at most want peers of t that asker sees, self excepted, which may be nil.
func (s *shard) sample(dst []announce.Peer, t *track, want int, asker announce.Scope, self record, now stamp) []announce.Peer {
	if want <= 0 {
		return dst
	}
	var draws [2]draw
	var n [2]int
	for i := range draws {
		d := &draws[i]
		d.table = s.table(t, i)
		if d.cap == 0 {
			continue
		}
		d.asker, d.self, d.now = asker, self, now
		n[i] = d.visible(asker)
		d.all = n[i] == d.len()
		if len(self) == d.width {
			n[i]-- // it sees itself
		}
		d.order.init(d.cap)
		d.left = min(d.cap, maxSteps(want))
	}
	take, had := shares(want, n[0], n[1]), len(dst)
	dst = draws[0].take(dst, take[0])
	dst = draws[1].take(dst, take[1]+take[0]-(len(dst)-had))
	// Where n counted peers that have lapsed, the other family fills the gap.
	return draws[0].take(dst, take[0]+take[1]-(len(dst)-had))
}
