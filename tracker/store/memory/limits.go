package memory

import (
	"math"
	"net/netip"
	"sync/atomic"

	"ntrack/tracker/store"
)

// admit counts a peer that is about to join track h. It also counts a new track if h is 0. If a
// limit refuses the peer, admit counts nothing and returns a [*store.FullError].
func (s *shard) admit(h handle, a netip.Addr) error {
	m, l := s.store, &s.store.Limits
	if h != 0 && l.MaxPeersPerKey > 0 && s.trackLen(s.tracks.get(h)) >= l.MaxPeersPerKey {
		return &store.FullError{What: store.FullPeersPerKey, Max: l.MaxPeersPerKey}
	}
	if h == 0 && !reserve(&m.keys, l.MaxKeys) {
		return &store.FullError{What: store.FullKeys, Max: l.MaxKeys}
	}
	var full *store.FullError
	switch {
	case !reserve(&m.peers, l.MaxPeers):
		full = &store.FullError{What: store.FullPeers, Max: l.MaxPeers}
	case l.MaxPerAddr > 0 && !m.reserveAddr(a):
		m.peers.Add(-1)
		full = &store.FullError{What: store.FullPeersPerAddr, Max: l.MaxPerAddr}
	default:
		return nil
	}
	if h == 0 {
		m.keys.Add(-1)
	}
	return full
}

// reserve adds one to a count, unless the sum would exceed most. If most is 0, there is no limit.
func reserve(count *atomic.Int64, most int) bool {
	if n := count.Add(1); most > 0 && n > int64(most) {
		count.Add(-1)
		return false
	}
	return true
}

// uncount removes a departed peer from the counts. It leaves the count of keys to shard.drop.
func (m *Store) uncount(a netip.Addr) {
	m.peers.Add(-1)
	if m.Limits.MaxPerAddr <= 0 {
		return
	}
	s, i := m.counter(a)
	s.addrMu.Lock()
	defer s.addrMu.Unlock()
	s.addrs[i]--
	if s.addrSum--; s.addrSum == 0 {
		s.addrs = nil
	}
}

// reserveAddr counts a peer of an address, unless the count would exceed the limit.
func (m *Store) reserveAddr(a netip.Addr) bool {
	s, i := m.counter(a)
	s.addrMu.Lock() // while it is locked, no other lock is taken
	defer s.addrMu.Unlock()
	if s.addrs == nil {
		s.addrs = make([]uint16, counters)
	}
	if int(s.addrs[i]) >= min(m.Limits.MaxPerAddr, math.MaxUint16) {
		return false
	}
	s.addrs[i]++
	s.addrSum++
	return true
}

// counters is how many counters of addresses a shard has.
const counters = 1 << 17

// counter returns the shard that counts the peers of an address, and the index of the counter in
// shard.addrs. A seeded hash chooses both, so addresses may share a counter and its limit. All
// shards have 4 million counters: with a million addresses, one in five shares its counter. Two
// addresses rarely reach a limit together, unless it is small. A counter for each address would
// take more memory than the peers.
func (m *Store) counter(a netip.Addr) (*shard, int) {
	var buf [5]uint32
	p := pack(&buf, netip.AddrPortFrom(a, 0))
	network := uint64(p[0])
	if a.Is4() {
		network |= 0xff << 56 // no peer has this as its /64: IPv6 addresses in ff00::/8 are multicast
	} else {
		network = network<<32 | uint64(p[1]) // the /64
	}
	// Two rounds of fold, for the reason that table.home gives. A factor must not be 0.
	h := fold(fold(network^m.peerSeed[0], m.peerSeed[1]), m.peerSeed[0]|1)
	return &m.shards[h>>(64-shardBits)], int(h % counters)
}
