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
type merged struct {
	wake  chan struct{} // there may be something to take
	mu    sync.Mutex
	sites []*site
	known map[netip.AddrPort]int // by how many sites
	own   map[netip.AddrPort]int // by how many routes
	you   []netip.AddrPort       // own endpoints as told last
	moved bool                   // you has changed since

	began  bool
	first  *site     // who told first
	gather time.Time // until when the first event waits for the others
	told   map[netip.AddrPort]struct{}
	dirty  map[netip.AddrPort]struct{} // told otherwise than they are
	list   []netip.AddrPort            // told, sorted
}

// site is one tracker of them.
type site struct {
	m       *merged
	tracker Tracker
	routes  []*route
	source  *route // whose word counts
	view    view
	epoch   string // of the run of the tracker that told last, "" where it does not name it
	err     error  // to be told
	failed  bool   // told, or to be
	back    bool   // answers again, which is to be told
}

// route is one way to it: by one address family.
type route struct {
	site       *site
	state      routeState
	since      time.Time                   // of that state
	err        error                       // why it is away
	unsure     error                       // why the tracker may still list it after the end
	reply      *Reply                      // the last one; nil on a stream
	restarted  bool                        // the tracker may have been, and its site has not been told
	epoch      string                      // of the stream
	now        map[netip.AddrPort]struct{} // told by the stream, where another route may ask for it
	you, local netip.AddrPort              // own endpoints: as the tracker sees it, and as the system does
}

type routeState uint8

const (
	waiting routeState = iota
	up
	away
)

// news is one turn of a watch's loop.
type news struct {
	event Event
	err   error
}

func newMerged() *merged {
	return &merged{
		wake:  make(chan struct{}, 1),
		known: make(map[netip.AddrPort]int),
		own:   make(map[netip.AddrPort]int),
		told:  make(map[netip.AddrPort]struct{}),
		dirty: make(map[netip.AddrPort]struct{}),
	}
}

func (m *merged) add(t Tracker) *site {
	s := &site{m: m, tracker: t}
	s.view.change = func(e netip.AddrPort, there bool) { m.count(m.known, e, there) }
	m.sites = append(m.sites, s)
	return s
}

func (s *site) add() *route {
	r := &route{site: s, since: time.Now()}
	s.routes = append(s.routes, r)
	return r
}

// count counts one more, or one less, for e.
func (m *merged) count(in map[netip.AddrPort]int, e netip.AddrPort, more bool) {
	if more {
		in[e]++
	} else if in[e]--; in[e] == 0 {
		delete(in, e)
	}
	if _, told := m.told[e]; told != m.there(e) {
		m.dirty[e] = struct{}{}
	} else {
		delete(m.dirty, e)
	}
}

func (m *merged) there(e netip.AddrPort) bool { return m.known[e] > 0 && m.own[e] == 0 }

// mine replaces an own endpoint.
func (m *merged) mine(at *netip.AddrPort, e netip.AddrPort) {
	if *at == e {
		return
	}
	if at.Port() != 0 {
		m.count(m.own, *at, false)
	}
	*at = e
	if at.Port() != 0 {
		m.count(m.own, *at, true)
	}
}

