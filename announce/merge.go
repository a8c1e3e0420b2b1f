package announce

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// gathering is how long the first event waits for the other trackers and families once one has
// told: as long as a dialler waits for its other family (RFC 8305).
const gathering = 300 * time.Millisecond

// merged is what a watch has been told by all its trackers. Sessions put in, and the watch takes
// out the difference to what it has told.
type follower struct {
	wake chan struct{} // there may be something to take
	mu   sync.Mutex
	// moment, which may be nil, is called after every single change, with mu held: take only gives
	// the sum of several. present is how many peers there are then, as everyone lists them.
	moment  func()
	present int
	sites   []*trackerSources
	known   map[netip.AddrPort]int // by how many sources
	own     map[netip.AddrPort]int // by how many sources
	you     []netip.AddrPort       // own endpoints as told last

	next    time.Time // when expire is to look again; zero: nothing waits for that
	resumed time.Time // when it looked too late, as after a stop of the process

	began  bool
	first  *trackerSources // who told first
	gather time.Time       // until when the first event waits for the others
	told   map[netip.AddrPort]struct{}
	dirty  map[netip.AddrPort]struct{} // told otherwise than they are
	list   []netip.AddrPort            // told, sorted
}

// site is one tracker of them.
type trackerSources struct {
	m       *follower
	tracker Tracker
	sources []*source
	last    *source // who told last who is there
	err     error   // to be told
	failed  bool    // told, or to be
	back    bool    // answers again, which is to be told
}

// route is one way to it: by one address family. Each has a view of its own, since a tracker tells
// everybody what his address may be given.
type source struct {
	site       *trackerSources
	roster     roster
	state      sourceState
	since      time.Time      // of that state
	err        error          // why it is away
	unsure     error          // why the tracker may still list it after the end
	reply      *Reply         // the last one; nil on a stream
	epoch      string         // of the run of the tracker that told last, "" where it does not name it
	reached    bool           // has had a connection
	shared     bool           // another program is listed as the same endpoint
	late       bool           // and was before
	from       netip.AddrPort // where the last connection of a member came from
	you, local netip.AddrPort // own endpoints: as the tracker sees it, and from until it has told that
}

type sourceState uint8

const (
	waiting sourceState = iota
	up
	away
)

// news is one turn of a watch's loop.
type news struct {
	event Event
	err   error
}

func newFollower() *follower {
	return &follower{
		wake:  make(chan struct{}, 1),
		known: make(map[netip.AddrPort]int),
		own:   make(map[netip.AddrPort]int),
		told:  make(map[netip.AddrPort]struct{}),
		dirty: make(map[netip.AddrPort]struct{}),
	}
}

func (m *follower) add(t Tracker) *trackerSources {
	s := &trackerSources{m: m, tracker: t}
	m.sites = append(m.sites, s)
	return s
}

func (s *trackerSources) add() *source {
	r := &source{site: s, since: time.Now()}
	r.roster.notify = func(e netip.AddrPort, there bool) { s.m.count(s.m.known, e, there) }
	s.sources = append(s.sources, r)
	return r
}

// count counts one more, or one less, for e.
func (m *follower) count(in map[netip.AddrPort]int, e netip.AddrPort, more bool) {
	before := m.there(e)
	if more {
		in[e]++
	} else if in[e]--; in[e] == 0 {
		delete(in, e)
	}
	there := m.there(e)
	switch {
	case there && !before:
		m.present++
	case before && !there:
		m.present--
	}
	if _, told := m.told[e]; told != there {
		m.dirty[e] = struct{}{}
	} else {
		delete(m.dirty, e)
	}
}

