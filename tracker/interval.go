package tracker

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// These are limits of an interval that follows the load. docs/operating.md has the formula and
// its reasons.
const (
	minInterval = 15      // seconds
	maxInterval = 30 * 60 // seconds
	// smallTrack is the number of peers up to which a young track has a shorter interval.
	smallTrack = 50
)

const (
	// defaultRefusalInterval is the interval in a refusal if Interval is not set. The load is not
	// known then, because the store reports it with a result.
	defaultRefusalInterval = time.Minute
	// minClassicTTL is the shortest ttl on the classic interface. BitTorrent clients wait at least
	// 5 minutes between announces, even if the interval is shorter. Two announces may be lost.
	minClassicTTL = 15 * time.Minute
)

// intervalFor returns the interval for the peers of a track, in seconds. rate is how many announces
// arrive at the tracker per second, and maxRate is how many may arrive; 0 or less is no limit.
func intervalFor(size store.Size, rate, maxRate int) int {
	if maxRate <= 0 || maxRate >= size.Total {
		return minInterval
	}
	// If a track is a month old, a product below needs more than 32 bits.
	total, used, budget := int64(size.Total), int64(rate), int64(maxRate)
	// All peers share three quarters of the budget equally. The last quarter is for peers that
	// announce a little early, because of spread, and for young tracks.
	interval := (4*total-1)/(3*budget) + 1
	// A very large number of peers needs more than the budget even with the longest interval. Then
	// the budget is what they need.
	budget = max(budget, 4*total/(3*maxInterval))
	if size.Peers <= smallTrack && used < budget {
		young := max(minInterval, int64((size.Age+4*time.Second-1)/(4*time.Second)))
		if unused := 2 * (budget - used); unused < budget { // more than half of the budget is used
			young = (young*budget-1)/unused + 1
		}
		interval = min(interval, young)
	}
	return int(max(minInterval, min(interval, maxInterval)))
}

// A timing decides the interval and the ttl of one request. Its ttl depends only on the size of the
// track, so the store lists the peer for as long as the reply says.
type timing struct {
	fixed         time.Duration // the configured interval; 0 lets it follow the load
	rate, maxRate int           // how many announces arrive per second, and how many may
	classic       bool
}

// timingOf returns the timing of a request that arrives at now.
func (t *Tracker) timingOf(req *wire.Request, now time.Duration) timing {
	maxRate := t.MaxRate
	if maxRate == 0 {
		maxRate = DefaultMaxRate
	}
	return timing{fixed: t.interval, rate: t.meter.rateAt(now), maxRate: maxRate, classic: req.Classic}
}

// interval returns the interval for a reply. It is partly random, so two calls may return different
// ones.
func (g *timing) interval(size store.Size) time.Duration {
	if g.fixed > 0 {
		return g.fixed
	}
	return time.Duration(spread(intervalFor(size, g.rate, g.maxRate))) * time.Second
}

// ttl returns how long a peer is listed: 2.5 times the interval, without its random part, rounded up
// to whole seconds.
func (g *timing) ttl(size store.Size) time.Duration {
	interval := g.fixed
	if interval == 0 {
		interval = time.Duration(intervalFor(size, g.rate, g.maxRate)) * time.Second
	}
	ttl := (interval*5/2 + time.Second - 1).Truncate(time.Second)
	if g.classic {
		ttl = max(ttl, minClassicTTL)
	}
	return ttl
}

// refusalInterval returns the interval for a refusal.
func (t *Tracker) refusalInterval() time.Duration {
	if t.interval > 0 {
		return t.interval
	}
	return defaultRefusalInterval
}

// spread returns a random interval, in seconds, from nine tenths of longest to longest. So peers
// that announced at the same time do not all announce again at the same time.
func spread(longest int) int {
	shortest := max(minInterval, longest-longest/10)
	if shortest >= longest {
		return longest
	}
	return shortest + rand.IntN(longest-shortest+1)
}

// A meter measures how many announces arrive per second. Any number of goroutines may use it.
type meter struct {
	_       [64]byte     // keeps current on a cache line of its own, because every goroutine writes it
	current atomic.Int64 // the announces of the current second
	second  atomic.Int64 // the current second, since start
	last    atomic.Int64 // the announces of the second before
	start   time.Time
}

// count counts an announce in the second of the latest call of rateAt.
func (m *meter) count() { m.current.Add(1) }

// now returns the time since start.
func (m *meter) now() time.Duration { return time.Since(m.start) }

// rateAt returns how many announces arrived in the last whole second before since.
func (m *meter) rateAt(since time.Duration) int {
	now := int64(since / time.Second)
	if second := m.second.Load(); now != second && m.second.CompareAndSwap(second, now) {
		n := m.current.Swap(0)
		if now != second+1 {
			n = 0
		}
		m.last.Store(n)
	}
	return int(m.last.Load())
}
