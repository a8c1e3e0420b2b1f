package memory

// How peers lapse: a clock, the expiry of each peer on this clock, and the sweep that removes the
// lapsed peers.

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// A clock ticks every tickEvery, and stops maxStep after its last tick. So a gap in which the
	// process does not run counts as at most maxStep, however long it is. An interval is at
	// least a second, and a ttl at least 2.5 intervals. So a peer renews 1.5 seconds or more before it
	// lapses, and no gap makes it lapse. A tick that is late by up to 250 ms loses no time.
	tickEvery = time.Second
	maxStep   = 1250 * time.Millisecond

	// A client closes its event stream after 35 seconds of silence, and 15 of these may have passed
	// when a gap begins. So clients may have closed their streams during a gap of 35 - 15 seconds.
	longGap = 20 * time.Second
	// The server notices these closed streams within settleTime after the gap.
	settleTime = 5 * time.Second

	// The store gives unused memory back every trimEvery. Until then, new peers may use it.
	trimEvery = 5 * time.Second
)

// A clock counts the time in which the process runs. While the process is stopped or the machine
// sleeps, the tracker can read no announce, so that time must make no peer lapse. A monotonic clock
// of the machine is not enough: it goes on while the process is stopped.
type clock struct {
	// machine is the time on the machine's monotonic clock since the store was made.
	machine func() time.Duration
	last    atomic.Pointer[tick]
}

// A tick is a moment on both clocks.
type tick struct {
	machine, ran time.Duration
	resumed      time.Duration // the value of ran when the last long gap ended
}

func (c *clock) init() {
	start := time.Now()
	c.machine = func() time.Duration { return time.Since(start) }
	c.last.Store(&tick{resumed: -settleTime})
}

// now is how long the process has run.
func (c *clock) now() time.Duration {
	t := c.last.Load()
	return t.ran + min(c.machine()-t.machine, maxStep)
}

// start makes a clock that has stopped go on from the same time. Only one goroutine at a time may
// call start or tick.
func (c *clock) start() {
	t := c.last.Load()
	c.last.Store(&tick{c.machine(), c.now(), t.resumed})
}

// tick keeps the clock going. It records the end of a long gap.
func (c *clock) tick() {
	t, machine := c.last.Load(), c.machine()
	step := machine - t.machine
	next := &tick{machine, t.ran + min(step, maxStep), t.resumed}
	if step >= longGap {
		next.resumed = next.ran
	}
	c.last.Store(next)
}

// justResumed reports whether a long gap has just ended. If a subscription ends now, its client may
// have closed the stream during the gap.
func (c *clock) justResumed() bool {
	t := c.last.Load()
	step := c.machine() - t.machine
	return step >= longGap || t.ran+step-t.resumed < settleTime
}

// An expiry is a second of the store's clock in 15 bits. One more bit, the highest, is always set, except
// in held. So 0 is no expiry. The seconds wrap around: those up to horizon after now are in the future,
// and all others are in the past. While there are peers, a sweep runs every second, and removes a peer
// long before its expiry would be in the future again.
type expiry uint16

const (
	horizon = 1<<14 - 1 // seconds
	maxTTL  = (horizon - 1) * time.Second
	// held stands for the expiry of a peer that a subscription holds: the peer does not lapse.
	held expiry = 1
)

// expiryAt rounds down to a second.
func expiryAt(t time.Duration) expiry { return 1<<15 | expiry(t/time.Second) }

// after is how many seconds e is after now. It is negative if e is in the past. The shifts make the
// difference of the low 15 bits a signed number.
func (e expiry) after(now expiry) int { return int(int16((e-now)<<1) >> 1) }

func (e expiry) lapsed(now expiry) bool { return e != held && e.after(now) <= 0 }

const (
	// A track of at most smallTrack peers is searched for lapsed peers in one go.
	smallTrack = 1000
	// A sweep or a scrape of all tracks unlocks the shard after stepsPerLock tracks or slots, so
	// that other calls get the lock.
	stepsPerLock = 1000
)

// A track is due when a sweep has to look for lapsed peers: no peer of a small track lapses before. A page
// of tracks is due when its first track is.

// lowerDue makes a track due at this time, unless it is due earlier.
func (s *shard) lowerDue(h handle, at, now expiry) {
	t := s.tracks.get(h)
	if at.after(now) > t.due.after(now) {
		return
	}
	t.due = at
	if page := &s.pageDue[h.page()]; at.after(now) < page.after(now) {
		*page = at
	}
}

