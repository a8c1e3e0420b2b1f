package memory

import (
	"sync/atomic"
	"time"
)

const (
	// A clock is ticked every tickEvery, and goes on for maxStep without a tick. A peer that renews
	// on time has 1.5 intervals left, at least 1.5 seconds. It loses less than that, however long
	// the process stands still. A tick that is a little late costs nothing.
	tickEvery = time.Second
	maxStep   = 1250 * time.Millisecond

	// A client closes its event stream after 35 seconds of silence, and the last heartbeat may have
	// been 15 seconds before a gap. So clients have closed streams during a gap of longGap or more.
	longGap = 20 * time.Second
	// settling is for how long after such a gap the store may still notice these ends.
	settling = 5 * time.Second
)

// A clock counts the time in which the process runs. While the process is stopped or the machine
// sleeps, no announce can be read, so that time makes no peer lapse. The machine's monotonic clock
// does go on while a process is stopped. This one stands still maxStep after its last tick.
type clock struct {
	// machine is the time on the machine's monotonic clock since some moment.
	machine func() time.Duration
	last    atomic.Pointer[tick]
}

// A tick is a moment on both clocks.
type tick struct {
	machine, ran time.Duration
	resumed      time.Duration // when, on this clock, the last long gap ended
}

// wholeSeconds rounds down.
func wholeSeconds(d time.Duration) int64 { return int64(d / time.Second) }

func (c *clock) init() {
	start := time.Now()
	c.machine = func() time.Duration { return time.Since(start) }
	c.last.Store(&tick{resumed: -settling})
}

// now is for how long the process has run.
func (c *clock) now() time.Duration {
	t := c.last.Load()
	return t.ran + min(c.machine()-t.machine, maxStep)
}

// start lets the clock go on from where it stands, after a time in which it was not needed. Only one
// goroutine at a time may call start or tick.
func (c *clock) start() {
	t := c.last.Load()
	c.last.Store(&tick{c.machine(), c.now(), t.resumed})
}

// tick lets the clock go on.
func (c *clock) tick() {
	t, machine := c.last.Load(), c.machine()
	step := machine - t.machine
	next := &tick{machine, t.ran + min(step, maxStep), t.resumed}
	if step >= longGap {
		next.resumed = next.ran
	}
	c.last.Store(next)
}

// settling reports whether a long gap has just ended. An end that is noticed now may have happened
// during the gap.
func (c *clock) settling() bool {
	t := c.last.Load()
	step := c.machine() - t.machine
	return step >= longGap || t.ran+step-t.resumed < settling
}
