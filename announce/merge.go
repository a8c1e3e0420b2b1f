package announce

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A follower puts together what all sources of a watch report: a peer is there if any source has it.
// Sessions record changes in it, and the loop in watch.go takes out the sum of the changes.
type follower struct {
	pending chan struct{} // holds a token while the loop may have something to take out
	mu      sync.Mutex    // guards the rest, and the sources
	// afterChange is called after every single change, with mu held. The loop sees only the sum of
	// several. It may be nil.
	afterChange func()
	trackers    []*trackerSources
	sources     []*source // those of all trackers
	size        int       // how many peers are there
	expires     time.Time // when to call expire next; zero if nothing is to expire
	resumed     time.Time // when this process went on after it was stopped

	// The rest is for the loop.
	begun      bool                        // the first event was reported
	first      *trackerSources             // the first tracker that answered
	firstUntil time.Time                   // until then the first event waits for other sources
	list       []netip.AddrPort            // the peers as last reported, sorted
	changed    map[netip.AddrPort]struct{} // the peers whose presence differs from the list
	you        []netip.AddrPort            // own endpoints as last reported
}

// A trackerSources is one tracker, with its sources and with what is to be reported about it.
type trackerSources struct {
	name     Tracker
	sources  []*source
	latest   *source // the source that answered last
	accepted bool    // a request has succeeded
	cause    error   // why it last failed; nil if it never did
	final    bool    // no request has succeeded, and none will
	err      error   // to be reported
	failed   bool    // err was reported, or will be
	back     bool    // it answers again; this is to be reported
}

// A source is one tracker over one address family. Each has a roster of its own, since a tracker
// reports only those peers whose addresses are of use to the asker's address.
type source struct {
	follower  *follower
	tracker   *trackerSources
	roster    roster
	state     sourceState
	since     time.Time // since when it is in this state
	err       error     // why it is away
	reply     *Reply    // the last one; nil on a stream
	epoch     string    // identifies the run of the tracker; "" if the tracker reports none
	connected bool      // has had a connection
	shared    bool      // another process is listed as the same endpoint
	// cameSecond is true if the other process was listed first.
	cameSecond bool
	from       netip.AddrPort // the local end of a member's last connection
	// The own endpoint. you is what the tracker reports; until then local counts, the local end of
	// the connection.
	you, local netip.AddrPort
}

type sourceState uint8

const (
	waiting sourceState = iota // for the first answer
	up
	away
)

func newFollower() *follower {
	return &follower{pending: make(chan struct{}, 1), changed: make(map[netip.AddrPort]struct{})}
}

func (f *follower) addTracker(t Tracker) *trackerSources {
	ts := &trackerSources{name: t}
	f.trackers = append(f.trackers, ts)
	return ts
}

func (f *follower) addSource(t *trackerSources) *source {
	s := &source{follower: f, tracker: t, since: time.Now()}
	s.roster.notify = f.recheck
	t.sources = append(t.sources, s)
	f.sources = append(f.sources, s)
	return s
}

// isPresent reports whether any source has e as a peer, and none as an own endpoint.
func (f *follower) isPresent(e netip.AddrPort) (there bool) {
	for _, s := range f.sources {
		if s.you == e || s.local == e {
			return false
		}
		there = there || s.roster.peers[e] != nil
	}
	return there
}

