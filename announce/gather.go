package announce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntrack/announce/wire"
)

// A Gathering is the result of [Client.Gather].
type Gathering struct {
	// Peers are the peers that have met, you included, sorted by [netip.AddrPort.Compare]. If the
	// context of Gather ended first, they are the peers that were present then.
	Peers []netip.AddrPort
	// Rank is the index of your own endpoint in Peers. It is -1 if Peers does not have it, as when
	// you only look.
	Rank int

	barrier    *barrier    // nil if Gather ended before it joined
	membership *Membership // nil if Gather ended before it joined
	stayUntil  time.Time   // Leave waits until then
}

const (
	// lingerTime is how long a member stays at least after all have met, so that the slowest
	// process finds every peer. Without an event stream, a member polls every gatherPoll, and so at
	// least twice within lingerTime.
	lingerTime = 2 * time.Second
	gatherPoll = 800 * time.Millisecond
	// sharedTime is how long Gather accepts that another process is listed as the same endpoint.
	// That process may be about to leave.
	sharedTime = 2 * time.Second
)

// Gather joins the track of r.Key with r.Port and waits until at least n peers are present, you
// included. You remain a member until [Gathering.Leave]. With r.Port 0, Gather only looks, and you
// do not count.
//
// Gather succeeds at the first moment at which the tracker reports n peers. Some of them may have
// left by the time your process reads the report. If the tracker has no event stream, Gather may
// miss n peers that were present only between two polls.
//
// If exactly n processes join, they all get the same Peers, and each gets a different Rank. If more
// join, their Peers may differ, and at least one of them gets more than n Peers.
//
// All processes have to use the same tracker. Each process is one peer, listed over one address
// family: IPv4 if the tracker is reachable over it, else IPv6. Some classic trackers report only
// peers of the asker's family. With such a tracker, a process without IPv4 does not find the others.
// A peer that has ended without leaving counts until its ttl is over, so use a new key each time.
//
// Two processes with the same address and port count as one peer. A tracker with event streams
// detects them by their peer ids. If r.ID is zero, Gather chooses a random one. In the process that
// joined second, Gather returns a [*SharedError]. In the first process, it passes a SharedError to
// news and goes on.
//
// While Gather waits, it calls news for every event and every error, one at a time. news may be nil.
// After an error Gather tries again, even if the tracker has never answered. But if the tracker
// refuses the first requests with status 400, 401 or 404, Gather returns that error. If ctx ends
// first, Gather leaves the track and returns the cause of ctx, with the Peers that were present. The
// Gathering is never nil.
func (c *Client) Gather(ctx context.Context, t Tracker, r Request, n int, news func(Event, error)) (*Gathering, error) {
	if news == nil {
		news = func(Event, error) {}
	}
	g := &Gathering{Rank: -1}
	if err := cmp.Or(r.Key.Check(), t.Check()); err != nil {
		return g, err
	}
	derived := c.derive()
	network, err := derived.firstNetwork(ctx, t, r, news)
	derived.Close() // an open connection could prevent the next one from the same port
	if err != nil {
		return g, err
	}
	member, stay := r.Port != 0, time.Duration(0)
	derived.Poll = gatherPoll
	if t.Classic() { // a classic tracker should not be asked more often
		derived.Poll = wire.MinInterval
	}
	if member {
		stay = max(lingerTime, 2*derived.Poll)
	}
	if r.ID == (wire.ID{}) && !t.Classic() {
		r.ID = newID()
		r.ID[0] = 0xff // so it is no label
	}
	b := &barrier{follower: newFollower(), n: n, member: member, rank: -1, news: news,
		done: make(chan struct{}), calling: make(chan struct{}, 1)}
	b.afterChange = b.endIfMet
	sources := b.addTracker(t)
	b.self = b.addSource(sources)
	sessions := []*session{derived.newSession(b.self, r, network, member)}
	for _, other := range c.families(t) {
		if t.Classic() && other != network { // over the other family the tracker may report other peers
			sessions = append(sessions, derived.newSession(b.addSource(sources), r, other, false))
		}
	}
	g.barrier = b
	g.membership = b.startMembership(context.WithoutCancel(ctx), sessions, b.callNews)
	b.await(ctx, g.membership)
	if b.stop() {
		g.stayUntil = time.Now().Add(stay)
	} else {
		// The tracker may report the last peers before it removes this one, so all may still meet.
		_ = g.Leave(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g.Peers, g.Rank = b.peers, b.rank
	if !b.ended {
		return g, context.Cause(ctx)
	}
	return g, b.err
}

// firstNetwork returns the first network over which the tracker answers a look, and waits until there
// is one. Gather joins over this network only: a process that joins over two counts as two peers.
func (c *Client) firstNetwork(ctx context.Context, t Tracker, r Request, news func(Event, error)) (string, error) {
	for failures := 1; ; failures++ {
		var failed error
		for _, network := range c.families(t) {
			_, _, err := c.over(network).look(ctx, t, Request{Key: r.Key, Want: maxWant})
			if err == nil {
				return network, nil
			}
			failed = moreInformative(failed, err)
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if isFinal(failed) {
			return "", failed
		}
		news(Event{Tracker: t}, failed)
		if !wait(ctx, backoff(failures, maxBackoff, failed)) {
			return "", context.Cause(ctx)
		}
	}
}

// StayUntil returns the time at which Leave leaves at the earliest. It is zero if Gather has failed.
func (g *Gathering) StayUntil() time.Time { return g.stayUntil }

// Follow reports what happens after all have met. It calls news for every event and every error, one
// at a time, until ctx ends or the Gathering has left. The first event is [EventPeers]. The events are
// those of [Client.Watch]: a peer that may still be there is not reported as having left. After Gather
// has failed, Follow returns at once. Call it once at a time.
func (g *Gathering) Follow(ctx context.Context, news func(Event, error)) {
	b := g.barrier
	if b == nil || g.stayUntil.IsZero() {
		return
	}
	b.calling <- struct{}{}
	b.news, b.silent, b.unlisted = news, false, true
	<-b.calling
	b.record(func(time.Time) { b.begun = false }) // so the loop begins again, with EventPeers
	select {
	case <-ctx.Done():
	case <-g.membership.Done():
	}
	b.stop()
}

// Leave leaves the track. First it waits until two seconds have passed since all met (20 s on a
// classic tracker), so that the slowest process finds you, too. The end of ctx ends this wait.
// Leaving itself takes up to five seconds, even if ctx has ended. If it fails, Leave returns the
// reason, and the tracker removes you after the ttl. A second call returns the same.
func (g *Gathering) Leave(ctx context.Context) error {
	if g.membership == nil {
		return nil
	}
	wait(ctx, time.Until(g.stayUntil))
	return g.membership.Leave(context.WithoutCancel(ctx))
}

// A barrier is the running state of Gather. It ends when enough peers are present, or with an error.
type barrier struct {
	*follower
	// self is the source that lists this process. If the process only looks, it is the first source.
	self   *source
	n      int
	member bool
	done   chan struct{} // closed when ended becomes true

	// The mutex of the follower guards these.
	ended       bool
	err         error       // nil if enough peers have met
	sharedTimer *time.Timer // ends the barrier if another process has the same endpoint
	peers       []netip.AddrPort
	rank        int

	calling chan struct{} // holds a token during a call of news; the token guards the fields below
	news    func(Event, error)
	silent  bool // news must not be called
	// unlisted is true until news gets its first EventPeers from Follow. Until then callNews drops what
	// the loop had already taken.
	unlisted bool
}

// endIfMet ends the barrier if enough peers are present now. The follower calls it after every
// change.
func (b *barrier) endIfMet() {
	present := b.size // without this process
	if b.member {
		present++
	}
	switch {
	case b.ended || !b.firstEventAfter(time.Now()).IsZero():
	case b.self.shared && b.self.cameSecond:
		if b.sharedTimer == nil {
			b.sharedTimer = time.AfterFunc(sharedTime, b.endIfShared)
		}
	case b.member && b.self.state != up:
	case b.member && b.self.you.Port() == 0:
		b.end(fmt.Errorf("tracker %s does not report which address it has listed, so there is no rank", b.self.tracker.name.HostPort()))
	case present >= b.n:
		b.recordPeers()
		b.end(nil)
	}
}

// endIfShared ends the barrier if the process that joined first is still listed as the same endpoint.
func (b *barrier) endIfShared() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sharedTimer = nil
	if b.self.shared && b.self.cameSecond {
		b.end(&SharedError{b.self.you})
	}
}

// recordPeers records the peers that are present now, and the rank of this process among them.
func (b *barrier) recordPeers() {
	_, _, peers := b.changes()
	b.peers, b.rank = slices.Clone(peers), -1
	if you := b.self.you; b.member && you.Port() != 0 {
		b.rank, _ = slices.BinarySearchFunc(b.peers, you, netip.AddrPort.Compare)
		b.peers = slices.Insert(b.peers, b.rank, you)
	}
}

// end ends the barrier, unless it has ended. err is nil if enough peers have met.
func (b *barrier) end(err error) {
	if !b.ended {
		b.ended, b.err = true, err
		close(b.done)
	}
}

// await waits until the barrier, its membership or ctx ends.
func (b *barrier) await(ctx context.Context, m *Membership) {
	select {
	case <-b.done:
	case <-m.Done():
		b.mu.Lock()
		b.end(m.Err())
		b.mu.Unlock()
	case <-ctx.Done():
		// If ctx ended late, this process was suspended, and first reads what has arrived since then.
		if end, ok := ctx.Deadline(); ok && time.Since(end) > overdue {
			select {
			case <-b.done:
			case <-time.After(catchUp):
			}
		}
	}
}

// callNews calls news until stop is called. It does not report the error that Gather returns.
func (b *barrier) callNews(ev Event, err error) {
	b.calling <- struct{}{}
	defer func() { <-b.calling }()
	b.mu.Lock()
	_, shared := errors.AsType[*SharedError](err)
	failed := b.ended && b.err != nil
	refused := err != nil && b.self.tracker.final
	cameSecond := shared && b.self.cameSecond
	b.mu.Unlock()
	if b.unlisted = b.unlisted && (err != nil || ev.Type != EventPeers); b.unlisted {
		return
	}
	if !b.silent && !failed && !refused && !cameSecond {
		b.news(ev, err)
	}
}

// stop ends the calls of news, and reports whether enough peers have met. If the barrier has not
// ended, stop records the peers that are present now.
func (b *barrier) stop() (met bool) {
	b.calling <- struct{}{}
	b.silent = true
	<-b.calling
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.recordPeers()
	}
	return b.ended && b.err == nil
}
