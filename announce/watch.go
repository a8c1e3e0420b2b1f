package announce

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// How a change reaches a program:
//
// Each source, which is one tracker over one address family, has a session (session.go). A session
// runs in a goroutine of its own. It reads the tracker's event stream, or polls, and records changes
// in the roster of its source (roster.go), which the follower counts (merge.go). One loop, below,
// reports to the program. It runs in the goroutine that iterates over Watch, or in one of Join.
//
// The loop takes out the sum of all changes since it last looked. This is the only place where
// changes are combined: a peer that joins and leaves in between is not reported. So a slow program
// holds no session up, and no queue can overflow.

// An EventType says what kind of change an [Event] is.
type EventType string

// The types of events.
const (
	// EventPeers is the list of peers. It is the first event of all, the first of a tracker that
	// answers again after an error, and the first after your own endpoints have changed.
	EventPeers EventType = "peers"
	EventJoin  EventType = "join"
	EventLeave EventType = "leave"
)

// An Event is a change to a track.
type Event struct {
	Type EventType
	// Tracker has answered, with EventPeers, or has failed, next to an error. Else it is zero.
	Tracker Tracker
	// Peer has joined or left.
	Peer netip.AddrPort
	// Peers are all peers but you, sorted, with all changes that are known at this moment.
	// Events share the list: do not change it.
	Peers []netip.AddrPort
	// You are your own endpoints as trackers have reported them, sorted. It is empty if you only
	// look. There are several with several trackers, or if a tracker is reached over both families.
	// Events share the list: do not change it.
	You []netip.AddrPort
	// Reply is, with EventPeers, the tracker's last reply, with its interval, ttl, count and warning.
	// It is nil if the tracker has sent an event stream, which needs no renewal.
	Reply *Reply
}

// Watch iterates over the changes to the track of r.Key: first [EventPeers], then joins and leaves,
// until ctx ends or the loop is left. With r.Port 0 it only looks. Otherwise it is a member, listed
// for as long as the loop runs. At its end it leaves, and takes up to five seconds for that.
//
// It follows the event stream of each tracker, which reports every change at once. If a tracker has
// none, it polls at the tracker's interval, or as [Client.Poll] says. r.Want bounds the peers in each
// reply; 0 is as many as trackers give.
//
// An error is news and not the end, and comes with Event.Tracker. The watch tries again, less and
// less often, also if the tracker was not there at the start. But it ends after the error if every
// tracker has refused its first requests with status 400, 401 or 404, since no waiting changes that.
// A tracker that has accepted one is asked again, whatever its error. Without trackers, or without a
// key, the watch ends after one error.
//
// A leave is reported when it is certain:
//
//   - A tracker that was away or restarted may have forgotten its peers. They have one ttl to join
//     again before they count as gone (150 s if the tracker has reported no ttl).
//   - If a track is larger than a reply, as with classic trackers, each reply is a sample. A peer has
//     left once so many samples omit it that chance explains this only once in a million.
//   - Of several trackers, the first that reports a peer makes it join, and the last that had it makes
//     it leave. A tracker that is away keeps the peers that it had. Once another tracker has been
//     there for a ttl, the peers that only the absent one had have left. The two address families of
//     one tracker count as two, since they need not report the same peers.
//
// A slow loop gets the sum of the changes: a peer that joins and leaves meanwhile is not reported.
// A slow loop does not keep a member from being listed.
func (c *Client) Watch(ctx context.Context, trackers []Tracker, r Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := newFollower()
		sessions, err := c.newSessions(f, trackers, r, r.Port != 0)
		if err != nil {
			yield(Event{}, err)
			return
		}
		_, _ = f.follow(ctx, sessions, yield)
	}
}

// A Membership is a peer's stay in a track. See [Client.Join].
type Membership struct {
	follower *follower
	cancel   context.CancelFunc
	done     chan struct{}
	refused  error // why it ended by itself
	unsure   error // why a tracker may still list it
}

// Join makes you a member of the track of r.Key and returns at once. You are listed as soon as a
// tracker answers, until [Membership.Leave] is called or ctx ends: then the membership leaves. It
// does what [Client.Watch] does with a port, for programs that need no loop. r.Port 0 is the port of
// origin of the first connection. r.Want bounds the peers in each reply; NoPeers just joins.
//
// news, if it is not nil, is called for every event and every error, one at a time. It must not call
// Leave, which waits for it; it may end ctx.
//
// Join treats errors as Watch does, and waits for an absent tracker. The membership ends by itself if
// no tracker is left that could accept it: see [Membership.Err]. Join itself returns an error only if
// there are no trackers or no key.
//
// For a classic tracker, two members with one endpoint are one peer. If either leaves, this peer is
// gone until the other renews: see [Client.Shared].
func (c *Client) Join(ctx context.Context, trackers []Tracker, r Request, news func(Event, error)) (*Membership, error) {
	f := newFollower()
	sessions, err := c.newSessions(f, trackers, r, true)
	if err != nil {
		return nil, err
	}
	if news == nil {
		news = func(Event, error) {}
	}
	return f.startMembership(ctx, sessions, news), nil
}