// change lets f change what is known, and wakes the watch.
func (m *merged) change(f func(now time.Time)) {
	m.mu.Lock()
	f(time.Now())
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// connected takes in where a member's connection comes from, before the tracker can list it. Not
// every tracker tells what it sees, and another route may be told of this one first.
func (r *route) connected(local netip.AddrPort) {
	r.site.m.change(func(time.Time) { r.site.m.mine(&r.local, local) })
}

// replied takes in a reply; restarted says that the tracker may have been since the last one.
func (r *route) replied(reply *Reply, restarted bool) {
	r.site.m.change(func(now time.Time) {
		r.reply, r.now = reply, nil
		r.restarted = r.restarted || restarted
		r.is(up, now)
		if reply.You.Port() != 0 {
			r.sees(reply.You)
		}
		if r.site.source == r {
			r.site.replied(now)
		}
	})
}

// replied takes in what its source has been told last.
func (s *site) replied(now time.Time) {
	r := s.source
	reply := r.reply
	if r.restarted || s.epoch != "" {
		s.view.restarted()
	}
	s.view.ttl = cmp.Or(reply.TTL, reply.Interval*5/2)
	r.restarted, s.epoch = false, ""
	peers := make([]netip.AddrPort, len(reply.Peers))
	for i, p := range reply.Peers {
		peers[i] = p.Endpoint
	}
	s.view.update(peers, reply.share(), now)
}

// listed takes in who is there as a stream begins.
func (r *route) listed(epoch string, you netip.AddrPort, peers []netip.AddrPort) {
	r.site.m.change(func(now time.Time) {
		r.reply, r.epoch, r.now = nil, epoch, make(map[netip.AddrPort]struct{})
		for _, e := range peers {
			r.know(e, true)
		}
		r.is(up, now)
		if you.Port() != 0 {
			r.sees(you)
		}
		if r.site.source == r {
			r.site.listed(peers, now)
		}
	})
}

// listed takes in all that its source has been told.
func (s *site) listed(peers []netip.AddrPort, now time.Time) {
	if r := s.source; r.epoch == "" || r.epoch != s.epoch {
		s.view.restarted()
		s.epoch = r.epoch
	}
	s.view.update(peers, 1, now)
}

// changed takes in that a peer has joined, or left.
func (r *route) changed(peers []netip.AddrPort, joined bool) {
	r.site.m.change(func(time.Time) {
		for _, e := range peers {
			r.know(e, joined)
			switch {
			case r.site.source != r:
			case joined:
				r.site.view.see(e)
			default:
				r.site.view.drop(e)
			}
		}
	})
}

// know keeps what a stream has told for the case that it becomes the source.
func (r *route) know(e netip.AddrPort, there bool) {
	switch {
	case len(r.site.routes) == 1:
	case !there:
		delete(r.now, e)
	case len(r.now) < maxWatched:
		r.now[e] = struct{}{}
	}
}

// spare says that another route leads to the tracker.
func (r *route) spare() bool {
	r.site.m.mu.Lock()
	defer r.site.m.mu.Unlock()
	return slices.ContainsFunc(r.site.routes, func(o *route) bool { return o != r && o.state == up })
}

// lost takes in that a stream has ended, which is no news by itself.
func (r *route) lost() {
	r.site.m.change(func(now time.Time) { r.is(away, now) })
}

// failed takes in that a request has. That is news once no route leads to the tracker.
func (r *route) failed(err error) {
	r.site.m.change(func(now time.Time) {
		r.is(away, now)
		r.err = err
		s := r.site
		for _, other := range s.routes {
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

// is changes the state of a route, and with it whose word counts.
func (r *route) is(state routeState, now time.Time) {
	if r.state != state {
		r.state, r.since = state, now
	}
	s, m := r.site, r.site.m
	if state == away {
		if s.source == r {
			s.hand(now)
		}
		return
	}
	if s.source == nil || s.source.state == away {
		s.source = r
	}
	if m.gather.IsZero() {
		m.first, m.gather = s, now.Add(gathering)
	}
	s.back = s.back || s.failed
	s.failed = false
}

// hand makes another route the source, where one is up.
func (s *site) hand(now time.Time) {
	for _, r := range s.routes {
		if r.state != up {
			continue
		}
		if s.source = r; r.reply != nil {
			s.replied(now)
		} else {
			s.listed(slices.Collect(maps.Keys(r.now)), now)
		}
		return
	}
}

func (r *route) sees(you netip.AddrPort) {
	m := r.site.m
	m.mine(&r.you, you)
	m.moved = true
}

// take returns what is to be told, and when there may be more by then.
func (m *merged) take(now time.Time) (told []news, next time.Time) {
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
	if you := m.endpoints(); m.moved && !slices.Equal(you, m.you) || !m.began {
		m.you = you
		events = append(events, m.first.event())
	}
	m.moved = false
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

func (s *site) event() Event {
	return Event{Type: EventPeers, Tracker: s.tracker, Reply: s.source.reply}
}

// gathered returns until when the first event still waits; zero if for nothing.
func (m *merged) gathered(now time.Time) time.Time {
	for _, s := range m.sites {
		for _, r := range s.routes {
			if r.state == waiting && now.Before(m.gather) {
				return m.gather
			}
		}
	}
	return time.Time{}
}

// expire drops what is known no more, and returns when to look again.
func (m *merged) expire(now time.Time) (next time.Time) {
	for _, s := range m.sites {
		due := s.due()
		switch r := s.source; {
		case r != nil && r.state == up && r.reply == nil: // a stream tells every return
			s.view.expire(now)
			due = s.view.due
		case !due.IsZero() && !due.After(now):
			s.view.forget()
			for _, r := range s.routes {
				m.mine(&r.you, netip.AddrPort{})
				m.mine(&r.local, netip.AddrPort{})
			}
			m.moved, due = true, time.Time{}
		}
		if !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// due is when a tracker that is away no longer counts: once another has been there for a ttl
// without it. Zero: it counts for as long as it likes.
func (s *site) due() time.Time {
	var alone, with time.Time // since when this one is away, and since when there is another one
	for _, r := range s.routes {
		if r.state != away {
			return time.Time{}
		}
		if r.since.After(alone) {
			alone = r.since
		}
	}
	for _, other := range s.m.sites {
		for _, r := range other.routes {
			if r.state == up && (with.IsZero() || r.since.Before(with)) {
				with = r.since
			}
		}
	}
	if with.IsZero() || len(s.view.peers) == 0 && !slices.ContainsFunc(s.routes, func(r *route) bool { return r.you.IsValid() }) {
		return time.Time{}
	}
	if with.After(alone) {
		alone = with
	}
	return alone.Add(s.view.grace())
}

// unsure is why trackers may still list who has left, one error for each.
func (m *merged) unsure() error {
	var errs []error
	for _, s := range m.sites {
		for _, r := range s.routes {
			if r.unsure != nil {
				errs = append(errs, r.unsure)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// endpoints are the own ones.
func (m *merged) endpoints() []netip.AddrPort {
	var you []netip.AddrPort
	for _, s := range m.sites {
		for _, r := range s.routes {
			if r.you.Port() != 0 {
				you = append(you, r.you)
			}
		}
	}
	slices.SortFunc(you, netip.AddrPort.Compare)
	return slices.Compact(you)
}
