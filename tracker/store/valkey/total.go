package valkey

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	totalInterval = time.Second // how often a tracker writes its number
	idleIntervals = 3           // after how many intervals it does so if nobody asked for the sum
	maxRowAge     = 30          // seconds, after which the number of a tracker no longer counts
	// totalBuckets is how many seconds an announce counts at most: two fifths of the longest ttl.
	totalBuckets = int64(maxTTL/time.Second)*2/5 + 2
)

// A total estimates how many peers all tracks have. Each tracker counts the peers that announced to it:
// a peer counts for two fifths of its ttl. By then it announces again, perhaps to another tracker. Once a
// second the tracker writes its number into a hash, and reads those of the others.
type total struct {
	instance string
	held     atomic.Int64 // the peers that streams of this tracker hold
	others   atomic.Int64 // the sum of the other trackers
	trackers atomic.Int64 // how many trackers share the table
	asked    atomic.Bool  // for the sum, since the last exchange

	mu     sync.Mutex
	own    int64
	ends   []int32 // how many peers end to count in a second, modulo the length
	second int64   // up to which ends was subtracted
	start  time.Time
	sumNow atomic.Int64 // own, for sum
}

func newTotal() *total {
	return &total{
		instance: strconv.FormatUint(rand.Uint64(), 36), ends: make([]int32, totalBuckets), start: time.Now(),
	}
}

// announced counts a peer whose ttl has this many seconds.
func (t *total) announced(ttl int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance()
	n := min(max(1, ttl*2/5), totalBuckets-1)
	t.ends[(t.second+n)%totalBuckets]++
	t.own++
	t.sumNow.Store(t.own)
}

// advance subtracts the peers that no longer count.
func (t *total) advance() {
	now := int64(time.Since(t.start) / time.Second)
	if now-t.second >= totalBuckets {
		clear(t.ends)
		t.own = 0
		t.second = now
	}
	for t.second < now {
		t.second++
		end := &t.ends[t.second%totalBuckets]
		t.own -= int64(*end)
		*end = 0
	}
	t.sumNow.Store(t.own)
}

// mine is what this tracker counts.
func (t *total) mine() int64 { return t.sumNow.Load() + t.held.Load() }

// sum estimates the peers of all tracks.
func (t *total) sum() int {
	if !t.asked.Load() {
		t.asked.Store(true)
	}
	return int(t.mine() + t.others.Load())
}

// keepTotal exchanges the numbers until the Store is closed, rarely while this tracker has nothing to do.
func (s *Store) keepTotal() {
	tick := time.NewTicker(totalInterval)
	defer tick.Stop()
	for shard := 0; ; shard++ {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			s.addrs.sweep(shard)
			if s.total.asked.Swap(false) || shard%idleIntervals == 0 {
				_ = s.exchangeTotal(s.ctx)
			}
		}
	}
}

// exchangeTotal writes the number of this tracker, and reads those of the others.
func (s *Store) exchangeTotal(ctx context.Context) error {
	t := s.total
	t.mu.Lock()
	t.advance()
	t.mu.Unlock()
	now := s.clock.second()
	b, hash := s.client.B(), s.prefix+":i"
	r, err := s.do(ctx,
		b.Hset().Key(hash).FieldValue().FieldValue(t.instance, fmt.Sprintf("%d %d", now, t.mine())).Build(),
		b.Expire().Key(hash).Seconds(2*maxRowAge).Build(),
		b.Hgetall().Key(hash).Build())
	if err != nil {
		return err
	}
	rows, err := r[2].AsStrMap()
	if err != nil {
		return nil // no tracker writes such a hash
	}
	var others, trackers int64
	var old []string
	for instance, row := range rows {
		var second, peers int64
		if n, _ := fmt.Sscanf(row, "%d %d", &second, &peers); n < 2 || second < now-maxRowAge {
			old = append(old, instance)
			continue
		}
		trackers++
		if instance != t.instance {
			others += max(0, peers)
		}
	}
	t.others.Store(others)
	t.trackers.Store(trackers)
	if len(old) > 0 {
		_, err = s.do(ctx, b.Hdel().Key(hash).Field(old...).Build())
	}
	return err
}

// endTotal removes the number of this tracker.
func (s *Store) endTotal(ctx context.Context) {
	_, _ = s.do(ctx, s.client.B().Hdel().Key(s.prefix+":i").Field(s.total.instance).Build())
}
