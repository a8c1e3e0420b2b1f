package tracker

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// These set how often peers are asked to announce if that follows the load. docs/PROTOCOL.md
// section 7 has the formula and its reasons.
const (
	minInterval = 15      // seconds
	maxInterval = 30 * 60 // seconds
	// smallTrack is the number of peers up to which a young track has a shorter interval.
	smallTrack = 50
)

const (
	// defaultRefusalInterval is the interval in a refusal if Interval is not set. No store has
	// reported the load then.
	defaultRefusalInterval = time.Minute
	// minClassicTTL is the shortest ttl on the classic interface. Its clients wait at least 5
	// minutes between announces, even if the interval is shorter, and some wait half an hour.
	minClassicTTL = 15 * time.Minute
)

// intervalFor returns the interval for the peers of a track, in seconds. rate is how many announces
// arrive per second at the tracker, and maxRate how many may arrive; 0 is no limit.
func intervalFor(size store.Size, rate, maxRate int) int {
	if maxRate <= 0 || maxRate >= size.Total {
		return minInterval
	}
	// With a track that is a month old, a product below is too large for 32 bits.
	total, used, budget := int64(size.Total), int64(rate), int64(maxRate)
	// Three quarters of the budget are shared by all peers equally. The last quarter is for peers
	// that announce early, as they are asked to, and for young tracks.
	load := (4*total-1)/(3*budget) + 1
	// Some numbers of peers need more than the budget even with the longest interval. Then the
	// budget is what they need.
	budget = max(budget, 4*total/(3*maxInterval))
	if size.Peers <= smallTrack && used < budget {
		young := max(minInterval, int64((size.Age+4*time.Second-1)/(4*time.Second)))
		if spare := 2 * (budget - used); spare < budget {
			young = (young*budget-1)/spare + 1
		}
		load = min(load, young)
	}
	return int(max(minInterval, min(load, maxInterval)))
}

// A timing decides the interval in a reply and how long its peer is listed. The ttl depends on
// nothing else but the size of the track. So the store lists a peer for as long as the reply says.
type timing struct {
	fixed         time.Duration // the configured interval; 0 lets it follow the load
	rate, maxRate int           // announces per second that arrive, and that may arrive
	classic       bool
}

// timingOf returns the timing of a request that arrives now.
func (t *Tracker) timingOf(req *wire.Request) timing {
	maxRate := t.MaxRate
	if maxRate == 0 {
		maxRate = DefaultMaxRate
	}
	return timing{fixed: t.interval, rate: t.meter.rate(), maxRate: maxRate, classic: req.Classic}
}

// interval returns the interval for a reply. It is random within bounds, so each call may return
// another one.
func (g *timing) interval(size store.Size) time.Duration {
	if g.fixed > 0 {
		return g.fixed
	}
	return time.Duration(spread(intervalFor(size, g.rate, g.maxRate))) * time.Second
}

// ttl returns 2.5 times the interval before that is spread, in whole seconds if it follows the
// load.
func (g *timing) ttl(size store.Size) time.Duration {
	ttl := g.fixed * 5 / 2
	if g.fixed == 0 {
		ttl = time.Duration(intervalFor(size, g.rate, g.maxRate)*5+1) / 2 * time.Second
	}
	if g.classic {
		ttl = max(ttl, minClassicTTL)
	}
	return ttl
}

// refusalInterval returns the interval for a reply that refuses.
func (t *Tracker) refusalInterval() time.Duration {
	if t.interval > 0 {
		return t.interval
	}
	return defaultRefusalInterval
}

// spread returns a random interval of at most the given seconds, and up to a tenth less. So peers
// that came at the same time do not all come back at the same time.
func spread(seconds int) int {
	least := max(minInterval, seconds-seconds/10)
	if least >= seconds {
		return seconds
	}
	return least + rand.IntN(seconds-least+1)
}

// A meter measures how many announces arrive per second. Any number of goroutines may use it.
type meter struct {
	_       [64]byte // so that it has a cache line of its own: every goroutine writes here
	current atomic.Int64
	second  atomic.Int64 // the second in which current counts, since start
	before  atomic.Int64 // the count of the second before
	start   time.Time
}

// count counts an announce in the second in which rate was last called.
func (m *meter) count() { m.current.Add(1) }

// rate returns how many announces arrived in the last whole second.
func (m *meter) rate() int {
	now := int64(time.Since(m.start) / time.Second)
	if last := m.second.Load(); now != last && m.second.CompareAndSwap(last, now) {
		n := m.current.Swap(0)
		if now != last+1 {
			n = 0
		}
		m.before.Store(n)
	}
	return int(m.before.Load())
}
