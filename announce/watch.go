package announce

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"net/netip"
	"sync"
	"time"
)

// An EventType says what happened to a track.
type EventType string

// The events.
const (
	// EventPeers tells who is there: the first event of all, the first of a tracker after an error
	// of it, and the first after your own endpoints have changed.
	EventPeers EventType = "peers"
	EventJoin  EventType = "join"
	EventLeave EventType = "leave"
)

// An Event is a change to a track.
type Event struct {
	Type EventType
	// Tracker is whose answer EventPeers comes of; next to an error, who failed.
	Tracker Tracker
	// Peer is who joined or left.
	Peer netip.AddrPort
	// Peers is everyone there but you, once all changes known at this moment are made, sorted.
	// Events share it: do not change it.
	Peers []netip.AddrPort
	// You are your own endpoints as the trackers see them, sorted; empty when only looking. There
	// is more than one with several trackers, or where a tracker is reached over both families.
	// Events share it, too.
	You []netip.AddrPort
	// Reply is, with EventPeers, what the tracker replied last: its interval, ttl, count and
	// warning. It is nil where the tracker told by an event stream, which needs no renewing.
	Reply *Reply
}

// Watch iterates over the changes of the track of r.Key: first [EventPeers], then joins and
// leaves, until ctx ends or the loop is left. With r.Port 0 it only looks. Otherwise it is a
// member, listed for as long as the loop runs, and leaves at its end: over each family that the
// tracker has, as [Client.Announce]. With no trackers it ends after one error.
//
// Each tracker is followed by its event stream, which tells at once. Where there is none, it is
// asked at its interval, or every so often if every is above 0 (by a member at least as often as the
// tracker wants), and the differences are reported.
//
// An error is news and not the end: the loop may go on, and the watch tries again, less and less
// often. A leave is reported when it is known:
//
//   - A tracker that was away, or was restarted, may know nobody: peers known before get one ttl to
//     come back (150 s where only streams are known), and have left if they do not.
//   - In a track that is larger than what a tracker gives, as classic trackers do, a peer missing
//     from one sample has not left: its leave is reported when chance alone would have hidden it so
//     often only once in a million.
//   - With several trackers, a peer has joined when the first of them has it, and left when the last
//     one that had it says so. A tracker that is away keeps what it knew; once another one has been
//     there for a ttl without it, what it alone knew has left. The two families of one tracker, which
//     need not tell the same, count as two.
//
// A loop that is slow is told the sum of what has changed meanwhile: who came and went between two
// turns is not told. What keeps a member listed does not wait for the loop.
func (c *Client) Watch(ctx context.Context, trackers []Tracker, r Request, every time.Duration) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		_ = c.watch(ctx, newFollower(), trackers, r, every, c.ways(r.Port != 0), yield)
	}
}

// Join is a member of the track of r.Key until ctx ends, and then leaves: what [Client.Watch] does
// with a port, for those who need no loop. r.Port 0 is the port of origin, which is kept. r.Want
// bounds the peers in replies that are asked for time and again; NoPeers just joins.
//
// news, which may be nil, is told every event and every error, one at a time. Errors end it only
// where it cannot be a member of any tracker: without trackers, or with a tracker that does not tell
// the port of origin where r.Port is 0. It returns nil once it has left, or why it could not join or
// leave: of several trackers the errors joined.
//
// To a classic tracker two members with one endpoint are one peer, which is out as soon as one of
// them leaves, until the other renews: see [Client.Shared].
func (c *Client) Join(ctx context.Context, trackers []Tracker, r Request, news func(Event, error)) error {
	return c.watch(ctx, newFollower(), trackers, r, 0, c.ways(true), func(ev Event, err error) bool {
		if news != nil {
			news(ev, err)
		}
		return true
	})
}

// A way is how a watch goes to a tracker: over which network, and whether to be a member there.
type path struct {
	network string
	member  bool
}

// ways are those of a member, which is listed over each family, or of one that only looks. That
// needs but one where a tracker gives peers of both, as not every classic one does.
func (c *Client) ways(member bool) func(Tracker) []path {
	return func(t Tracker) (ways []path) {
		if !member && !t.Classic() {
			return []path{{c.network, false}}
		}
		for _, network := range c.families(t) {
			ways = append(ways, path{network, member})
		}
		return ways
	}
}

func (c *Client) watch(ctx context.Context, m *follower, trackers []Tracker, r Request, every time.Duration, ways func(Tracker) []path, yield func(Event, error) bool) error {
	sessions, err := c.sessions(m, trackers, r, every, ways)
	if err != nil {
		yield(Event{}, err)
		return err
	}
	return m.watch(ctx, sessions, yield)
}

// sessions are those of a watch, which none of them has begun.
func (c *Client) sessions(m *follower, trackers []Tracker, r Request, every time.Duration, ways func(Tracker) []path) ([]*session, error) {
	if err := r.Key.Check(); err != nil {
		return nil, err
	}
	if len(trackers) == 0 {
		return nil, errors.New("no tracker to ask: name at least one")
	}
	if r.Want == 0 {
		r.Want = maxWant
	}
	var sessions []*session
	for _, t := range trackers {
		if err := t.Check(); err != nil {
			return nil, err
		}
		site := m.add(t)
		for _, way := range ways(t) {
			d := c.derive()
			d.network = way.network
			sessions = append(sessions, &session{c: d, tracker: t, request: r, every: every, member: way.member, source: site.add()})
		}
	}
	return sessions, nil
}

// watch runs the sessions, which are on m, until ctx or the loop ends.
func (m *follower) watch(ctx context.Context, sessions []*session, yield func(Event, error) bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		err = cmp.Or(err, m.unsure())
	}()
	for _, s := range sessions {
		wg.Go(func() { s.source.unsure = s.run(ctx) })
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	for over := false; ; {
		told, next := m.take(time.Now())
		for _, n := range told {
			if ctx.Err() != nil || !yield(n.event, n.err) {
				return
			}
		}
		if over {
			return m.failure()
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-timer:
		case <-ended: // none of them can go on
			over = true
		}
	}
}
