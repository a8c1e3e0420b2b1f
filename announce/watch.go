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
// A source is one tracker over one address family. Each source has a session (session.go), which
// runs in its own goroutine. The session reads the tracker's event stream, or polls, and records
// changes in the roster of its source (roster.go). The follower combines all rosters (merge.go).
// One loop, the method follow below, reports to the program. It runs in the goroutine that iterates
// over Watch, or in a goroutine that Join starts.
//
// When the loop wakes up, it takes the sum of all changes since the last time. Several changes of one
// peer are added up only there: if a peer joins and leaves in between, the loop reports nothing. So a
// slow program does not delay a session, and there is no queue that could overflow.

// An EventType says what kind of change an [Event] is.
type EventType string

// The types of events.
const (
	// EventPeers is the whole list of peers. It is the first event. It also comes when a tracker
	// answers again after an error, and when your own endpoints have changed.
	EventPeers EventType = "peers"
	EventJoin  EventType = "join"
	EventLeave EventType = "leave"
)

// An Event is a change to a track.
type Event struct {
	Type EventType
	// Tracker is, with EventPeers, the tracker that has answered. With an error, it is the tracker
	// that has failed. Otherwise it is zero.
	Tracker Tracker
	// Peer is, with EventJoin or EventLeave, the peer that has joined or left. Otherwise it is zero.
	Peer netip.AddrPort
	// Peers are all peers that are present, without you, sorted. If several changes come together, each
	// of their events has the same list, the one after all of them. Events share the list: do not
	// change it.
	Peers []netip.AddrPort
	// You are your own endpoints as trackers have reported them, sorted. The list is empty in a watch
	// with port 0, which only looks. It has several endpoints if trackers report different ones, or if they list you over
	// both address families. Events share the list: do not change it.
	You []netip.AddrPort
	// TTL is, with EventPeers, how long Tracker lists a peer that does not announce again. It is the
	// longest time that Tracker has reported, or 150 minutes if it has reported none. With other
	// types it is 0.
	TTL time.Duration
	// Age is, with EventPeers, for how long Tracker has kept its table of peers. If that is less than
	// TTL, peers may be missing that have not announced again since the tracker was restarted. It is 0
	// if Tracker has just begun, or does not report it.
	Age time.Duration
	// Reply is, with EventPeers, the last reply of Tracker, with its interval, ttl, count and
	// warning. It is nil if the tracker has sent an event stream instead of a reply.
	Reply *Reply
}

// Watch iterates over the changes to the track of r.Key: first [EventPeers], then joins and leaves.
// The loop ends when your program breaks out of it or when ctx ends. With r.Port 0, the watch only
// looks. Otherwise it also makes you a member, which is listed for as long as the loop runs. At the
// end of the loop the member leaves, which takes up to five seconds.
//
// Watch follows the event stream of each tracker, which reports every change immediately. If a
// tracker has no event stream, Watch polls at the tracker's interval, or as often as [Client.Poll]
// says. r.Want bounds the peers in each reply; 0 is as many as trackers send.
//
// After an error, which comes with Event.Tracker, the watch tries again, less and less often. It
// does so even if the tracker has never answered. The watch ends by itself in two cases. Either there
// are no trackers, or no key. Or every tracker has refused the watch with status 400, 401 or 404, and
// has never accepted a request of it, since further requests would not change that.
//
// A peer that may still be there is not reported as having left:
//
//   - A tracker that was away or restarted may have forgotten its peers. They have one ttl to join
//     again before they count as gone. The longest ttl that the tracker has reported counts.
//   - If a track is larger than a reply, each reply is a sample. A peer counts as gone when samples have
//     omitted it so often that chance explains this only once in a million.
//   - With several trackers, a peer joins when the first of them reports it, and leaves when no tracker
//     reports it any more. A tracker that is away keeps the peers that it had. After another
//     tracker has answered for one ttl, peers that only the absent tracker had count as gone. The two
//     address families of one tracker count as two trackers, since they may report different peers.
//
// A slow loop gets the sum of the changes: if a peer joins and leaves in between, there is no
// event. A slow loop does not delay the renewals of a member.
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

// A Membership keeps your program listed in a track. [Client.Join] makes one.
type Membership struct {
	follower *follower
	cancel   context.CancelFunc
	done     chan struct{}
	refused  error // why the membership ended by itself, or nil
	leaveErr error // why trackers may still list the member, or nil
}

// Join makes you a member of the track of r.Key. It returns immediately, and trackers list you as
// soon as they answer. The membership lasts until you call [Membership.Leave] or ctx ends. Then it
// leaves. For programs that need no loop, Join does the same as [Client.Watch] with r.Port set. With
// r.Port 0, a tracker lists the port from which your first connection to it comes. To choose that
// port, set [Client.From]. r.Want bounds the peers in each reply; with NoPeers there are none.
//
// The membership calls news, unless it is nil, for every event and every error, one at a time. The
// function may end ctx, but it must not call Leave, since Leave waits until news returns.
//
// The membership treats errors as Watch does, and waits for an absent tracker. If no tracker will
// ever accept it, it ends by itself: see [Membership.Err]. Join itself returns an error only if
// there are no trackers or no key.
//
// For a classic tracker ([Tracker.Classic]), two members with the same endpoint are one peer. If one of them leaves, the
// tracker removes this peer until the other one renews: see [Client.Shared].
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