func (f *follower) startMembership(ctx context.Context, sessions []*session, news func(Event, error)) *Membership {
	ctx, cancel := context.WithCancel(ctx)
	m := &Membership{follower: f, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		defer cancel()
		m.refused, m.unsure = f.follow(ctx, sessions, func(ev Event, err error) bool {
			news(ev, err)
			return true
		})
	}()
	return m
}

// You returns your own endpoints as trackers have reported them so far, sorted. It is empty until
// the first answer. There are several with several trackers, or with both address families.
func (m *Membership) You() []netip.AddrPort {
	m.follower.mu.Lock()
	defer m.follower.mu.Unlock()
	return m.follower.own(false)
}

// Done returns a channel that is closed once the membership has ended and has left.
func (m *Membership) Done() <-chan struct{} { return m.done }

// Err returns why the membership ended by itself. Every tracker has refused its first requests with
// status 400, 401 or 404, or does not report the port of origin while r.Port is 0. Err returns nil
// before the end, and if Leave or the context ended the membership. It joins the errors of several
// trackers.
func (m *Membership) Err() error {
	select {
	case <-m.done:
		return m.refused
	default:
		return nil
	}
}

// Leave ends the membership and waits until it has left, which takes five seconds at most. It returns
// the errors of trackers that could not be left; they forget you after the ttl. If ctx ends first,
// Leave returns its cause, and leaving goes on. So do not pass the context of Join, which may have
// ended before. You may call Leave again, to wait on or to get the same result.
func (m *Membership) Leave(ctx context.Context) error {
	m.cancel()
	select {
	case <-m.done:
		return m.unsure
	default:
	}
	select {
	case <-m.done:
		return m.unsure
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newSessions returns one session for each source. None has begun.
//
// A member is listed over each address family. A watch that only looks needs one family, except on
// classic trackers, which may report only peers of the asker's family.
func (c *Client) newSessions(f *follower, trackers []Tracker, r Request, member bool) ([]*session, error) {
	if err := r.Key.Check(); err != nil {
		return nil, err
	}
	if len(trackers) == 0 {
		return nil, errors.New("no tracker to ask: name at least one")
	}
	var sessions []*session
	for _, t := range trackers {
		if err := t.Check(); err != nil {
			return nil, err
		}
		networks := c.families(t)
		if !member && !t.Classic() {
			networks = []string{c.network}
		}
		sources := f.addTracker(t)
		for _, network := range networks {
			sessions = append(sessions, c.newSession(f.addSource(sources), r, network, member))
		}
	}
	return sessions, nil
}

// follow runs the sessions and the loop until ctx ends, yield returns false, or every tracker
// refuses for good: refused is why. It returns once all sessions have left. unsure is why trackers
// may still list a member.
func (f *follower) follow(ctx context.Context, sessions []*session, yield func(Event, error) bool) (refused, unsure error) {
	ctx, cancel := context.WithCancel(ctx)
	left := make([]error, len(sessions))
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		unsure = oneEach(sessions, left)
	}()
	for i, s := range sessions {
		running.Go(func() { left[i] = s.run(ctx) })
	}
	for {
		over, refused := f.allFinal() // first: its errors are in what take returns
		reports, next := f.take(time.Now())
		for _, r := range reports {
			if ctx.Err() != nil || !yield(r.event, r.err) {
				return nil, nil
			}
		}
		if over {
			return refused, nil
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-f.pending:
		case <-timer:
		}
	}
}

// oneEach joins the errors of sessions, one for each tracker.
func oneEach(sessions []*session, errs []error) error {
	var all []error
	var last *trackerSources
	for i, s := range sessions {
		if t := s.source.tracker; errs[i] != nil && t != last {
			all, last = append(all, errs[i]), t
		}
	}
	return errors.Join(all...)
}

// A report is an event, or an error and the tracker that failed.
type report struct {
	event Event
	err   error
}

// take returns what is to be reported, and when to call it again if nothing changes before.
func (f *follower) take(now time.Time) (all []report, next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.trackers {
		if t.unreported != nil {
			all = append(all, report{Event{Tracker: t.name}, t.unreported})
			t.unreported = nil
		}
	}
	if !f.begun {
		if next = f.firstEventAfter(now); !next.IsZero() || f.first == nil {
			return all, next
		}
		if f.afterChange != nil {
			f.afterChange() // a barrier has waited for the other sources, too
		}
	}
	next = f.expire(now)
	left, joined, list := f.changes()
	clear(f.changed)
	f.list = list
	you := f.own(false)
	moved := !f.begun || !slices.Equal(you, f.you)
	f.you = you
	add := func(ev Event) {
		ev.Peers, ev.You = f.list, f.you
		all = append(all, report{event: ev})
	}
	if moved {
		add(f.first.peersEvent())
	}
	for _, t := range f.trackers {
		if t.back && !(moved && t == f.first) {
			add(t.peersEvent())
		}
		t.back = false
	}
	if f.begun {
		for _, e := range left {
			add(Event{Type: EventLeave, Peer: e})
		}
		for _, e := range joined {
			add(Event{Type: EventJoin, Peer: e})
		}
	}
	f.begun = true
	return all, next
}

func (t *trackerSources) peersEvent() Event {
	ev := Event{Type: EventPeers, Tracker: t.name}
	if t.latest.reply != nil {
		reply := *t.latest.reply
		reply.SetSelf(t.latest.follower.own(true))
		ev.Reply = &reply
	}
	return ev
}