// A position is how far expire has got in a track: a table, of IPv4 or IPv6 peers, and a slot of it. At the
// end of the track, fam is 2.
type position struct{ fam, slot int }

// expireAll removes all lapsed peers of a track. It returns h, or 0 if it has removed the track.
func (s *shard) expireAll(h handle, now expiry) handle {
	return s.expire(h, &position{}, math.MaxInt, now)
}

// expire removes lapsed peers. It looks at all slots of a small track. In a large track, it looks
// at up to this many slots from p on, and moves p past them. It returns h, or 0 if it has removed
// the track.
func (s *shard) expire(h handle, p *position, steps int, now expiry) handle {
	t := s.tracks.get(h)
	// Peers of a large track may move to other slots between two calls. So the next lapse is not known,
	// and the track stays due: below, only peers that have lapsed matter.
	t.due = now
	if s.trackLen(t) <= smallTrack {
		t.due, *p, steps = now+horizon, position{}, math.MaxInt
	}
	for ; p.fam < len(t.heads); p.fam, p.slot = p.fam+1, 0 {
		tab := s.table(t, p.fam)
		last := tab.width - 1
		soonest := max(1, t.due.after(now))
		for ; p.slot < tab.cap && steps > 0; steps-- {
			word := tab.words[p.slot*tab.width+last] // its low 16 bits are the expiry
			remaining := expiry(word).after(now)
			if word == 0 { // the slot is empty; a conditional move, which is faster than a branch
				remaining = horizon
			}
			if remaining < soonest && expiry(word) != held {
				if remaining <= 0 {
					s.remove(t, &tab, p.slot) // another peer may have moved into the slot
					continue
				}
				soonest, t.due = remaining, expiry(word)
			}
			p.slot++
		}
		if p.slot < tab.cap {
			return h
		}
	}
	return s.tidy(h)
}

// A cursor is how far a sweep has got in a shard.
type cursor struct {
	page  int // the last page that the sweep has begun
	track handle
	position
}

// sweepSome expires tracks, beginning at c. It stops after stepsPerLock tracks and slots, and
// reports whether there are more.
func (s *shard) sweepSome(c *cursor, now expiry) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for steps := stepsPerLock; steps > 0; steps-- { // one step for the track itself
		h := s.tracks.from(c.track)
		if h == 0 {
			return false
		}
		if h.page() != c.page {
			if s.pageDue[h.page()].after(now) > 0 {
				c.track = pageOf(h.page() + 1)
				continue
			}
			c.page = h.page()
			s.pageDue[c.page] = now + horizon // until lowerDue lowers it for each track on the page
		}
		if h != c.track {
			c.track, c.position = h, position{}
		}
		t := s.tracks.get(h)
		if t.due.after(now) <= 0 {
			n := s.trackLen(t)
			h = s.expire(h, &c.position, steps, now)
			if c.fam < len(t.heads) {
				return true
			}
			steps -= n
		}
		if h != 0 {
			s.lowerDue(h, t.due, now)
		}
		c.track, c.position = c.track+1, position{}
	}
	return true
}

// scheduleHousekeeping makes a timer call housekeep at the next second, unless a timer runs already.
func (m *Store) scheduleHousekeeping() {
	if !m.scheduled.Load() && m.scheduled.CompareAndSwap(false, true) {
		m.clock.start()
		now := m.clock.now()
		time.AfterFunc(now.Truncate(tickEvery)+tickEvery-now, m.housekeep)
	}
}

// housekeep sweeps the store, and trims it every trimEvery or when it is empty.
func (m *Store) housekeep() {
	m.sweep()
	if m.keys.Load() == 0 || m.clock.now()%trimEvery < tickEvery {
		m.trim()
	}
	m.scheduled.Store(false)
	if m.keys.Load() > 0 {
		m.scheduleHousekeeping()
	}
}

// sweep removes the lapsed peers of all shards. It never holds a lock for long.
func (m *Store) sweep() {
	for i := range m.shards {
		m.clock.tick() // for each shard, because a sweep may take longer than maxStep
		var at cursor
		for m.shards[i].sweepSome(&at, expiryAt(m.clock.now())) {
			runtime.Gosched()
		}
	}
}

// trim gives unused memory back to the Go heap.
func (m *Store) trim() {
	for i := range m.shards {
		m.shards[i].trim()
	}
}
