package valkey

import (
	"math"
	"net/netip"
)

// A mirror has the peers of a track as this tracker has last read them, with their scores. It does
// nothing by itself, and needs a lock.
//
// In a track of many peers, a peer takes 13 to 25 bytes if its address is IPv4, and 26 to 50 if
// it is IPv6.
type mirror struct {
	v4 map[[6]byte]packed
	v6 map[[18]byte]packed
	// due is not above the score of any peer, and is 0 if there is none.
	due score
}

// A score is twice that of a sorted set, so it is a whole number. An odd one is the lease of a
// stream. 0 is no peer.
type score uint64

// scoreOf returns a score of a sorted set.
func scoreOf(f float64) score { return score(min(max(2*f, 1), 1<<53)) }

// A packed score counts from the year 2000, up to the year 2068. 0 is no peer.
type packed uint32

const year2000 score = 2 * 946_684_800

func (x score) pack() packed { return packed(min(max(x, year2000+1)-year2000, math.MaxUint32)) }

func (x packed) score() score {
	if x == 0 {
		return 0
	}
	return score(x) + year2000
}

// lapsed reports whether a peer with this score is not listed any more at second now.
func (x score) lapsed(now int64) bool { return int64(x) <= 2*now }

// lease reports whether a stream holds the peer.
func (x score) lease() bool { return x%2 == 1 }

// float returns the score as it is in a sorted set.
func (x score) float() float64 { return float64(x) / 2 }

func (m *mirror) len() int { return len(m.v4) + len(m.v6) }

func key4(e netip.AddrPort) [6]byte {
	a, p := e.Addr().As4(), e.Port()
	return [6]byte{a[0], a[1], a[2], a[3], byte(p >> 8), byte(p)}
}

func key6(e netip.AddrPort) (k [18]byte) {
	a, p := e.Addr().As16(), e.Port()
	copy(k[:], a[:])
	k[16], k[17] = byte(p>>8), byte(p)
	return k
}

// get returns the score of a peer, or 0.
func (m *mirror) get(e netip.AddrPort) score {
	if e.Addr().Is4() {
		return m.v4[key4(e)].score()
	}
	return m.v6[key6(e)].score()
}

// set records that a peer has this score, and reports whether the peer is new.
func (m *mirror) set(e netip.AddrPort, x score) (joined bool) {
	before := m.len()
	if e.Addr().Is4() {
		if m.v4 == nil {
			m.v4 = make(map[[6]byte]packed)
		}
		m.v4[key4(e)] = x.pack()
	} else {
		if m.v6 == nil {
			m.v6 = make(map[[18]byte]packed)
		}
		m.v6[key6(e)] = x.pack()
	}
	if m.due == 0 || x < m.due {
		m.due = x
	}
	return m.len() > before
}

// remove removes a peer, and reports whether there was one.
func (m *mirror) remove(e netip.AddrPort) (left bool) {
	before := m.len()
	if e.Addr().Is4() {
		delete(m.v4, key4(e))
	} else {
		delete(m.v6, key6(e))
	}
	if m.len() == 0 {
		*m = mirror{}
	}
	return m.len() < before
}

// each calls f for each peer.
func (m *mirror) each(f func(netip.AddrPort, score)) {
	for k, x := range m.v4 {
		f(endpoint4(k), x.score())
	}
	for k, x := range m.v6 {
		f(endpoint6(k), x.score())
	}
}

func endpoint4(k [6]byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(k[:4])), uint16(k[4])<<8|uint16(k[5]))
}

func endpoint6(k [18]byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(k[:16])), uint16(k[16])<<8|uint16(k[17]))
}

// lapsed calls f for each peer that lapses by its last known score. It looks at all peers only if
// there is one.
func (m *mirror) lapsed(now int64, f func(netip.AddrPort)) {
	if m.due == 0 || !m.due.lapsed(now) {
		return
	}
	m.due = 0
	m.each(func(e netip.AddrPort, x score) {
		if x.lapsed(now) {
			f(e)
		}
		if m.due == 0 || x < m.due {
			m.due = x
		}
	})
}
