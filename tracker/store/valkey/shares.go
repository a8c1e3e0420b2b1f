package valkey

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// share decides how many peers of each set go into the reply.
func (q *query) share(counts *[sets]int) {
	q.take = [sets]int{}
	var n [2]int // by family
	for i := q.first; i < sets; i++ {
		n[i%2] += q.others(i, counts[i])
	}
	for family, k := range shares(q.want, n[0], n[1]) {
		rest := n[family]
		for i := q.first + family; i < sets && k > 0; i += 2 {
			others := q.others(i, counts[i])
			part := portion(k, others, rest)
			q.take[i] = part
			k, rest = k-part, rest-others
		}
	}
}

// shares says how many of want peers to draw from n4 peers in IPv4 and from n6 in IPv6. The shares
// are in proportion to n4 and n6, so that every peer has the same chance. But each family gets at
// least a quarter, or less if it has fewer peers.
func shares(want, n4, n6 int) [2]int {
	if n4+n6 <= want {
		return [2]int{n4, n6}
	}
	k4 := portion(want, n4, n4+n6)
	if quarter := (want + 3) / 4; want > 1 {
		k4 = max(k4, min(quarter, n4))
		k4 = min(k4, want-min(quarter, n6))
	}
	return [2]int{k4, want - k4}
}

// portion returns how many of k peers are among n of all peers, in proportion and rounded at random.
func portion(k, n, all int) int {
	if all <= k {
		return n
	}
	part := k * n / all
	if rand.IntN(all) < k*n%all {
		part++
	}
	return max(min(part, n), k-(all-n))
}

// A seen finds endpoints that were read twice, because their rank changed between two windows.
type seen struct {
	slots [256]uint16 // the number of an endpoint, plus 1
	all   map[netip.AddrPort]struct{}
	n     int
	names [128]netip.AddrPort
}

func (s *seen) reset() {
	clear(s.slots[:])
	s.n, s.all = 0, nil
}

// add reports whether e was not there.
func (s *seen) add(member string, e netip.AddrPort) bool {
	if s.all == nil && s.n == len(s.names) {
		s.all = make(map[netip.AddrPort]struct{}, 2*s.n)
		for _, o := range s.names {
			s.all[o] = struct{}{}
		}
	}
	if s.all != nil {
		if _, found := s.all[e]; found {
			return false
		}
		s.all[e] = struct{}{}
		return true
	}
	var end [4]byte
	copy(end[:], member[len(member)-4:])
	h := (binary.LittleEndian.Uint32(end[:]) ^ uint32(member[1])<<16 ^ uint32(member[0])<<8) * 0x9e3779b1
	for i := uint8(h >> 24); ; i++ {
		switch at := s.slots[i]; {
		case at == 0:
			s.slots[i] = uint16(s.n + 1)
			s.names[s.n] = e
			s.n++
			return true
		case s.names[at-1] == e:
			return false
		}
	}
}