// startMembership starts the sessions and the loop in a goroutine.
func (f *follower) startMembership(ctx context.Context, sessions []*session, news func(Event, error)) *Membership {
	ctx, cancel := context.WithCancel(ctx)
	m := &Membership{follower: f, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		defer cancel()
		m.refused, m.leaveErr = f.follow(ctx, sessions, func(ev Event, err error) bool {
			news(ev, err)
			return true
		})
	}()
	return m
}

// You returns your own endpoints as trackers have reported them so far, sorted. The list is empty
// until the first answer. It has several endpoints if trackers report different ones, or if they
// list you over both address families.
func (m *Membership) You() []netip.AddrPort {
	m.follower.mu.Lock()
	defer m.follower.mu.Unlock()
	return m.follower.own(false)
}

// Done returns a channel that is closed when the membership has ended and has left.
func (m *Membership) Done() <-chan struct{} { return m.done }

// Err returns why the membership ended by itself, or nil if it has not ended, or if Leave or the
// context ended it. A membership ends by itself if every tracker has refused its first requests
// with status 400, 401 or 404. With r.Port 0 a tracker that does not report your port counts as one
// that has refused. Err joins the errors of several trackers with [errors.Join].
func (m *Membership) Err() error {
	select {
	case <-m.done:
		return m.refused
	default:
		return nil
	}
}

// Leave ends the membership and waits until it has left, which takes five seconds at most. It
// returns an error if some trackers could not be reached; they remove you after the ttl. If ctx
// ends first, Leave returns the cause of ctx, and leaving goes on. So do not pass the context of
// Join, which may have ended already. You may call Leave again, to go on waiting or to get the same
// result.
func (m *Membership) Leave(ctx context.Context) error {
	m.cancel()
	select { // first, because ctx may have ended, too
	case <-m.done:
		return m.leaveErr
	default:
	}
	select {
	case <-m.done:
		return m.leaveErr
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newSessions returns one session for each source, and does not run them.
//
// A member is listed over each address family. A watch that only looks needs only one family, except
// with classic trackers, which may report only peers of the asker's family.
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
		tracker := f.addTracker(t)
		for _, network := range networks {
			sessions = append(sessions, c.newSession(f.addSource(tracker), r, network, member))
		}
	}
	return sessions, nil
}

// follow runs the sessions and the loop until ctx ends, yield returns false, or no tracker will ever
// accept a request. In the last case, refused has the errors. follow returns after all sessions have
// left. leaveErr says why trackers may still list the member, or is nil.
func (f *follower) follow(ctx context.Context, sessions []*session, yield func(Event, error) bool) (refused, leaveErr error) {
	ctx, cancel := context.WithCancel(ctx)
	leaveErrs := make([]error, len(sessions))
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		leaveErr = oneEach(sessions, leaveErrs)
	}()
	for i, s := range sessions {
		running.Go(func() { leaveErrs[i] = s.run(ctx) })
	}
	for {
		final, errs := f.allFinal() // first, so that take reports these errors, too
		reports, next := f.take(time.Now())
		for _, r := range reports {
			if ctx.Err() != nil || !yield(r.event, r.err) {
				return nil, nil
			}
		}
		if final {
			return errs, nil
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

// oneEach joins the errors of sessions. Of each tracker, whose sessions are neighbors, it takes only the
// first.
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

// take returns what the loop has to report. Even if nothing changes, the loop has to call take again at
// the time next, unless that is zero.
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
			f.afterChange() // what [Client.Gather] waits for may be true now: the first list is complete
		}
	}
	next = f.expire(now)
	departed, joined, list := f.changes()
	clear(f.changed)
	f.list = list
	you := f.own(false)
	listAll := !f.begun || !slices.Equal(you, f.you)
	f.you = you
	add := func(ev Event) {
		ev.Peers, ev.You = f.list, f.you
		all = append(all, report{event: ev})
	}
	if listAll {
		add(f.first.peersEvent())
	}
	for _, t := range f.trackers {
		if t.back && !(listAll && t == f.first) {
			add(t.peersEvent())
		}
		t.back = false
	}
	if f.begun {
		for _, e := range departed {
			add(Event{Type: EventLeave, Peer: e})
		}
		for _, e := range joined {
			add(Event{Type: EventJoin, Peer: e})
		}
	}
	f.begun = true
	return all, next
}

// peersEvent returns an EventPeers of a tracker, without the lists.
func (t *trackerSources) peersEvent() Event {
	ev := Event{Type: EventPeers, Tracker: t.name, TTL: t.latest.roster.grace()}
	if began := t.latest.tableBegan; !began.IsZero() {
		ev.Age = time.Since(began)
	}
	if t.latest.reply != nil {
		reply := *t.latest.reply
		reply.SetOwn(t.latest.follower.own(true)) // also those that the tracker has not reported yet
		ev.Reply = &reply
	}
	return ev
}
