package announce

import (
	"cmp"
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
	reply   *Reply // the last one; nil of a stream
	err     error  // to be told
	failed  bool   // told, or to be
	back    bool   // answers again, which is to be told
}

// route is one way to it: by one address family.
type route struct {
	site       *site
	state      routeState
	since      time.Time      // of that state
	err        error          // why it is away
	you, local netip.AddrPort // own endpoints: as the tracker sees it, and as the system does
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
		s := r.site
		r.is(up, now)
		if reply.You.Port() != 0 {
			r.sees(reply.You)
		}
		if s.source != r {
			return
		}
		s.reply = reply
		if s.view.ttl = reply.TTL; reply.TTL == 0 {
			s.view.ttl = reply.Interval * 5 / 2
		}
		if restarted {
			s.view.restarted()
		}
		peers := make([]netip.AddrPort, len(reply.Peers))
		for i, p := range reply.Peers {
			peers[i] = p.Endpoint
		}
		s.view.update(peers, reply.share(), now)
	})
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

// telling ranks errors of routes to one tracker by how much they say about it.
func telling(err error) int {
	return 0
}

// is changes the state of a route, and with it whose word counts.
func (r *route) is(state routeState, now time.Time) {
	if r.state != state {
		r.state, r.since = state, now
	}
	s, m := r.site, r.site.m
	if state != up {
		return
	}
	if s.source == nil || s.source.state != up {
		s.source = r
	}
	if m.gather.IsZero() {
		m.first, m.gather = s, now.Add(gathering)
	}
	s.back = s.back || s.failed
	s.failed = false
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
	var changes []Event
	for e := range m.dirty {
		if m.there(e) {
			m.told[e] = struct{}{}
			changes = append(changes, Event{Type: EventJoin, Peer: e})
		} else {
			delete(m.told, e)
			changes = append(changes, Event{Type: EventLeave, Peer: e})
		}
	}
	if len(m.dirty) > 0 {
		clear(m.dirty)
		m.list = make([]netip.AddrPort, 0, len(m.told))
		for e := range m.told {
			m.list = append(m.list, e)
		}
		slices.SortFunc(m.list, netip.AddrPort.Compare)
	}
	slices.SortFunc(changes, func(a, b Event) int {
		return cmp.Or(-cmp.Compare(a.Type, b.Type), a.Peer.Compare(b.Peer)) // leaves first
	})
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
		events = append(events, changes...)
	}
	m.began = true
	for _, ev := range events {
		ev.Peers, ev.You = m.list, m.you
		told = append(told, news{event: ev})
	}
	return told, next
}

func (s *site) event() Event { return Event{Type: EventPeers, Tracker: s.tracker, Reply: s.reply} }

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
		if !due.IsZero() && !due.After(now) {
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
