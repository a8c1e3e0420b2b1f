package announce

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A follower combines the reports of all sources of a watch: a peer is present if any source lists
// it. Sessions record changes in the follower. The loop in watch.go takes the sum of these changes.
type follower struct {
	pending chan struct{} // holds a token if the loop may have changes to take
	mu      sync.Mutex    // guards the fields below, and the sources
	// afterChange is called after every single change, with mu held. The loop may see only the sum of
	// several changes. afterChange may be nil.
	afterChange func()
	trackers    []*trackerSources
	sources     []*source // the sources of all trackers
	size        int       // the number of peers that are present
	expires     time.Time // when to call expire next; zero if there is nothing to expire
	resumed     time.Time // when this process last resumed after it was suspended

	// What the loop has reported, and what it has to report next.
	begun      bool                        // the first event has been reported
	first      *trackerSources             // the first tracker that answered
	firstUntil time.Time                   // the first event waits for other sources until then
	list       []netip.AddrPort            // the peers as last reported, sorted
	changed    map[netip.AddrPort]struct{} // the peers that have joined or left since then
	you        []netip.AddrPort            // the own endpoints as last reported
}

// A trackerSources is one tracker with its sources, and with what the loop has to report about it.
type trackerSources struct {
	name       Tracker
	sources    []*source
	latest     *source // the source that answered last
	accepted   bool    // the tracker has accepted a request
	lastErr    error   // of the last failure; nil if there was none
	final      bool    // the tracker has accepted no request, and will accept none
	unreported error   // the error to report next, or nil
	failed     bool    // the tracker has not answered since its last failure
	back       bool    // the tracker answers again, and this has to be reported
}

// A source is one tracker over one address family. A tracker may report different peers over each
// family, so each source has its own roster.
type source struct {
	follower *follower
	tracker  *trackerSources
	roster   roster
	state    sourceState
	since    time.Time // when the state last changed
	err      error     // the last failure of a request
	reply    *Reply    // the last reply; nil on a stream
	epoch    string    // identifies the run of the tracker; "" if the tracker reports none
	// tableBegan is when the tracker's table began; zero if the tracker reports no age.
	tableBegan time.Time
	connected  bool // a connection to the tracker has succeeded
	shared     bool // another process is listed as the same endpoint
	// cameSecond is true if the other process was listed first.
	cameSecond bool
	from       netip.AddrPort // the local end of a member's last connection
	// you is the own endpoint as the tracker reports it. Until the tracker has reported one, the
	// local end of the connection counts as the own endpoint: this is local.
	you, local netip.AddrPort
}

type sourceState uint8

const (
	waiting sourceState = iota // no request has succeeded or failed yet
	up
	away
)

func newFollower() *follower {
	return &follower{pending: make(chan struct{}, 1), changed: make(map[netip.AddrPort]struct{})}
}

func (f *follower) addTracker(t Tracker) *trackerSources {
	sources := &trackerSources{name: t}
	f.trackers = append(f.trackers, sources)
	return sources
}

func (f *follower) addSource(t *trackerSources) *source {
	s := &source{follower: f, tracker: t, since: time.Now()}
	s.roster.notify = f.recheck
	t.sources = append(t.sources, s)
	f.sources = append(f.sources, s)
	return s
}

// isPresent reports whether any source lists e as a peer, and e is not an own endpoint of any source.
func (f *follower) isPresent(e netip.AddrPort) (present bool) {
	for _, s := range f.sources {
		if s.you == e || s.local == e {
			return false
		}
		present = present || s.roster.peers[e] != nil
	}
	return present
}

// recheck updates size and changed after a change that may add or remove e.
func (f *follower) recheck(e netip.AddrPort) {
	_, reported := slices.BinarySearchFunc(f.list, e, netip.AddrPort.Compare)
	_, changed := f.changed[e]
	wasPresent, present := reported != changed, f.isPresent(e)
	if present == wasPresent {
		return
	}
	if present {
		f.size++
	} else {
		f.size--
	}
	if changed {
		delete(f.changed, e)
	} else {
		f.changed[e] = struct{}{}
	}
}

// changes returns the peers that have left or joined since the last report, and all peers that are
// present now. Each list is sorted. Events share the list of all peers, so changes does not modify
// the last one: it makes a new list.
func (f *follower) changes() (departed, joined, all []netip.AddrPort) {
	if len(f.changed) == 0 {
		return nil, nil, f.list
	}
	for e := range f.changed {
		if f.isPresent(e) {
			joined = append(joined, e)
		} else {
			departed = append(departed, e)
		}
	}
	slices.SortFunc(departed, netip.AddrPort.Compare)
	slices.SortFunc(joined, netip.AddrPort.Compare)
	all = make([]netip.AddrPort, 0, f.size)
	d, j := departed, joined
	for _, e := range f.list {
		if len(d) > 0 && d[0] == e {
			d = d[1:]
			continue
		}
		for len(j) > 0 && j[0].Compare(e) < 0 {
			all, j = append(all, j[0]), j[1:]
		}
		all = append(all, e)
	}
	return departed, joined, append(all, j...)
}

