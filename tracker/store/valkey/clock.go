package valkey

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// A clock has the time of the database. All expiries are in that time, so trackers whose own clocks
// are wrong agree on them.
type clock struct {
	start  time.Time    // by the monotonic clock
	offset atomic.Int64 // the database's time at start, in nanoseconds since 1970
}

// now returns the time of the database.
func (c *clock) now() time.Time {
	return time.Unix(0, c.offset.Load()+int64(time.Since(c.start)))
}

// synchronize asks the database for its time.
func (s *Store) synchronize(ctx context.Context) error {
	if s.clock.start.IsZero() {
		s.clock.start = time.Now()
	}
	before := time.Now()
	r := s.client.Do(ctx, s.client.B().Time().Build())
	parts, err := r.AsIntSlice()
	if err != nil {
		return unavailable(err)
	}
	if len(parts) != 2 {
		return unavailable(rueidis.ErrClosing)
	}
	middle := before.Add(time.Since(before) / 2)
	at := time.Unix(parts[0], parts[1]*1000)
	s.clock.offset.Store(at.UnixNano() - int64(middle.Sub(s.clock.start)))
	return nil
}
