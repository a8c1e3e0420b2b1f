package memory

import (
	"sync/atomic"
	"time"
)

const (
	// tickEvery is how often a clock is ticked, and maxStep how far it goes without a tick. A peer
	// that renews on time has 1.5 intervals left, at least 1.5 seconds, and loses less than that
	// however long the process stands still. A tick that is a little late costs nothing.
	tickEvery = time.Second
	maxStep   = 1250 * time.Millisecond

	// A client gives its event stream up after 35 seconds of silence, and the last heartbeat may
	// have been 15 seconds old: longGap is after what gap connections have ended because of it.
	longGap = 20 * time.Second
	// settling is how long after such a gap ends that had waited may still be noticed.
	settling = 5 * time.Second
)

// A clock counts the time in which the process ran. While the process is stopped, the machine
// sleeps, or neither gets anything done, no announce can be read, so that time is held against no
// peer. The machine's monotonic clock goes on while a process is stopped.
//
// It goes on by itself for maxStep and then stands still until it is ticked.
type clock struct {
	// machine is the machine's monotonic clock, since some moment.
	machine func() time.Duration
	last    atomic.Pointer[tick]
}

// A tick is a moment on both clocks.
type tick struct {
	machine, ran time.Duration
	resumed      time.Duration // when, on this clock, the last long gap ended
}

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

// start has the clock go on from where it stands, after a time in which nobody needed it. One
// goroutine at a time may call start and tick.
func (c *clock) start() {
	t := c.last.Load()
	c.last.Store(&tick{c.machine(), c.now(), t.resumed})
}

// tick has the clock go on.
func (c *clock) tick() {
	t, machine := c.last.Load(), c.machine()
	step := machine - t.machine
	next := &tick{machine, t.ran + min(step, maxStep), t.resumed}
	if step >= longGap {
		next.resumed = next.ran
	}
	c.last.Store(next)
}

// settling says that a long gap has just ended: what is noticed now may have happened meanwhile.
func (c *clock) settling() bool {
	t := c.last.Load()
	step := c.machine() - t.machine
	return step >= longGap || t.ran+step-t.resumed < settling
}
