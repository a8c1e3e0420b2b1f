package valkey

// The work for subscriptions is done by one goroutine for each partition that has any. It does one round
// after another: collect decides what is due, carryOut asks the database, and apply changes the mirrors.

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	// countInterval is how often the numbers of tracks are read, to notice lost messages (repair.go).
	countInterval = 3 * time.Second
	// A round that failed is repeated after minRetry, and later after up to maxRetry.
	minRetry = 50 * time.Millisecond
	maxRetry = time.Second
	// maxClosings is how many leases one round closes, and maxLeases how many it begins in a track.
	maxClosings = 1000
	maxLeases   = 1000
	// maxTouched is how many peers of a track may wait to be read. If there are more, all are read.
	maxTouched = 2 * maxStreamed
)

// A partition is the tracks of one partition that this tracker watches.
type partition struct {
	store  *Store
	number int
	wake   chan struct{} // has a place for one signal

	mu      sync.Mutex
	closed  bool
	running bool // the goroutine is there
	tracks  map[string]*track
	dirty   map[*track]struct{} // those that may have something to do before the next second
	closing map[closing]ending  // the leases to close
	serial  uint64              // the number of rounds

	epoch          string // "" if it is unknown
	lastError      error
	retry          time.Duration // how long to wait after the next failure; 0 after a success
	uncertainUntil time.Time     // until then no leave is reported that may be due to a failure
	tickAt         time.Time     // when to look for lapsed peers
	renewAt        time.Time     // when to renew the leases
	countAt        time.Time     // when to compare the numbers of the tracks
	ranAt          time.Time     // the beginning of the last round
	resumedAt      time.Time     // the end of a long gap in which the process did not run
}

// signal starts the next round. p.mu is locked.
func (p *partition) signal() {
	if !p.running {
		if p.closed {
			return
		}
		p.running = true
		p.ranAt = time.Now()
		p.store.watch.working.Go(p.run)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// markDirty has the next round look at a track.
func (p *partition) markDirty(t *track) {
	if p.dirty == nil {
		p.dirty = make(map[*track]struct{})
	}
	p.dirty[t] = struct{}{}
	p.signal()
}

// A round is what is done at once.
type round struct {
	part     *partition
	now      time.Time
	second   int64 // by the clock of the database
	keep     bool  // leases to close are only shortened
	serial   uint64
	closings map[closing]ending
	leases   []leases
	readings []*reading
	renewal  bool
	counting bool
	epoch    string // that was read
	lost     bool   // there is none, so the table was lost
}

// leases are peers of a track whose lease is written.
type leases struct {
	track *track
	peers []netip.AddrPort
	fresh map[netip.AddrPort]bool // those that are missing; true if there was no lease before

	lease    score
	reported []netip.AddrPort         // those about which a message is sent
	least    score                    // the least of their leases before
	others   map[netip.AddrPort]score // the leases in the database before, if they were above least
	refused  []netip.AddrPort         // those for which the database has no memory
	cleaned  bool                     // announces that have lapsed are removed
}

// A reading is what is read of a track.
type reading struct {
	track   *track
	all     bool
	number  bool      // its number is read, too
	touched []touched // that were gathered
	lapsed  []netip.AddrPort
	seen    int64 // track.count.seen when the reading began
	readingResult
}

// run does rounds until there is nothing to watch and to close, or until the store is closed.
func (p *partition) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.mu.Lock()
		if len(p.tracks) == 0 && len(p.closing) == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		r, at := p.collect()
		p.mu.Unlock()
		failed := false
		if r != nil {
			err := r.carryOut(p.store.ctx)
			failed = err != nil
			p.mu.Lock()
			var notify []func()
			if failed {
				at = p.fail(r, err)
			} else {
				notify = p.apply(r)
			}
			p.mu.Unlock()
			call(notify)
		}
		if p.store.ctx.Err() != nil {
			p.finish()
			return
		}
		if r != nil && !failed {
			continue
		}
		timer.Reset(time.Until(at))
		wake := p.wake
		if failed {
			wake = nil
		}
		select {
		case <-wake:
		case <-timer.C:
		case <-p.store.ctx.Done():
			p.finish()
			return
		}
	}
}

// collect returns what is due, or nil and when something will be.
func (p *partition) collect() (*round, time.Time) {
	now := time.Now()
	if now.Sub(p.ranAt) > longGap {
		p.resumedAt = now
	}
	p.ranAt = now
	db := p.store.clock.now()
	p.serial++
	r := &round{part: p, now: now, second: db.Unix(), serial: p.serial}
	r.keep = p.store.watch.keepHolds.Load() || !p.resumedAt.IsZero() && now.Sub(p.resumedAt) < settleTime
	for c, end := range p.closing {
		if r.closings == nil {
			r.closings = make(map[closing]ending)
		}
		if r.closings[c] = end; len(r.closings) == maxClosings {
			break
		}
	}
	next := p.tickAt
	if tick := !p.tickAt.After(now); tick {
		// A little after the next whole second of the database, because expiries are whole seconds.
		p.tickAt = now.Add(time.Second - time.Duration(db.Nanosecond()) + time.Millisecond)
		next = p.tickAt
		r.renewal, r.counting = !p.renewAt.After(now), !p.countAt.After(now)
		for _, t := range p.tracks {
			r.tick(t)
		}
	}
	for t := range p.dirty {
		if at := r.take(t); at.IsZero() {
			delete(p.dirty, t)
		} else if at.Before(next) {
			next = at
		}
	}
	if len(r.closings)+len(r.leases)+len(r.readings) == 0 {
		if !next.After(now) { // only changes are due
			return r, next
		}
		return nil, next
	}
	return r, next
}

