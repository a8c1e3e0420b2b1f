package valkey

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// clockInterval is how often the database is asked for its time.
	clockInterval = 10 * time.Second
	// maxClockStep is by how much the time that a Store uses may change at once.
	maxClockStep = time.Second
)

// A clock has the time of the database. All expiries are in that time, so trackers whose own clocks
// are wrong agree on them.
//
// If another machine becomes the master, and its clock is ahead, all peers would lapse at once. So the
// clock follows a jump of the database's time by one second in each clockInterval. Within their ttl the
// peers announce again, with expiries in the new time. But the database itself removes the keys of a
// track by its own clock: a jump of more than a ttl, such as an hour, still empties the table. A tracker
// that starts after the jump has the new time immediately. A machine that was suspended is behind by
// itself, and then the clock takes the database's time at once.
type clock struct {
	start  time.Time    // by the monotonic clock
	offset atomic.Int64 // the database's time at start, in nanoseconds since 1970

	wall time.Duration // by how much the wall clock was ahead of the monotonic clock, since start
}

// now returns the time of the database.
func (c *clock) now() time.Time {
	return time.Unix(0, c.nano())
}

// nano returns the time of the database, in nanoseconds since 1970.
func (c *clock) nano() int64 { return c.offset.Load() + int64(time.Since(c.start)) }

// second returns the time of the database in whole seconds. A peer is listed while its expiry is above.
func (c *clock) second() int64 { return c.nano() / int64(time.Second) }

// expiry returns the expiry of a ttl that begins at a time in nanoseconds, rounded up to a whole second.
func expiry(nano int64, ttl time.Duration) int64 {
	return (nano + int64(ttl) + int64(time.Second) - 1) / int64(time.Second)
}

// adjust follows the database, whose time was at when this machine's was then. It returns by how much the
// clock would have to change more.
func (c *clock) adjust(at, then time.Time) (remaining time.Duration) {
	wall := then.Round(0).Sub(c.start.Round(0)) - then.Sub(c.start)
	offset := at.UnixNano() - int64(then.Sub(c.start))
	old := c.offset.Load()
	jump := time.Duration(offset - old)
	suspended := wall - c.wall // a suspended machine's wall clock goes on, its monotonic clock does not
	c.wall = wall
	if old != 0 && jump-suspended > maxClockStep {
		remaining = jump - maxClockStep
	} else if old != 0 && jump-suspended < -maxClockStep {
		remaining = jump + maxClockStep
	}
	c.offset.Store(offset - int64(remaining))
	return remaining
}

// synchronize asks the database for its time.
func (s *Store) synchronize(ctx context.Context) error {
	if s.clock.start.IsZero() {
		s.clock.start = time.Now()
	}
	before := time.Now()
	results, err := s.do(ctx, s.client.B().Time().Build())
	if err != nil {
		return err
	}
	parts, err := results[0].AsIntSlice()
	if err != nil || len(parts) != 2 {
		return unavailable(fmt.Errorf("TIME: %w", rueidis.ErrClosing))
	}
	took := time.Since(before)
	if took > maxClockStep && s.clock.offset.Load() != 0 {
		return nil // the time may be wrong by half of that
	}
	middle := before.Add(took / 2)
	if remaining := s.clock.adjust(time.Unix(parts[0], parts[1]*1000), middle); remaining != 0 {
		s.log(fmt.Sprintf("the clock of the database has jumped by %v: peers may lapse too early or too late", remaining.Round(time.Millisecond)))
	}
	return nil
}

// keepTime synchronizes the clock until the Store is closed. If the database does not answer, the time
// goes on by this machine's clock.
func (s *Store) keepTime() {
	t := time.NewTicker(clockInterval)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
			_ = s.synchronize(s.ctx)
		}
	}
}