// recheck looks whether e is there, after a change to it.
func (f *follower) recheck(e netip.AddrPort) {
	_, listed := slices.BinarySearchFunc(f.list, e, netip.AddrPort.Compare)
	_, changed := f.changed[e]
	was, there := listed != changed, f.isPresent(e)
	if there == was {
		return
	}
	if there {
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

// changes returns the peers that have left or joined since the last report, and all that are there
// at this moment. Each list is sorted. Events share the list of all, so a change makes a new one.
func (f *follower) changes() (left, joined, all []netip.AddrPort) {
	if len(f.changed) == 0 {
		return nil, nil, f.list
	}
	for e := range f.changed {
		if f.isPresent(e) {
			joined = append(joined, e)
		} else {
			left = append(left, e)
		}
	}
	slices.SortFunc(left, netip.AddrPort.Compare)
	slices.SortFunc(joined, netip.AddrPort.Compare)
	all = make([]netip.AddrPort, 0, f.size)
	l, j := left, joined
	for _, e := range f.list {
		if len(l) > 0 && l[0] == e {
			l = l[1:]
			continue
		}
		for len(j) > 0 && j[0].Compare(e) < 0 {
			all, j = append(all, j[0]), j[1:]
		}
		all = append(all, e)
	}
	return left, joined, append(all, j...)
}

// own returns the own endpoints that trackers have reported, sorted. If connected is true, it adds the
// local ends of connections for which no tracker has reported an endpoint yet.
func (f *follower) own(connected bool) []netip.AddrPort {
	var own []netip.AddrPort
	for _, s := range f.sources {
		if s.you.Port() != 0 {
			own = append(own, s.you)
		}
		if connected && s.local.Port() != 0 {
			own = append(own, s.local)
		}
	}
	slices.SortFunc(own, netip.AddrPort.Compare)
	return slices.Compact(own)
}

// setOwn replaces one own endpoint. Sources that are away may still have the old one as a peer.
func (f *follower) setOwn(at *netip.AddrPort, e netip.AddrPort) {
	if *at == e {
		return
	}
	old := *at
	*at = e
	for _, s := range f.sources {
		if s.state == away {
			s.roster.remove(old)
		}
	}
	f.recheck(old)
	f.recheck(e)
}

// record makes a change, and lets the loop take it out.
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

// noteConnected records a connection, and its local end if a member made it, before the tracker can
// list the member. Until the tracker reports the endpoint that it lists, the local end counts as an
// own endpoint, since another source may report this member as a peer. A tracker that has reported
// an endpoint lists the same one again for the same local end. Then the local end does not count:
// behind a NAT it may be another peer's endpoint.
func (s *source) noteConnected(local netip.AddrPort) {
	s.follower.record(func(time.Time) {
		s.connected = true
		if local != s.from || s.you.Port() == 0 {
			s.from = local
			s.follower.setOwn(&s.local, local)
		}
	})
}

// replied records a reply. restarted says that the tracker may have been restarted since the last
// one.
func (s *source) replied(reply *Reply, restarted bool) {
	s.follower.record(func(now time.Time) {
		if restarted || s.epoch != "" {
			s.roster.restarted()
		}
		s.roster.ttl = cmp.Or(reply.TTL, reply.Interval*5/2)
		s.reply, s.epoch = reply, ""
		s.markUp(reply.You, now)
		s.roster.update(reply.Peers, reply.Coverage(), now)
	})
}

// listed records the list of peers with which a stream begins.
func (s *source) listed(epoch string, you netip.AddrPort, peers []netip.AddrPort) {
	s.follower.record(func(now time.Time) {
		if epoch == "" || epoch != s.epoch {
			s.roster.restarted()
		}
		s.reply, s.epoch = nil, epoch
		s.markUp(you, now)
		s.roster.update(peers, 1, now)
	})
}

// joined records the peers that the stream has reported to join.
func (s *source) joined(peers []netip.AddrPort) {
	s.follower.record(func(time.Time) {
		for _, e := range peers {
			s.roster.add(e)
		}
	})
}

// departed records the peers that the stream has reported to leave. It is the tracker that says so:
// they have also left its other sources that are away.
func (s *source) departed(peers []netip.AddrPort) {
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

// shares records whether another program is listed as e, too.
func (s *source) shares(e netip.AddrPort, shared bool) {
	s.follower.record(func(time.Time) {
		if shared && !s.shared {
			s.cameSecond = s.state != up
			s.tracker.err = &SharedError{e}
		}
		s.shared = shared
	})
}

// lost records that a stream has ended. That alone is nothing to report.
func (s *source) lost() {
	s.follower.record(func(now time.Time) { s.markAway(now) })
}

// failed records that a request has failed. That is reported once all sources of the tracker are away.
func (s *source) failed(err error) {
	s.follower.record(func(now time.Time) {
		s.markAway(now)
		s.err = err
		t := s.tracker
		for _, other := range t.sources {
			if other.state != away {
				return
			}
			// Without an error, the stream of the other has only just ended. Then there is no news yet.
			if detail(other.err) > detail(err) {
				err = other.err
			}
		}
		t.err, t.cause, t.failed, t.back = err, err, true, false
		t.final = !t.accepted && isFinal(err)
	})
}

// markUp records that the tracker answers, and the own endpoint if the tracker has reported it.
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

// hasSpare reports whether another source of this tracker is up.
func (s *source) hasSpare() bool {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	return s.otherIsUp()
}

func (s *source) otherIsUp() bool {
	return slices.ContainsFunc(s.tracker.sources, func(o *source) bool { return o != s && o.state == up })
}

// waitsUntil returns until when the first event waits for other sources, or zero if it need not
// wait. A source that has connected gets longer if the tracker has answered over another family.
func (f *follower) waitsUntil(now time.Time) time.Time {
	for _, s := range f.sources {
		until := f.firstUntil
		if s.connected && s.otherIsUp() {
			until = until.Add(answerWait - connectWait)
		}
		if s.state == waiting && now.Before(until) {
			return until
		}
	}
	return time.Time{}
}

// overdue is how late a timer has to be to show that this process was stopped meanwhile.
const overdue = 500 * time.Millisecond

// expire removes the peers that no longer count, and returns when to call it again. A process that
// was stopped reads first what has arrived meanwhile.
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
			if !s.otherIsUp() { // else the tracker may still list it, and report it to the other source
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

// givenUpAt returns when a source that is away stops counting: once another source, of any tracker,
// has been up for a ttl meanwhile. Zero means that no such time is known.
func (s *source) givenUpAt() time.Time {
	if s.state != away || len(s.roster.peers) == 0 && !s.you.IsValid() {
		return time.Time{}
	}
	var with time.Time // since when another one is up
	for _, other := range s.follower.sources {
		if other.state == up && (with.IsZero() || other.since.Before(with)) {
			with = other.since
		}
	}
	if with.IsZero() {
		return with
	}
	if with.Before(s.since) {
		with = s.since
	}
	return with.Add(s.roster.grace())
}

// isOver reports whether every tracker refuses for good, and returns their errors.
func (f *follower) isOver() (over bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var causes []error
	for _, t := range f.trackers {
		if !t.final {
			return false, nil
		}
		causes = append(causes, t.cause)
	}
	if len(causes) == 1 {
		return true, causes[0]
	}
	return true, errors.Join(causes...)
}