// tick takes what is due for a track in each second.
func (r *round) tick(t *track) {
	if r.renewal && len(t.holds) > 0 {
		l := leases{track: t}
		for e, h := range t.holds {
			if !h.missing {
				if l.peers = append(l.peers, e); l.least == 0 || h.lease < l.least {
					l.least = h.lease
				}
			}
		}
		if len(l.peers) > 0 {
			r.leases = append(r.leases, l)
		}
	}
	if len(t.subs) == 0 || !t.confirmed {
		return
	}
	t.count.recheck(t)
	var lapsed []netip.AddrPort
	t.mirror.lapsed(r.second, func(e netip.AddrPort) {
		if t.holds[e] == nil {
			lapsed = append(lapsed, e)
		}
	})
	if len(lapsed) > 0 || r.counting {
		r.readings = append(r.readings, &reading{track: t, lapsed: lapsed, number: r.counting, seen: t.count.seen})
	}
}

// take takes what is due for a dirty track. It returns when to look again, or zero if nothing remains.
func (r *round) take(t *track) (again time.Time) {
	soon := func(at time.Time) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	l := leases{track: t}
	for _, q := range t.requests {
		if q.state == read && q.sub.Self.Port() != 0 && !q.sub.holding { // the peer left meanwhile
			t.hold(q.sub)
			t.missing = true
		}
		soon(r.now.Add(time.Hour)) // the track remains dirty
	}
	if t.missing {
		t.missing = false
		for e, h := range t.holds {
			if h.missing && len(l.peers) == maxLeases {
				t.missing = true
				soon(r.now)
				break
			}
			if h.missing {
				if l.fresh == nil {
					l.fresh = make(map[netip.AddrPort]bool)
				}
				l.peers = append(l.peers, e)
				if l.fresh[e] = h.lease == 0; l.fresh[e] {
					h.serial = r.serial
				}
			}
		}
	}
	if len(l.peers) > 0 {
		r.leases = append(r.leases, l)
	}
	rd := &reading{track: t, seen: t.count.seen}
	if t.confirmed {
		rd.all = t.readAll
		for _, q := range t.requests {
			if q.state == waits {
				rd.all, rd.requests = true, append(rd.requests, q)
			}
		}
		if len(t.touched) > 0 {
			if t.gatherAt.After(r.now) {
				soon(t.gatherAt)
			} else {
				rd.touched, t.touched, t.touchIndex, t.gatherAt = t.touched, nil, nil, time.Time{}
			}
		}
		if rd.all || len(rd.touched) > 0 {
			rd.number = rd.all
			r.readings = append(r.readings, rd)
		}
	}
	if !t.flushAt.IsZero() {
		soon(t.flushAt)
	}
	return again
}

// fail prepares the next try after a failed round, and returns when it is.
func (p *partition) fail(r *round, err error) time.Time {
	now := time.Now()
	p.lastError = err
	p.uncertainUntil = now.Add(settleTime)
	p.renewAt = now // the first thing to do when the database is back
	p.tickAt = now
	for _, rd := range r.readings {
		t := rd.track
		for _, x := range rd.touched {
			t.touch(x.peer, x.kind, now)
		}
		p.markDirty(t)
	}
	for _, l := range r.leases {
		for e := range l.fresh {
			if h := l.track.holds[e]; h != nil {
				l.track.lack(e)
			}
		}
	}
	p.retry = min(max(minRetry, 2*p.retry), maxRetry)
	return now.Add(p.retry)
}

// finish closes all leases when the store is closed, and ends all subscriptions.
func (p *partition) finish() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.store.ctx), callTimeout)
	defer cancel()
	var notify []func()
	p.mu.Lock()
	p.closed = true
	for _, t := range p.tracks {
		for e, h := range t.holds {
			t.closeLease(e, h)
		}
		notify = append(notify, t.endAll()...)
		for len(t.requests) > 0 {
			p.settle(t.requests[0], unavailable(errClosed))
		}
	}
	rest := p.closing
	p.closing, p.tracks, p.dirty = nil, nil, nil
	p.mu.Unlock()
	call(notify)
	r := &round{part: p, now: time.Now(), second: p.store.clock.second(), keep: p.store.watch.keepHolds.Load()}
	for len(rest) > 0 {
		r.closings = make(map[closing]ending)
		for c, end := range rest {
			delete(rest, c)
			if r.closings[c] = end; len(r.closings) == maxClosings {
				break
			}
		}
		if r.carryOut(ctx) != nil {
			return // the leases lapse
		}
	}
}
