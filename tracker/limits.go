package tracker

import (
	"net/netip"
	"sync/atomic"
)

// Limits are what a store holds at most; 0 is no limit. Whoever would go over one is refused with
// a [*FullError]. Nobody is turned out to make room, and a renewal is never refused. Peers who have
// lapsed may count for the few seconds until the store has seen it.
type Limits struct {
	MaxKeys        int // tracks
	MaxPeers       int // peers, in all tracks together
	MaxPeersPerKey int
	// MaxPerAddr is for the registrations, in all tracks together, of one IPv4 address or of one
	// IPv6 /64, which is what one subscriber gets.
	MaxPerAddr int
}

// admit counts a peer that is about to join the track, which is 0 for a new one, or says why it
// cannot and has counted nothing.
func (s *shard) admit(h handle, a netip.Addr) error {
	m, l := s.m, &s.m.Limits
	if h != 0 && l.MaxPeersPerKey > 0 && s.len(s.tracks.one(h)) >= l.MaxPeersPerKey {
		return &FullError{"peers of this key", l.MaxPeersPerKey}
	}
	if h == 0 && !reserve(&m.keys, l.MaxKeys) {
		return &FullError{"keys", l.MaxKeys}
	}
	var full *FullError
	switch {
	case !reserve(&m.peers, l.MaxPeers):
		full = &FullError{"peers", l.MaxPeers}
	case l.MaxPerAddr > 0 && !m.register(a):
		m.peers.Add(-1)
		full = &FullError{"registrations of this address", l.MaxPerAddr}
	default:
		return nil
	}
	if h == 0 {
		m.keys.Add(-1)
	}
	return full
}

// reserve counts one more, unless that is too many.
func reserve(count *atomic.Int64, most int) bool {
	if n := count.Add(1); most > 0 && n > int64(most) {
		count.Add(-1)
		return false
	}
	return true
}

// allowance is what registrations are counted by. ff00::/8 is nobody's address, so that those of
// the two families never meet.
func allowance(a netip.Addr) uint64 {
	var buf [5]uint32
	r := pack(&buf, netip.AddrPortFrom(a, 0))
	if len(r) == 2 {
		return 0xff<<56 | uint64(r[0])
	}
	return uint64(r[0])<<32 | uint64(r[1])
}

// counter is the shard that counts an address. Its addrMu is the last lock anybody takes.
func (m *Memory) counter(by uint64) *shard {
	return &m.shards[(by^m.mix[0])*m.mix[1]>>(64-shardBits)]
}

func (m *Memory) register(a netip.Addr) bool {
	by := allowance(a)
	c := m.counter(by)
	c.addrMu.Lock()
	defer c.addrMu.Unlock()
	if c.addrs[by] >= m.Limits.MaxPerAddr {
		return false
	}
	if c.addrs == nil {
		c.addrs = make(map[uint64]int)
	}
	c.addrs[by]++
	return true
}

// release is for a peer that is gone.
func (m *Memory) release(a netip.Addr) {
	m.peers.Add(-1)
	if m.Limits.MaxPerAddr <= 0 {
		return
	}
	by := allowance(a)
	c := m.counter(by)
	c.addrMu.Lock()
	defer c.addrMu.Unlock()
	if c.addrs[by]--; c.addrs[by] == 0 {
		delete(c.addrs, by)
	}
	if len(c.addrs) == 0 {
		c.addrs = nil // a map does not shrink
	}
}
