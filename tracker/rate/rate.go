// Package rate limits how much the clients of one address may do.
//
// A [Limiter] has a table of fixed size, so an attack from many addresses cannot make it grow. No
// call waits for another one, and none allocates memory after the first. A network is one IPv4
// address or one IPv6 /64, which is what a provider gives to one customer. Some customers have a
// whole /48. So each /48 has a limit, too, of [Wide] times as much.
//
// A network is refused only because of its own use, or because of that of its /48. (The table knows
// a network by 32 bits of a hash, so it may mistake one for another. That is rare, and an attacker
// cannot cause it.)
//
// If more networks are active than the table has entries, a new one replaces the one whose entry
// would be empty soonest. The limiter forgets what that one has used. So an attacker with that many
// networks has no limit by address. Networks that have used much keep their entries.
package rate

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Wide is how many times the limit of a /64 its /48 has.
const Wide = 16

// A Limit is how many units a network may use. Choose a PerSecond that divides 4000; the limiter
// rounds others in favour of the network.
type Limit struct {
	Kind      uint8 // a Limiter counts the use of each Kind separately
	PerSecond int   // in the long run
	Burst     int   // at once, after a time without use; at most two minutes' worth of PerSecond
}

// A Limiter keeps what networks have used lately. The zero Limiter has a table of 64 KiB. Do not
// copy a Limiter. Any number of goroutines may call its methods.
type Limiter struct {
	// Bytes is the size of the table, which the first call makes. Each limit of a network that is in
	// use takes 8 bytes. Bytes is rounded down to a power of two, and is at least 64.
	Bytes int

	once sync.Once
	seed maphash.Seed // so that nobody can choose networks that share a set
	sets []set
}

// A set is a cache line of entries. A network may be in any entry of its set.
type set [8]entry

// An entry is what a network has used of one limit. Its lower 32 bits are the time at which it will
// be empty, in ticks since the epoch began. Its upper 32 bits are a tag: half of a hash of the
// network, the kind of limit and the epoch. The other half of the hash chooses the set. So the chance
// that a network finds the entry of another one is 8 in 2^32.
type entry = atomic.Uint64

const (
	tick = 15_625 * time.Nanosecond // 1/64,000 s
	// An epoch has 2^30 ticks, 4.7 hours. The tags of the next epoch are others, so all entries are
	// forgotten then, and 32 bits are enough for a time.
	epochBits = 30
	maxDebt   = 1 << 23 // ticks; 131 seconds
)

// Allow uses units of limit for the network of a. If that exceeds the limit, it uses nothing, and
// returns false and the time after which the same call may succeed. A call for more units than Burst
// uses Burst. now is the time since some moment, the same one in all calls. If the clock jumps back,
// an entry is empty that much later, but at most the time of a burst later.
//
// If two calls for one /48 come at the same time and only one has room, the other one is refused. Its
// /64 has then used the units for nothing.
func (l *Limiter) Allow(a netip.Addr, limit Limit, units int, now time.Duration) (wait time.Duration, ok bool) {
	narrow, wide := l.ask(a, limit, units, now)
	var late uint32
	if wide.set != nil {
		if late, ok = wide.check(); !ok {
			narrowLate, _ := narrow.check()
			return time.Duration(max(late, narrowLate)) * tick, false
		}
	}
	if late, ok = narrow.use(); ok && wide.set != nil {
		late, ok = wide.use()
	}
	return time.Duration(late) * tick, ok
}

// Check returns what Allow would return, and uses nothing.
func (l *Limiter) Check(a netip.Addr, limit Limit, units int, now time.Duration) (wait time.Duration, ok bool) {
	narrow, wide := l.ask(a, limit, units, now)
	late, _ := narrow.check()
	if wide.set != nil {
		wideLate, _ := wide.check()
		late = max(late, wideLate)
	}
	return time.Duration(late) * tick, late == 0
}

// ask returns a question for each network of a. wide is for the /48, if there is one.
func (l *Limiter) ask(a netip.Addr, limit Limit, units int, now time.Duration) (narrow, wide question) {
	l.once.Do(l.init)
	ticks := int64(now / tick)
	narrow.now = uint32(ticks & (1<<epochBits - 1))
	narrow.burst = ticksOf(limit.Burst, limit.PerSecond)
	narrow.cost = min(narrow.burst, ticksOf(units, limit.PerSecond))
	what := uint64(ticks>>epochBits)<<16 | uint64(limit.Kind)<<8
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		l.find(&narrow, uint64(binary.BigEndian.Uint32(b[:])), what|32)
		return narrow, wide
	}
	b := a.As16()
	prefix := binary.BigEndian.Uint64(b[:])
	wide = narrow
	wide.cost = max(1, narrow.cost/Wide)
	l.find(&narrow, prefix, what|64)
	l.find(&wide, prefix>>16, what|48)
	return narrow, wide
}

// ticksOf is the time in which a network may use units.
func ticksOf(units, perSecond int) uint32 {
	n := int64(units) * int64(time.Second/tick) / int64(perSecond)
	return uint32(max(1, min(n, maxDebt)))
}

func (l *Limiter) init() {
	l.seed = maphash.MakeSeed()
	n := 1
	bytes := l.Bytes
	if bytes == 0 {
		bytes = 64 << 10
	}
	for n*2*64 <= bytes {
		n *= 2
	}
	l.sets = make([]set, n)
}

// find sets the tag and the set of q, for a network and what it uses.
func (l *Limiter) find(q *question, network, what uint64) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], network)
	binary.LittleEndian.PutUint64(b[8:], what)
	h := maphash.Bytes(l.seed, b[:])
	q.tag, q.set = uint32(h>>32), &l.sets[uint32(h)&uint32(len(l.sets)-1)]
}

// A question is whether a network may use some units of a limit. All its times are in ticks.
type question struct {
	set                   *set // the network's; nil if there is no question
	tag, now, cost, burst uint32
}

// debt returns the time until entry e will be empty. If that is more than most, the entry is of
// another epoch, or from before the clock jumped back. It counts as empty.
func (q *question) debt(e uint64, most uint32) uint32 {
	if debt := uint32(e) - q.now; debt <= most {
		return debt
	}
	return 0
}

// decide returns the new value of an entry that has this debt. If there is no room for the cost, it
// returns how long to wait instead.
func (q *question) decide(debt uint32) (e uint64, late uint32, ok bool) {
	if debt += q.cost; debt > q.burst {
		return 0, debt - q.burst, false
	}
	return uint64(q.tag)<<32 | uint64(q.now+debt), 0, true
}

func (q *question) check() (late uint32, ok bool) {
	for i := range q.set {
		if e := q.set[i].Load(); uint32(e>>32) == q.tag {
			_, late, ok = q.decide(q.debt(e, q.burst))
			return late, ok
		}
	}
	return 0, true
}

func (q *question) use() (late uint32, ok bool) {
	for {
		at, old := 0, uint64(0)
		debt, least := uint32(0), uint32(maxDebt+1)
		for i := range q.set {
			e := q.set[i].Load()
			if uint32(e>>32) == q.tag {
				at, old, debt = i, e, q.debt(e, q.burst)
				break
			}
			if d := q.debt(e, maxDebt); d < least {
				at, old, least = i, e, d
			}
		}
		e, late, ok := q.decide(debt)
		if !ok || q.set[at].CompareAndSwap(old, e) {
			return late, ok
		}
	}
}
