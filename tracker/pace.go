package tracker

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// How often peers are to announce where that follows the load. docs/PROTOCOL.md section 7 has the
// formula and its reasons.
const (
	minPace = 15      // seconds
	maxPace = 30 * 60 // seconds
	// smallTrack is up to how many peers a track has an interval of its own while it is young.
	smallTrack = 50
)

// pace is the interval for the peers of a track, in seconds, on a tracker where rate announces
// arrive per second and that wants no more than most; 0 is any number.
func pace(size store.Size, rate, most int) int {
	if most <= 0 || most >= size.Total {
		return minPace
	}
	// A track that is a month old makes a product below too large for 32 bits.
	total, used, budget := int64(size.Total), int64(rate), int64(most)
	// What three quarters of that leave each peer, the same for everybody. The last quarter is for
	// those who come early, as they are told to, and for tracks that are young.
	load := (4*total-1)/(3*budget) + 1
	// For more peers than even the longest interval can keep within most, what they need is most.
	budget = max(budget, 4*total/(3*maxPace))
	if size.Peers <= smallTrack && used < budget {
		youth := max(minPace, int64((size.Age+4*time.Second-1)/(4*time.Second)))
		if spare := 2 * (budget - used); spare < budget {
			youth = (youth*budget-1)/spare + 1
		}
		load = min(load, youth)
	}
	return int(max(minPace, min(load, maxPace)))
}

// A timing is all that decides, beside the size of a track, how soon an asker is to come again and
// how long its peer is listed. Both are functions of the size alone, so the store lists a peer for
// as long as the reply says.
type timing struct {
	fixed      time.Duration // the interval that was configured; 0 lets it follow the load
	rate, most int           // of announces per second: what arrives, and what may
	classic    bool
}

// timing returns that of a request which arrives now.
func (t *Tracker) timing(req *wire.Request) timing {
	most := t.MaxRate
	if most == 0 {
		most = DefaultMaxRate
	}
	return timing{fixed: t.interval, rate: t.meter.rate(), most: most, classic: req.Classic}
}

// interval is what a reply says. Each call may draw another one.
func (g *timing) interval(size store.Size) time.Duration {
	if g.fixed > 0 {
		return g.fixed
	}
	return time.Duration(spread(pace(size, g.rate, g.most))) * time.Second
}

// ttl is 2.5 times the interval before that is spread, in whole seconds where it follows the load.
func (g *timing) ttl(size store.Size) time.Duration {
	ttl := g.fixed * 5 / 2
	if g.fixed == 0 {
		ttl = time.Duration(pace(size, g.rate, g.most)*5+1) / 2 * time.Second
	}
	if g.classic {
		ttl = max(ttl, classicTTL)
	}
	return ttl
}

// spread draws what a peer is told of an interval of t seconds: up to a tenth less, so that those
// who came together do not stay together.
func spread(t int) int {
	least := max(minPace, t-t/10)
	if least >= t {
		return t
	}
	return least + rand.IntN(t-least+1)
}

// A meter measures how many announces arrive per second. It is for any number of goroutines.
type meter struct {
	_      [64]byte // a cache line of its own: everybody writes here
	count  atomic.Int64
	second atomic.Int64 // that count is of, on the monotonic clock since start
	before atomic.Int64 // the count of the second before
	start  time.Time
}

// announce counts one in the second in which rate was last called.
func (m *meter) announce() { m.count.Add(1) }

// rate is how many arrived in the last whole second.
func (m *meter) rate() int {
	now := int64(time.Since(m.start) / time.Second)
	if last := m.second.Load(); now != last && m.second.CompareAndSwap(last, now) {
		n := m.count.Swap(0)
		if now != last+1 {
			n = 0
		}
		m.before.Store(n)
	}
	return int(m.before.Load())
}
