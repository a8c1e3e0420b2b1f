package memory

// How peers lapse: a clock, the expiry of each peer on it, and what removes a peer that has lapsed.

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// A clock is ticked every tickEvery, and stands still maxStep after its last tick. A peer that
	// renews on time has 1.5 intervals left, at least 1.5 seconds. It loses less than that, however
	// long the process stands still. A tick that is a little late changes nothing.
	tickEvery = time.Second
	maxStep   = 1250 * time.Millisecond

	// A client closes its event stream after 35 seconds of silence, and the last heartbeat may have
	// been 15 seconds before a gap. So after a gap of longGap or more, clients may have closed
	// their streams.
	longGap = 20 * time.Second
	// The server may notice these ends as late as settling after the gap.
	settling = 5 * time.Second

	// trimEvery is for how long the store keeps unused memory for the next peers.
	trimEvery = 5 * time.Second
)

// A clock counts the time in which the process runs. While the process is stopped or the machine
// sleeps, no announce can be read, so that time makes no peer lapse. The machine's monotonic clock
// goes on while a process is stopped.
type clock struct {
	// machine is the time on the machine's monotonic clock since some moment.
	machine func() time.Duration
	last    atomic.Pointer[tick]
}

// A tick is a moment on both clocks.
type tick struct {
	machine, ran time.Duration
	resumed      time.Duration // the end of the last long gap, on this clock
}

func (c *clock) init() {
	start := time.Now()
	c.machine = func() time.Duration { return time.Since(start) }
	c.last.Store(&tick{resumed: -settling})
}

// now is how long the process has run.
func (c *clock) now() time.Duration {
	t := c.last.Load()
	return t.ran + min(c.machine()-t.machine, maxStep)
}

// start lets the clock go on from where it stands, after a time in which it was not needed. Only
// one goroutine at a time may call start or tick.
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

// An expiry is a second of the store's clock in 15 bits. One more bit is always set, so that no
// expiry is 0. The seconds go round in a circle: those less than horizon ahead of now are to come,
// all others are past. A sweep removes an expiry long before it would be ahead again, and without
// sweeps the clock stands still.
type expiry uint16

const (
	horizon = 1<<14 - 1 // seconds
	maxTTL  = (horizon - 1) * time.Second
	// held is the expiry of a peer that a subscription holds: the peer does not lapse.
	held expiry = 1
)

// expiryAt rounds down.
func expiryAt(t time.Duration) expiry { return 1<<15 | expiry(t/time.Second) }

// after is how many seconds e is ahead of now. It is negative when e is past.
func (e expiry) after(now expiry) int { return int(int16((e-now)<<1) >> 1) }

func (e expiry) lapsed(now expiry) bool { return e != held && e.after(now) <= 0 }

// A track of at most small peers is searched for lapsed peers in one go. A sweep walks larger
// tracks in pieces of that many steps, and gives the lock up in between.
const small = 1000

// dueAt notes when a peer of the track will lapse.
func (s *shard) dueAt(h handle, at, now expiry) {
	t := s.tracks.one(h)
	if at.after(now) > t.due.after(now) {
		return
	}
	t.due = at
	if page := &s.pageDue[h.page()]; at.after(now) < page.after(now) {
		*page = at
	}
}

// A position is how far expire has got in a track. At the end fam is 2.
type position struct{ fam, slot int }

// expire removes lapsed peers. It looks at all of a small track. Of a large one it looks at up to
// that many slots from p on, and moves p. It returns h, or 0 if the track is gone.
func (s *shard) expire(h handle, p *position, steps int, now expiry) handle {
	t := s.tracks.one(h)
	// Peers move between the pieces of a walk, so the next lapse is not known: the track stays due.
	t.due = now
	if s.trackLen(t) <= small {
		t.due, *p, steps = now+horizon, position{}, math.MaxInt
	}
	for ; p.fam < len(t.fam); p.fam, p.slot = p.fam+1, 0 {
		v := s.table(t, p.fam)
		last := v.width - 1
		soonest := max(1, t.due.after(now))
		for ; p.slot < v.cap && steps > 0; steps-- {
			word := v.words[p.slot*v.width+last]
			left := expiry(word).after(now)
			if word == 0 {
				left = horizon // compiled without a branch, which would often be mispredicted
			}
			if left < soonest && expiry(word) != held {
				if left <= 0 {
					s.remove(t, &v, p.slot) // another peer may have moved into the slot
					continue
				}
				soonest, t.due = left, expiry(word)
			}
			p.slot++
		}
		if p.slot < v.cap {
			return h
		}
	}
	return s.tidy(h)
}

// A cursor is how far a sweep has got in a shard.
type cursor struct {
	page  int // the last page that it has begun
	track handle
	position
}

// sweepSome expires tracks from c on. It stops after a while, so that others get the lock, and
// reports whether there are more.
func (s *shard) sweepSome(c *cursor, now expiry) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for steps := small; steps > 0; steps-- { // one for the track itself
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
			s.pageDue[c.page] = now + horizon // until dueAt lowers it for the tracks in the page
		}
		if h != c.track {
			c.track, c.position = h, position{}
		}
		t := s.tracks.one(h)
		if t.due.after(now) <= 0 {
			n := s.trackLen(t)
			h = s.expire(h, &c.position, steps, now)
			if c.fam < len(t.fam) {
				return true
			}
			steps -= n
		}
		if h != 0 {
			s.dueAt(h, t.due, now)
		}
		c.track, c.position = c.track+1, position{}
	}
	return true
}

// schedule has housekeep called when the next second begins.
func (m *Store) schedule() {
	if !m.scheduled.Load() && m.scheduled.CompareAndSwap(false, true) {
		m.clock.start()
		now := m.clock.now()
		time.AfterFunc(now.Truncate(tickEvery)+tickEvery-now, m.housekeep)
	}
}

func (m *Store) housekeep() {
	m.sweep()
	if m.keys.Load() == 0 || m.clock.now()%trimEvery < tickEvery {
		m.trim()
	}
	m.scheduled.Store(false)
	if m.keys.Load() > 0 {
		m.schedule()
	}
}

// sweep removes the peers that have lapsed, shard by shard. It never holds a lock for long.
func (m *Store) sweep() {
	for i := range m.shards {
		m.clock.tick()
		var at cursor
		for m.shards[i].sweepSome(&at, expiryAt(m.clock.now())) {
			runtime.Gosched()
		}
	}
}

// trim gives unused memory back.
func (m *Store) trim() {
	for i := range m.shards {
		m.shards[i].trim()
	}
}
