package valkey

import (
	"fmt"
	"hash/fnv"
	"net/netip"

	"ntrack/announce/wire"
)

// How the table is laid out in the database. {p} is one of 256 partitions, the hash of the key of the
// track modulo 256. It is the hash tag of everything that belongs to a track, so that a cluster has it
// in one slot.
//
//	PREFIX:{p}S KEY  a sorted set for the peers of one scope; S is a byte for family and scope.
//	                 A member is the 6 or 18 bytes of an endpoint. Its score is its expiry, in seconds
//	                 of the database's clock. A score with a fraction of one half is the lease of a
//	                 stream, and any other is the ttl of an announce.
//	PREFIX:{p}! KEY  a sorted set for the peers whose score is a lease and who also announced, with the
//	                 expiry of their announce
//	PREFIX:{p}b KEY  the second in which the track began
//	PREFIX:{p}@      the epoch of the partition, a random text
//	PREFIX:c{p} KEY  the channel on which trackers name the endpoints that were touched
//	PREFIX:i         a hash with the numbers of each tracker

// partitions is how many parts the table has. All trackers of a table must agree on it.
const partitions = 256

// partitionOf returns the partition of a track.
func partitionOf(key []byte) int {
	h := fnv.New32a()
	_, _ = h.Write(key)
	sum := h.Sum32()
	return int((sum ^ sum>>8 ^ sum>>16 ^ sum>>24) % partitions)
}

// scopeByte returns the byte of a sorted set for peers with addresses like a.
func scopeByte(family4 bool, scope wire.Scope) byte {
	b := 'a' + byte(scope)
	if family4 {
		return b
	}
	return b - 'a' + 'A'
}

// peersKey returns the database's key of the sorted set that has the peers of one scope.
func (s *Store) peersKey(key []byte, b byte) string {
	return fmt.Sprintf("%s:{%d}%c %s", s.prefix, partitionOf(key), b, key)
}

// memberOf returns the bytes by which a sorted set knows an endpoint.
func memberOf(e netip.AddrPort) []byte {
	b := e.Addr().AsSlice()
	return append(b, byte(e.Port()>>8), byte(e.Port()))
}