// own returns the own endpoints that trackers have reported, sorted. If withLocal is true, the result
// includes the local ends of connections for which the tracker has not reported an endpoint yet.
func (f *follower) own(withLocal bool) []netip.AddrPort {
	var own []netip.AddrPort
	for _, s := range f.sources {
		if s.you.Port() != 0 {
			own = append(own, s.you)
		}
		if withLocal && s.local.Port() != 0 {
			own = append(own, s.local)
		}
	}
	slices.SortFunc(own, netip.AddrPort.Compare)
	return slices.Compact(own)
}

// setOwn replaces an own endpoint: field is the you or the local of a source. The roster of a source
// that is away may have the old endpoint as a peer. setOwn removes it there.
func (f *follower) setOwn(field *netip.AddrPort, e netip.AddrPort) {
	if *field == e {
		return
	}
	old := *field
	*field = e
	for _, s := range f.sources {
		if s.state == away {
			s.roster.remove(old)
		}
	}
	f.recheck(old)
	f.recheck(e)
}

// record makes a change with mu held, and wakes the loop.
func (f *follower) record(change func(now time.Time)) {
	f.mu.Lock()
	change(time.Now())
	if f.afterChange != nil {
		f.afterChange()
	}
	f.mu.Unlock()
	select {
	case f.pending <- struct{}{}:
	default:
	}
}

// recordConnection records a connection before the tracker can list a member that made it. local is
// the local end, or zero if this source only looks.
//
// Until the tracker reports the endpoint that it lists, the local end counts as an own endpoint: the
// member may already be a peer in the report of another source. After a connection from the same
// local end, the tracker lists the endpoint that it has reported before. Then the local end does not
// count, since behind a NAT it may be the endpoint of another peer.
func (s *source) recordConnection(local netip.AddrPort) {
	s.follower.record(func(time.Time) {
		s.connected = true
		if local != s.from || s.you.Port() == 0 {
			s.from = local
			s.follower.setOwn(&s.local, local)
		}
	})
}

// recordReply records a reply. restarted is true if the tracker may have been restarted since the
// previous reply.
func (s *source) recordReply(reply *Reply, restarted bool) {
	s.follower.record(func(now time.Time) {
		if restarted || s.epoch != "" {
			s.roster.restarted()
		}
		s.roster.recordTTL(cmp.Or(reply.TTL, reply.Interval*5/2))
		s.reply, s.epoch, s.tableBegan = reply, "", time.Time{}
		s.markUp(reply.You, now)
		s.roster.update(reply.Peers, reply.Coverage(), now)
	})
}

// recordList records the list of peers with which a stream begins. epoch is "", and ttl and age are 0, if
// the tracker has sent none.
func (s *source) recordList(epoch string, ttl, age time.Duration, you netip.AddrPort, peers []netip.AddrPort) {
	s.follower.record(func(now time.Time) {
		if epoch == "" || epoch != s.epoch {
			s.roster.restarted()
		}
		s.roster.recordTTL(ttl)
		s.reply, s.epoch, s.tableBegan = nil, epoch, time.Time{}
		if age > 0 {
			s.tableBegan = now.Add(-age)
		}
		s.markUp(you, now)
		s.roster.update(peers, 1, now)
	})
}

// recordJoins records peers that have joined, as the stream reports.
func (s *source) recordJoins(peers []netip.AddrPort) {
	s.follower.record(func(time.Time) {
		for _, e := range peers {
			s.roster.add(e)
		}
	})
}

// recordLeaves records peers that have left, as the stream reports. The report is true of the whole
// tracker, so recordLeaves removes these peers from its other sources that are away, too.
func (s *source) recordLeaves(peers []netip.AddrPort) {
	s.follower.record(func(time.Time) {
		for _, e := range peers {
			for _, other := range s.tracker.sources {
				if other == s || other.state == away {
					other.roster.remove(e)
				}
			}
		}
	})
}

// recordShared records whether another process is listed as the same endpoint e.
func (s *source) recordShared(e netip.AddrPort, shared bool) {
	s.follower.record(func(time.Time) {
		if shared && !s.shared {
			s.cameSecond = s.state != up
			s.tracker.unreported = &SharedError{e}
		}
		s.shared = shared
	})
}

