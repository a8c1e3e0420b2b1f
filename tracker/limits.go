package tracker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/rate"
	"ntrack/tracker/store"
)

// The kinds of limits by address.
const (
	rateAnnounces = iota
	rateKeys
	rateLooks
	rateStreams
)

// These are the limits by address. They leave room for 10,000 peers behind one address, even if all
// of them come at once, as after a restart of the tracker. A unit is about the work of an announce.
// docs/operating.md has these limits, too.
var (
	announceRate = rate.Limit{Kind: rateAnnounces, PerSecond: 1000, Burst: 20_000}
	keyRate      = rate.Limit{Kind: rateKeys, PerSecond: 100, Burst: 10_000} // keys that get their first peer
	lookRate     = rate.Limit{Kind: rateLooks, PerSecond: 1000, Burst: 10_000}
	streamRate   = rate.Limit{Kind: rateStreams, PerSecond: 100, Burst: 2000} // streams that begin
)

const (
	// rateTable is the size of the table for these limits, which has half a million entries. The
	// first request of an address with limits makes it.
	rateTable = 4 << 20

	peersInUnit = 50 // in a reply, beyond the first largeWant
	idsInUnit   = 25 // in a reply, beyond the first wire.DefaultWant
	keysInUnit  = 10 // of a scrape
	// mostOfIndex is the most that the index costs. With many keys that could be more than a burst.
	mostOfIndex = 5000
)

// limits are what addresses have used.
type limits struct {
	used rate.Limiter
	// scarceUntil is a time since the start. After it each address has new keys left, so checkRate
	// need not look. Usually this time has passed.
	scarceUntil atomic.Int64
}

// A rateError refuses a request because its address has reached a limit.
type rateError struct {
	limit rate.Limit
	wait  time.Duration // whole seconds
}

func (e *rateError) Error() string {
	what := [...]string{"announces", "new keys", "looks", "new event streams"}[e.limit.Kind]
	return fmt.Sprintf("too many %s from this address: wait %d s", what, e.wait/time.Second)
}

// tooFast returns a *rateError. It rounds wait up, and adds up to a quarter and two seconds at random.
// So clients that are refused together do not come back together.
func tooFast(limit rate.Limit, wait time.Duration) error {
	wait = max(wait, time.Nanosecond)
	wait = (wait + time.Second - 1).Truncate(time.Second)
	return &rateError{limit, (wait + rand.N(2*time.Second+wait/4)).Truncate(time.Second)}
}

// rateOf is the limit for a request that is not for a stream.
func rateOf(req *wire.Request) rate.Limit {
	if req.Verb == wire.VerbAnnounce {
		return announceRate
	}
	return lookRate
}

// unitsOf is what an announce or a look costs.
func unitsOf(want store.Want) int {
	if want.IDs {
		return 1 + max(0, want.Peers-wire.DefaultWant+idsInUnit-1)/idsInUnit
	}
	return 1 + max(0, want.Peers-largeWant+peersInUnit-1)/peersInUnit
}

// unitsOfScrape is what a scrape of this many keys costs. 0 is the index.
func (t *Tracker) unitsOfScrape(keys int) int {
	if keys > 0 || !t.Index {
		return max(1, (keys+keysInUnit-1)/keysInUnit)
	}
	if s, ok := t.table.(interface{ Stats() store.Stats }); ok {
		keys = s.Stats().Keys
	}
	return min(1+keys/keysInUnit, mostOfIndex)
}

// checkRate charges the client at a for a request, and returns a *rateError if it has to wait. A
// leave costs nothing, because it frees memory and takes hardly longer than a refusal. But a classic
// one is a look, too: whoever may send any number of them could try any number of keys. A request that
// is refused for another reason costs nothing either.
func (t *Tracker) checkRate(ctx context.Context, a netip.Addr, req *wire.Request, limit rate.Limit, units int, now time.Duration) error {
	if req.Verb == wire.VerbLeave && !req.Classic || t.isExempt(a) {
		return nil
	}
	if wait, ok := t.limits.used.Allow(a, limit, units, now); !ok {
		return tooFast(limit, wait)
	}
	if req.Verb == wire.VerbAnnounce && int64(now) < t.limits.scarceUntil.Load() {
		return t.checkKey(ctx, a, req.Key, now)
	}
	return nil
}

// checkKey returns a *rateError if the client at a has used all its new keys, unless key exists.
func (t *Tracker) checkKey(ctx context.Context, a netip.Addr, key wire.Key, now time.Duration) error {
	wait, ok := t.limits.used.Check(a, keyRate, 1, now)
	if ok {
		return nil
	}
	if _, res, err := t.store.Look(ctx, key.Bytes(), a, store.Want{}, nil); err != nil || res.Size.Peers > 0 {
		return err
	}
	return tooFast(keyRate, wait)
}

// chargeKey charges the client at a for a new key, if size says that its track is new. size is that
// after an announce or after the beginning of a stream. A client that announces again within the same
// second pays again.
func (t *Tracker) chargeKey(a netip.Addr, size store.Size, now time.Duration) {
	if size.Peers != 1 || size.Age != 0 || t.isExempt(a) {
		return
	}
	used := &t.limits.used
	used.Allow(a, keyRate, 1, now)
	wait, ok := used.Check(a, keyRate, keyRate.Burst/2, now)
	if ok {
		return
	}
	until := int64(now + wait) // then half of the burst is there again
	for old := t.limits.scarceUntil.Load(); old < until && !t.limits.scarceUntil.CompareAndSwap(old, until); {
		old = t.limits.scarceUntil.Load()
	}
}

// reasonOfRate is the reason of a refusal because of limit.
func reasonOfRate(limit rate.Limit) reason { return reasonRateAnnounces + reason(limit.Kind) }
