package tracker

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

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

// announce counts one and returns the rate.
func (m *meter) announce() int {
	rate := m.rate()
	m.count.Add(1)
	return rate
}

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
