package memory

import (
	"math"
	"math/bits"
	"net/netip"
	"unsafe"

	"ntrack/tracker/store"
)

// admit counts a peer that is about to join track h, or a new track if h is 0. It reserves the
// memory, which the caller releases once it has taken it. If a limit refuses the peer, admit counts
// nothing and returns a [*store.FullError].
func (s *shard) admit(h handle, keyLen, fam int, a netip.Addr) (reserved int, err error) {
	m := s.store
	if m.Limits.MaxPerAddr > 0 && !m.reserveAddr(a) {
		return 0, &store.FullError{What: store.FullPeersPerAddr, Max: m.Limits.MaxPerAddr}
	}
	m.peers.Add(1)
	most := m.room()
	if h == 0 {
		most = m.roomForKeys()
	}
	need := s.joinNeeds(h, keyLen, fam)
	if !m.ledger.reserve(need, most) {
		s.makeRoom()
		need = s.joinNeeds(h, keyLen, fam) // a free block may have been given back
		if !m.ledger.reserve(need, most) {
			m.uncount(a)
			return 0, &store.FullError{What: store.FullMemory}
		}
	}
	if h == 0 {
		m.keys.Add(1)
	}
	return need, nil
}

// joinNeeds is how many bytes a new peer of this family takes at most. It is 0 if the pages have
// free blocks.
func (s *shard) joinNeeds(h handle, keyLen, fam int) (n int) {
	var tab table
	if h == 0 {
		n = s.tracks.need(1) + s.keys.need(1+keyLen) + s.buckets.need()
		if s.tracks.growsList() {
			n += s.tracks.grownCap() * int(unsafe.Sizeof(expiry(0))) // pageDue
		}
	} else {
		tab = s.table(s.tracks.get(h), fam)
	}
	switch {
	case tab.cap == 0:
		n += s.heads.need(1) + s.words.need(widths[fam])
	case tab.len() >= maxPeers(tab.cap):
		n += s.words.need((tab.cap + 1) * tab.width)
	}
	return n
}

// room is how many bytes the table may take, without the counters of addresses.
func (m *Store) room() int64 {
	if m.Limits.MaxBytes <= 0 {
		return math.MaxInt64
	}
	if m.Limits.MaxPerAddr <= 0 {
		return m.Limits.MaxBytes
	}
	return m.Limits.MaxBytes - int64(len(m.shards)*m.counters()*counterBytes)
}

// roomForKeys is how many bytes the table may take when a new track or IDs are added. The last
// eighth is for the peers of tracks that exist: a flood of fresh keys cannot take it.
func (m *Store) roomForKeys() int64 { return m.room() / 8 * 7 }

// makeRoom gives the idle pages of all shards back to the Go heap. It holds the lock of s, so it
// leaves out shards that are locked.
func (s *shard) makeRoom() {
	s.trimLocked()
	for i := range s.store.shards {
		if o := &s.store.shards[i]; o != s && o.mu.TryLock() {
			o.trimLocked()
			o.mu.Unlock()
		}
	}
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
		s.addrs = make([]uint16, m.counters())
	}
	if int(s.addrs[i]) >= min(m.Limits.MaxPerAddr, math.MaxUint16) {
		return false
	}
	s.addrs[i]++
	s.addrSum++
	return true
}

const (
	counterBytes = 2
	maxCounters  = 1 << 17
)

// counters is how many counters of addresses a shard has: all of them take 8 MB, or a sixteenth of
// the memory if that is less.
func (m *Store) counters() int {
	most := m.Limits.MaxBytes / 16 / counterBytes / int64(len(m.shards))
	if most <= 0 || most >= maxCounters {
		return maxCounters
	}
	return 1 << (bits.Len64(uint64(most)) - 1)
}

// counter returns the shard that counts the peers of an address, and the index of the counter in
// shard.addrs. A seeded hash chooses both, so addresses may share a counter and its limit. With 4
// million counters and a million addresses, one in five shares its counter. Two addresses rarely
// reach a limit together, unless it is small. A counter for each address would take more memory
// than the peers.
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
	return &m.shards[h>>(64-shardBits)], int(h % uint64(m.counters()))
}
