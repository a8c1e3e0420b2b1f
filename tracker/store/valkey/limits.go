package valkey

import (
	"context"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"

	"ntrack/tracker/store"
)

// addrs counts the peers of each address that this tracker has listed, for Config.MaxPerAddr. Another
// tracker that shares the table counts for itself. A nil *addrs counts nothing.
//
// A peer takes 12 bytes, and an address about 60. They are forgotten when they lapse.
type addrs struct {
	max    int
	seed   maphash.Seed
	clock  *clock
	shards [64]addrShard
}

type addrShard struct {
	mu    sync.Mutex
	peers map[uint64][]addrPeer // by the hash of the address, or of the /64
	n     int                   // of peers
}

// An addrPeer is one peer of an address.
type addrPeer struct {
	id      uint32 // a hash of key and endpoint
	until   uint32 // the expiry of its announce; 0 without one
	holds   uint16 // the streams of this tracker that hold it
	pending uint16 // the calls that have not decided yet whether they list it
}

// maxAddrPeers is how many peers a shard counts. Above, more are not counted, so that the memory is
// bounded: 64 shards have room for 4 million peers.
const maxAddrPeers = 1 << 16

func newAddrs(most int, c *clock) *addrs {
	if most <= 0 {
		return nil
	}
	a := &addrs{max: min(most, math.MaxUint16), seed: maphash.MakeSeed(), clock: c}
	for i := range a.shards {
		a.shards[i].peers = make(map[uint64][]addrPeer)
	}
	return a
}

// at locks the shard of an endpoint, and returns it with the hash of the address and the id of the peer.
func (a *addrs) at(key []byte, e netip.AddrPort) (sh *addrShard, addr uint64, id uint32) {
	b := e.Addr().As16()
	network := b[:]
	if !e.Addr().Is4() {
		network = b[:8]
	}
	addr = maphash.Bytes(a.seed, network)
	var h maphash.Hash
	h.SetSeed(a.seed)
	_, _ = h.Write(key)
	_, _ = h.Write(append(b[:], byte(e.Port()>>8), byte(e.Port())))
	sh = &a.shards[addr%uint64(len(a.shards))]
	sh.mu.Lock()
	return sh, addr, uint32(h.Sum64())
}

// purge forgets the peers of an address that have lapsed, and returns the others.
func (sh *addrShard) purge(addr uint64, now uint32) []addrPeer {
	old := sh.peers[addr]
	left := slices.DeleteFunc(old, func(p addrPeer) bool { return p.until <= now && p.holds == 0 && p.pending == 0 })
	if len(left) == len(old) {
		return old
	}
	sh.n -= len(old) - len(left)
	if len(left) == 0 {
		delete(sh.peers, addr)
	} else {
		sh.peers[addr] = left
	}
	return left
}

// change calls f with the peer of an endpoint, if it is counted.
func (a *addrs) change(key []byte, e netip.AddrPort, f func(*addrPeer)) {
	if a == nil {
		return
	}
	sh, addr, id := a.at(key, e)
	defer sh.mu.Unlock()
	list := sh.peers[addr]
	if i := slices.IndexFunc(list, func(p addrPeer) bool { return p.id == id }); i >= 0 {
		f(&list[i])
		sh.purge(addr, uint32(a.clock.second()))
	}
}

// reserve counts a peer that is about to be listed, until finish is called. It returns false if there are
// too many of its address, unless always is set.
func (a *addrs) reserve(key []byte, e netip.AddrPort, always bool) bool {
	if a == nil {
		return true
	}
	sh, addr, id := a.at(key, e)
	defer sh.mu.Unlock()
	list := sh.purge(addr, uint32(a.clock.second()))
	if i := slices.IndexFunc(list, func(p addrPeer) bool { return p.id == id }); i >= 0 {
		list[i].pending++
		return true
	}
	if len(list) >= a.max && !always {
		return false
	}
	if sh.n < maxAddrPeers && len(list) < a.max {
		sh.peers[addr] = append(list, addrPeer{id: id, pending: 1})
		sh.n++
	}
	return true
}

// finish ends a reservation. If the peer was listed, it counts until this second.
func (a *addrs) finish(key []byte, e netip.AddrPort, until int64, listed bool) {
	a.change(key, e, func(p *addrPeer) {
		if p.pending > 0 {
			p.pending--
		}
		if listed {
			p.until = max(p.until, uint32(until))
		}
	})
}

// hold begins to count a peer, for which there is a reservation, as held by streams of this tracker.
func (a *addrs) hold(key string, e netip.AddrPort) { a.addHolds(key, e, 1) }

// unhold ends what hold began.
func (a *addrs) unhold(key string, e netip.AddrPort) { a.addHolds(key, e, -1) }

func (a *addrs) addHolds(key string, e netip.AddrPort, n int) {
	if a == nil {
		return
	}
	a.change([]byte(key), e, func(p *addrPeer) { p.holds = uint16(min(max(int(p.holds)+n, 0), math.MaxUint16)) })
}

// remove forgets a peer that has left.
func (a *addrs) remove(key []byte, e netip.AddrPort) {
	a.change(key, e, func(p *addrPeer) { p.until, p.holds = 0, 0 })
}

// sweep forgets what has lapsed in one of the shards.
func (a *addrs) sweep(shard int) {
	if a == nil {
		return
	}
	sh, now := &a.shards[shard%len(a.shards)], uint32(a.clock.second())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for addr := range sh.peers {
		sh.purge(addr, now)
	}
}

// admit reserves a place for a peer among those of its address. A peer that is listed already, as by
// another tracker, is never refused.
func (s *Store) admit(ctx context.Context, key []byte, e netip.AddrPort) error {
	if s.addrs.reserve(key, e, false) {
		return nil
	}
	set := s.keysOf(key).sets[setOf(e.Addr())]
	r, err := s.do(ctx, s.client.B().Zscore().Key(set).Member(memberOf(e)).Build())
	if err != nil {
		return err
	}
	if score, _ := r[0].AsFloat64(); score > float64(s.clock.second()) {
		s.addrs.reserve(key, e, true)
		return nil
	}
	return &store.FullError{What: store.FullPeersPerAddr, Max: s.addrs.max}
}
