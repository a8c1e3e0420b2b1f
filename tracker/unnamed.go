package tracker

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// An unnamedProxy looks for a reverse proxy that Proxies does not name. Behind one, all peers seem to
// be at its address. It looks only at announces from private and loopback addresses, and only until
// it has found one, so it costs a public tracker nothing.
type unnamedProxy struct {
	found    atomic.Bool
	seed     maphash.Seed
	mu       sync.Mutex
	suspects [16]suspect // by the hash of their address
}

// A suspect is an address that may be a proxy's.
type suspect struct {
	addr  netip.Addr
	votes int // announces of addr, less those of other addresses with the same place
	since time.Time
	keys  [16]uint64 // one bit for each key, by the hash of the key
}

const (
	// suspectKeys is how many bits a proxy has set: about 1000 different keys set that many of 1024.
	suspectKeys = 640
	// suspectTime is longer than the longest interval, so the peers of a proxy announce within it.
	suspectTime = time.Hour
)

// record records an announce, and says whether its sender seems to be a proxy. It returns true once.
func (u *unnamedProxy) record(c *Call, key []byte, now time.Time) bool {
	addr := c.Remote.Addr().Unmap()
	if c.Unix || !addr.IsPrivate() && !addr.IsLoopback() || u.found.Load() {
		return false
	}
	return (len(c.ForwardedFor) > 0 || u.manyKeys(addr, key, now)) && !u.found.Swap(true)
}

// manyKeys says whether addr has announced about 1000 keys within suspectTime.
func (u *unnamedProxy) manyKeys(addr netip.Addr, key []byte, now time.Time) bool {
	bytes := addr.As16()
	place, bit := maphash.Bytes(u.seed, bytes[:])%uint64(len(u.suspects)), maphash.Bytes(u.seed, key)
	u.mu.Lock()
	defer u.mu.Unlock()
	s := &u.suspects[place]
	switch {
	case s.addr != addr && s.votes > 0:
		s.votes--
		return false
	case s.addr != addr || now.Sub(s.since) > suspectTime:
		*s = suspect{addr: addr, since: now}
	}
	s.votes++
	word, mask := &s.keys[bit/64%16], uint64(1)<<(bit%64)
	if *word&mask != 0 {
		return false
	}
	*word |= mask
	n := 0
	for _, w := range s.keys {
		n += bits.OnesCount64(w)
	}
	return n >= suspectKeys
}