// recordStreamEnd records that a stream has ended. There is nothing to report if the next request
// succeeds.
func (s *source) recordStreamEnd() {
	s.follower.record(func(now time.Time) { s.markAway(now) })
}

// recordFailure records that a request has failed. The failure is reported when all sources of the
// tracker are away.
func (s *source) recordFailure(err error) {
	s.follower.record(func(now time.Time) {
		s.markAway(now)
		s.err = err
		t := s.tracker
		for _, other := range t.sources {
			if other.state != away {
				return
			}
			// If the other source has no error, its stream has only just ended. Then an error that
			// says little about the tracker is not reported.
			if detail(other.err) > detail(err) {
				err = other.err
			}
		}
		t.unreported, t.lastErr, t.failed, t.back = err, err, true, false
		t.final = !t.accepted && isFinal(err)
	})
}

// markUp records that a request has succeeded. you is the own endpoint as the tracker reports it, or
// zero.
func (s *source) markUp(you netip.AddrPort, now time.Time) {
	if s.state != up {
		s.state, s.since = up, now
	}
	f, t := s.follower, s.tracker
	if f.firstUntil.IsZero() {
		f.first, f.firstUntil = t, now.Add(connectWait)
	}
	t.latest, t.accepted, t.final = s, true, false
	t.back = t.back || t.failed
	t.failed = false
	if you.Port() != 0 {
		f.setOwn(&s.you, you)
		f.setOwn(&s.local, netip.AddrPort{})
	}
}

func (s *source) markAway(now time.Time) {
	if s.state != away {
		s.state, s.since = away, now
	}
	s.shared = false
}

// otherIsUp reports whether another source of this tracker is up.
func (s *source) otherIsUp() bool {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	return s.otherIsUpLocked()
}

// otherIsUpLocked is otherIsUp for a caller that holds mu.
func (s *source) otherIsUpLocked() bool {
	return slices.ContainsFunc(s.tracker.sources, func(o *source) bool { return o != s && o.state == up })
}

// firstEventAfter returns the time until which the first event waits for other sources. Zero means
// that it need not wait. A source that has connected gets more time if another source of its
// tracker is up.
func (f *follower) firstEventAfter(now time.Time) time.Time {
	for _, s := range f.sources {
		until := f.firstUntil
		if s.connected && s.otherIsUpLocked() {
			until = until.Add(answerWait - connectWait)
		}
		if s.state == waiting && now.Before(until) {
			return until
		}
	}
	return time.Time{}
}

// A timer that is later than overdue shows that this process was suspended.
const overdue = 500 * time.Millisecond

// expire removes the peers that no longer count, and returns when to call it again. A process that
// was suspended first reads what has arrived since then.
func (f *follower) expire(now time.Time) (next time.Time) {
	if !f.expires.IsZero() && now.Sub(f.expires) > overdue {
		f.resumed = now
	}
	if caughtUp := f.resumed.Add(2 * catchUp); now.Before(caughtUp) {
		f.expires = caughtUp
		return caughtUp
	}
	for _, s := range f.sources {
		due := s.givenUpAt()
		switch {
		case s.state == up && s.reply == nil: // a stream reports every peer that joins again
			s.roster.endGrace(now)
			due = s.roster.due
		case !due.IsZero() && !due.After(now):
			for e := range s.roster.peers {
				s.roster.remove(e)
			}
			// If another source is up, the tracker may still list this member and report it there.
			if !s.otherIsUpLocked() {
				f.setOwn(&s.you, netip.AddrPort{})
				f.setOwn(&s.local, netip.AddrPort{})
			}
			due = time.Time{}
		}
		if !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	f.expires = next
	return next
}

// givenUpAt returns when the peers of a source that is away stop counting: when another source, of
// any tracker, has been up for one grace while this one was away. Zero means that no such time is
// known.
func (s *source) givenUpAt() time.Time {
	if s.state != away || len(s.roster.peers) == 0 && !s.you.IsValid() {
		return time.Time{}
	}
	var from time.Time // the start of the grace
	for _, other := range s.follower.sources {
		if other.state == up && (from.IsZero() || other.since.Before(from)) {
			from = other.since
		}
	}
	if from.IsZero() {
		return from
	}
	if from.Before(s.since) {
		from = s.since
	}
	return from.Add(s.roster.grace())
}

// allFinal reports whether no tracker will ever accept a request, and returns the errors of all.
func (f *follower) allFinal() (final bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, t := range f.trackers {
		if !t.final {
			return false, nil
		}
		errs = append(errs, t.lastErr)
	}
	if len(errs) == 1 {
		return true, errs[0]
	}
	return true, errors.Join(errs...)
}