// everyone lists the peers that are there at this moment, sorted.
func (m *follower) everyone() []netip.AddrPort {
	list := make([]netip.AddrPort, 0, m.present+1)
	for e := range m.known {
		if m.there(e) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

func (m *follower) there(e netip.AddrPort) bool { return m.known[e] > 0 && m.own[e] == 0 }

// mine replaces an own endpoint. Routes that are away may have known the old one as a peer.
func (m *follower) mine(at *netip.AddrPort, e netip.AddrPort) {
	if *at == e {
		return
	}
	if at.Port() != 0 {
		m.count(m.own, *at, false)
		for _, s := range m.sites {
			for _, r := range s.sources {
				if r.state == away {
					r.roster.remove(*at)
				}
			}
		}
	}
	*at = e
	if at.Port() != 0 {
		m.count(m.own, *at, true)
	}
}

// change lets f change what is known, and wakes the watch.
func (m *follower) change(f func(now time.Time)) {
	m.mu.Lock()
	f(time.Now())
	if m.moment != nil {
		m.moment()
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// connected takes in a connection, and where that of a member comes from, before the tracker can
// list it. Not every tracker tells what it sees, and another route may be told of this one first.
// One that has told what it sees will see the same again from there: behind a NAT, another peer may
// be there.
func (r *source) connected(local netip.AddrPort) {
	r.site.m.change(func(time.Time) {
		r.reached = true
		if local != r.from || r.you.Port() == 0 {
			r.from = local
			r.site.m.mine(&r.local, local)
		}
	})
}

// replied takes in a reply; restarted says that the tracker may have been since the last one.
func (r *source) replied(reply *Reply, restarted bool) {
	r.site.m.change(func(now time.Time) {
		if restarted || r.epoch != "" {
			r.roster.restarted()
		}
		r.roster.ttl = cmp.Or(reply.TTL, reply.Interval*5/2)
		r.reply, r.epoch = reply, ""
		r.is(up, now)
		r.sees(reply.You)
		r.roster.update(reply.Peers, reply.Coverage(), now)
	})
}

// listed takes in who is there as a stream begins.
func (r *source) listed(epoch string, you netip.AddrPort, peers []netip.AddrPort) {
	r.site.m.change(func(now time.Time) {
		if epoch == "" || epoch != r.epoch {
			r.roster.restarted()
		}
		r.reply, r.epoch = nil, epoch
		r.is(up, now)
		r.sees(you)
		r.roster.update(peers, 1, now)
	})
}

// changed takes in that a peer has joined, or left: also by the sources that are away, since it is
// the tracker that says so.
func (r *source) changed(peers []netip.AddrPort, joined bool) {
	r.site.m.change(func(time.Time) {
		for _, e := range peers {
			if joined {
				r.roster.add(e)
				continue
			}
			for _, o := range r.site.sources {
				if o == r || o.state == away {
					o.roster.remove(e)
				}
			}
		}
	})
}

// spare says that another route leads to the tracker.
func (r *source) spare() bool {
	r.site.m.mu.Lock()
	defer r.site.m.mu.Unlock()
	return r.other()
}

func (r *source) other() bool {
	return slices.ContainsFunc(r.site.sources, func(o *source) bool { return o != r && o.state == up })
}

// sharing takes in that another program is listed as e, too, or no longer.
func (r *source) sharing(e netip.AddrPort, shared bool) {
	r.site.m.change(func(time.Time) {
		if shared && !r.shared {
			r.late = r.state != up
			r.site.err = &SharedError{e}
		}
		r.shared = shared
	})
}

// lost takes in that a stream has ended, which is no news by itself.
func (r *source) lost() {
	r.site.m.change(func(now time.Time) { r.is(away, now) })
}

// failed takes in that a request has. That is news once no route leads to the tracker.
func (r *source) failed(err error) {
	r.site.m.change(func(now time.Time) {
		r.is(away, now)
		r.err = err
		s := r.site
		for _, other := range s.sources {
			if other.state != away {
				return
			}
			if telling(other.err) > telling(err) {
				err = other.err
			}
		}
		s.err, s.failed, s.back = err, true, false
	})
}

// is changes the state of a route.
func (r *source) is(state sourceState, now time.Time) {
	if r.state != state {
		r.state, r.since = state, now
	}
	if state == away {
		r.shared = false
		return
	}
	s, m := r.site, r.site.m
	s.last = r
	if m.gather.IsZero() {
		m.first, m.gather = s, now.Add(gathering)
	}
	s.back = s.back || s.failed
	s.failed = false
}

// sees takes in the own endpoint, where the tracker has told it.
func (r *source) sees(you netip.AddrPort) {
	if m := r.site.m; you.Port() != 0 {
		m.mine(&r.you, you)
		m.mine(&r.local, netip.AddrPort{})
	}
}

// take returns what is to be told, and when there may be more by then.
func (m *follower) take(now time.Time) (told []news, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sites {
		if s.err != nil {
			told = append(told, news{Event{Tracker: s.tracker}, s.err})
			s.err = nil
		}
	}
	if !m.began {
		if next = m.gathered(now); !next.IsZero() || m.first == nil {
			return told, next
		}
		if m.moment != nil {
			m.moment() // which has waited for the other families, too
		}
	}
	next = m.expire(now)
	var left, joined []netip.AddrPort
	for e := range m.dirty {
		if m.there(e) {
			m.told[e] = struct{}{}
			joined = append(joined, e)
		} else {
			delete(m.told, e)
			left = append(left, e)
		}
	}
	clear(m.dirty)
	slices.SortFunc(left, netip.AddrPort.Compare)
	slices.SortFunc(joined, netip.AddrPort.Compare)
	m.list = merge(m.list, left, joined)
	var events []Event
	if you := m.endpoints(); !slices.Equal(you, m.you) || !m.began {
		m.you = you
		events = append(events, m.first.event())
	}
	for _, s := range m.sites {
		if s.back && (len(events) == 0 || s != m.first) {
			events = append(events, s.event())
		}
		s.back = false
	}
	if m.began {
		for _, e := range left {
			events = append(events, Event{Type: EventLeave, Peer: e})
		}
		for _, e := range joined {
			events = append(events, Event{Type: EventJoin, Peer: e})
		}
	}
	m.began = true
	for _, ev := range events {
		ev.Peers, ev.You = m.list, m.you
		told = append(told, news{event: ev})
	}
	return told, next
}

// merge is list without those who have left and with those who have joined; all are sorted. Events
// share list: where something has changed it is a new one.
func merge(list, left, joined []netip.AddrPort) []netip.AddrPort {
	if len(left)+len(joined) == 0 {
		return list
	}
	merged := make([]netip.AddrPort, 0, len(list)+len(joined))
	for _, e := range list {
		if len(left) > 0 && left[0] == e {
			left = left[1:]
			continue
		}
		for len(joined) > 0 && joined[0].Compare(e) < 0 {
			merged, joined = append(merged, joined[0]), joined[1:]
		}
		merged = append(merged, e)
	}
	return append(merged, joined...)
}

func (s *trackerSources) event() Event {
	ev := Event{Type: EventPeers, Tracker: s.tracker}
	if s.last.reply != nil {
		reply := *s.last.reply
		reply.SetSelf(slices.Collect(maps.Keys(s.m.own))) // of all families, as Endpoints may not be
		ev.Reply = &reply
	}
	return ev
}

// gathered returns until when the first event still waits; zero if for nothing. A tracker that has
// answered over one family is given longer over another that has connected.
func (m *follower) gathered(now time.Time) time.Time {
	for _, s := range m.sites {
		for _, r := range s.sources {
			until := m.gather
			if r.reached && r.other() {
				until = until.Add(answering - gathering)
			}
			if r.state == waiting && now.Before(until) {
				return until
			}
		}
	}
	return time.Time{}
}

// expire drops what is known no more, and returns when to look again. A process that was stopped
// first reads what has come meanwhile.
func (m *follower) expire(now time.Time) (next time.Time) {
	if !m.next.IsZero() && now.Sub(m.next) > late {
		m.resumed = now
	}
	if caught := m.resumed.Add(2 * catchUp); now.Before(caught) {
		m.next = caught
		return caught
	}
	defer func() { m.next = next }()
	for _, s := range m.sites {
		for _, r := range s.sources {
			due := r.due()
			switch {
			case r.state == up && r.reply == nil: // a stream tells every return
				r.roster.expire(now)
				due = r.roster.due
			case !due.IsZero() && !due.After(now):
				for e := range r.roster.peers {
					r.roster.remove(e)
				}
				if !r.other() { // or the tracker may list it still, and tell the other route
					m.mine(&r.you, netip.AddrPort{})
					m.mine(&r.local, netip.AddrPort{})
				}
				due = time.Time{}
			}
			if !due.IsZero() && (next.IsZero() || due.Before(next)) {
				next = due
			}
		}
	}
	return next
}

// due is when a route that is away no longer counts: once another, to this tracker or any, has been
// there for a ttl without it. Zero: it counts for as long as it likes.
func (r *source) due() time.Time {
	if r.state != away || len(r.roster.peers) == 0 && !r.you.IsValid() {
		return time.Time{}
	}
	var with time.Time // since when there is another one
	for _, s := range r.site.m.sites {
		for _, other := range s.sources {
			if other.state == up && (with.IsZero() || other.since.Before(with)) {
				with = other.since
			}
		}
	}
	if with.IsZero() {
		return with
	}
	if with.Before(r.since) {
		with = r.since
	}
	return with.Add(r.roster.grace())
}

// unsure is why trackers may still list who has left, one error for each.
func (m *follower) unsure() error {
	var errs []error
	for _, s := range m.sites {
		for _, r := range s.sources {
			if r.unsure != nil {
				errs = append(errs, r.unsure)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// failure is why no tracker is asked any more, one error for each.
func (m *follower) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, s := range m.sites {
		for _, r := range s.sources {
			if r.err != nil {
				errs = append(errs, r.err)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// endpoints are the own ones.
func (m *follower) endpoints() []netip.AddrPort {
	var you []netip.AddrPort
	for _, s := range m.sites {
		for _, r := range s.sources {
			if r.you.Port() != 0 {
				you = append(you, r.you)
			}
		}
	}
	slices.SortFunc(you, netip.AddrPort.Compare)
	return slices.Compact(you)
}
