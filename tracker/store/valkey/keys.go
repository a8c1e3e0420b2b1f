package valkey

import (
	"hash/fnv"
	"net/netip"
	"strconv"

	"github.com/redis/rueidis"

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
//	PREFIX:{p}! KEY  a sorted set for peers whose score is a lease. A member is a peer that has also
//	                 announced, and its score is the expiry of the announce
//	PREFIX:{p}# KEY  a number: the second in which the track began, times 2^24, plus a random number,
//	                 plus how often a message was sent. A message that was lost is noticed by it.
//	PREFIX:{p}@      the epoch of the partition: a random text, "-", and the second in which it was chosen
//	PREFIX:c{p} KEY  the channel on which trackers name the endpoints that were touched
//	PREFIX:i         a hash with the numbers of each tracker
//
// Every key of a track expires at the latest with its last peer, or up to one ttl after it.

// partitions is how many parts the table has. All trackers of a table must agree on it.
const partitions = 256

// The kinds of a message, its first byte. The bytes of endpoints follow.
const (
	kindTouched = 't' // a peer joined or left
	kindHeld    = 'h' // a peer joined because of a stream, or a stream began to hold it; see heldHead
	kindLeft    = 'L' // a peer left for good: streams that hold it end
	kindRemoved = 'R' // the track was removed: all its streams end. The name of the tracker that did it follows
)

// changeShift is by how much the second of birth is shifted in the number of a track.
const changeShift = 24

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

// A trackKeys has the names in the database of everything that belongs to a track.
type trackKeys struct {
	// sets are the sorted sets of its peers. Those of the scopes that an asker of scope s sees are
	// sets[2*s:]. The set of IPv4 comes before that of IPv6.
	sets                      [2 * wire.NumScopes]string
	announces, birth, channel string
}

// setOf returns the index in trackKeys.sets of the set that has the peers with this address.
func setOf(a netip.Addr) int {
	i := 2 * int(wire.ScopeOf(a))
	if !a.Is4() {
		i++
	}
	return i
}

// keysOf returns the names for a track. They share one piece of memory.
func (s *Store) keysOf(key []byte) *trackKeys {
	const names = 2*wire.NumScopes + 3
	buf := make([]byte, 0, names*(len(s.prefix)+len(key)+7)+1)
	p := partitionOf(key)
	name := func(kind byte) string {
		start := len(buf)
		buf = append(buf, s.prefix...)
		buf = append(buf, ":{"...)
		buf = strconv.AppendInt(buf, int64(p), 10)
		buf = append(buf, '}', kind, ' ')
		buf = append(buf, key...)
		return rueidis.BinaryString(buf[start:])
	}
	k := new(trackKeys)
	for i := range k.sets {
		k.sets[i] = name(scopeByte(i%2 == 0, wire.Scope(i/2)))
	}
	k.announces, k.birth = name('!'), name('#')
	start := len(buf)
	buf = append(buf, s.prefix...)
	buf = append(buf, ":c{"...)
	buf = strconv.AppendInt(buf, int64(p), 10)
	buf = append(buf, "} "...)
	buf = append(buf, key...)
	k.channel = rueidis.BinaryString(buf[start:])
	return k
}

// epochKey returns the name of the epoch of a partition.
func (s *Store) epochKey(partition int) string {
	return s.prefix + ":{" + strconv.Itoa(partition) + "}@"
}

// memberOf returns the bytes by which a sorted set knows an endpoint.
func memberOf(e netip.AddrPort) string {
	if a := e.Addr(); a.Is4() {
		b := a.As4()
		return rueidis.BinaryString(append(b[:], byte(e.Port()>>8), byte(e.Port())))
	}
	b := e.Addr().As16()
	return rueidis.BinaryString(append(b[:], byte(e.Port()>>8), byte(e.Port())))
}

// endpointOf returns the endpoint that a sorted set knows by these bytes, and false if they are not those
// of an endpoint.
func endpointOf(member string) (netip.AddrPort, bool) {
	var a netip.Addr
	n := len(member) - 2
	switch n {
	case 4:
		a = netip.AddrFrom4([4]byte([]byte(member[:4])))
	case 16:
		a = netip.AddrFrom16([16]byte([]byte(member[:16])))
	default:
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, uint16(member[n])<<8|uint16(member[n+1])), true
}

// isLease reports whether a score is the lease of a stream, and not the expiry of an announce.
func isLease(score float64) bool { return score != float64(int64(score)) }
