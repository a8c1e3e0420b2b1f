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
	// Peers are all peers that were there, you included, in the order of [netip.AddrPort.Compare].
	Peers []netip.AddrPort
	// Rank is your own place in Peers, from 0. It is -1 if you only look.
	Rank int

	membership *Membership // nil if Gather ended before it joined
	until      time.Time   // when the membership may end
}

const (
	// lingerTime is how long the members of a gathering stay at least, so that the slowest finds
	// all of them. Without an event stream a member polls every gatherPoll, which is twice in that
	// time.
	lingerTime = 2 * time.Second
	gatherPoll = 800 * time.Millisecond
	// clashTime is how long two programs may be listed as one endpoint: the first may be about to leave.
	clashTime = 2 * time.Second
)

// Gather joins the track of r.Key with r.Port and waits until at least n peers are there, you
// included. You stay a member until [Gathering.Leave]. With r.Port 0 it only looks.
//
// The first moment at which n are there counts, as the tracker reports it, even if some have left
// again before this process reads of it. If the tracker has no event stream, Gather misses a moment
// that no reply shows.
//
// If exactly n come, all get the same Peers, and each a different Rank. If more come, some
// processes may see fewer of them than others do; then at least one has len(Peers) > n.
//
// One process is one peer: it is listed over one address family, IPv4 if that leads to the tracker,
// even if the tracker has both. All have to name the same tracker. Some classic trackers keep the
// families apart; there, a process without IPv4 cannot meet the others. An endpoint that someone
// has left behind under the key counts as well, so use a new key for each gathering.
//
// Two processes with the same address and port would be one peer. A tracker with event streams
// distinguishes them by r.ID, which Gather chooses at random if it is zero. Then Gather returns a
// [*SharedError] in the process that came second, and calls news with one in the first.
//
// While Gather waits, news, if it is not nil, is called for every event and every error, one at a
// time. An error is not the end: Gather tries again, also if the tracker was not there at the
// start. But if the tracker refuses the first request with status 400, 401 or 404, Gather returns
// that error. If ctx ends first, Gather returns its cause; Peers are those who were there, and you
// have left. The Gathering is never nil.
func (c *Client) Gather(ctx context.Context, t Tracker, r Request, n int, news func(Event, error)) (*Gathering, error) {
	if news == nil {
		news = func(Event, error) {}
	}
	g := &Gathering{Rank: -1}
	if err := cmp.Or(r.Key.Check(), t.Check()); err != nil {
		return g, err
	}
	d := c.derive()
	network, err := d.firstNetwork(ctx, t, r, news)
	d.Close() // its connection could be in the way of the next one from the same port
	if err != nil {
		return g, err
	}
	member, stay := r.Port != 0, time.Duration(0)
	d.Poll = gatherPoll
	if t.Classic() { // it is not to be asked as often
		d.Poll = wire.MinInterval
	}
	if member {
		stay = max(lingerTime, 2*d.Poll)
	}
	if r.ID == (wire.ID{}) && !t.Classic() {
		r.ID = newID()
	}
	b := &barrier{follower: newFollower(), n: n, member: member, rank: -1, news: news,
		ended: make(chan struct{}), calling: make(chan struct{}, 1)}
	b.afterChange = b.judge
	sources := b.addTracker(t)
	b.self = b.addSource(sources)
	sessions := []*session{d.newSession(b.self, r, network, member)}
	for _, other := range c.families(t) {
		if t.Classic() && other != network { // it may report other peers
			sessions = append(sessions, d.newSession(b.addSource(sources), r, other, false))
		}
	}
	g.membership = b.startMembership(context.WithoutCancel(ctx), sessions, b.callNews)
	select {
	case <-b.ended:
	case <-g.membership.Done():
		b.mu.Lock()
		b.end(g.membership.Err())
		b.mu.Unlock()
	case <-ctx.Done():
		if end, ok := ctx.Deadline(); ok && time.Since(end) > overdue {
			select {
			case <-b.ended:
			case <-time.After(catchUp):
			}
		}
	}
	if b.stop() {
		g.until = time.Now().Add(stay)
	} else {
		_ = g.Leave(ctx) // all may still meet: the tracker reports peers until it has let go of this one
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g.Peers, g.Rank = b.peers, b.rank
	if !b.over {
		return g, context.Cause(ctx)
	}
	return g, b.err
}

// firstNetwork returns the first network over which the tracker answers a look. A process that used
// several would be several peers. If the tracker is absent, firstNetwork waits for it.
func (c *Client) firstNetwork(ctx context.Context, t Tracker, r Request, news func(Event, error)) (string, error) {
	for failures := 1; ; failures++ {
		var failed error
		for _, network := range c.families(t) {
			_, _, err := c.over(network).look(ctx, t, Request{Key: r.Key, Want: maxWant})
			if err == nil {
				return network, nil
			}
			failed = weightier(failed, err)
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

// Leave leaves the track. If it fails, it returns why, and the tracker forgets you after the ttl.
// First it waits until two seconds have passed since all had met (20 s on a classic tracker), so
// that the slowest process finds you, too. The end of ctx ends this wait, but not the leaving,
// which takes five seconds at most. Leave may be called again, and returns the same.
func (g *Gathering) Leave(ctx context.Context) error {
	if g.membership == nil {
		return nil
	}
	wait(ctx, time.Until(g.until))
	return g.membership.Leave(context.WithoutCancel(ctx))
}

// A barrier is what a gathering waits for. Its follower calls judge after every change.
type barrier struct {
	*follower
	self   *source // over which this process is a member; the first one if it only looks
	n      int
	member bool
	ended  chan struct{} // closed once the barrier is over

	// The mutex of the follower guards these.
	over  bool
	err   error
	clash *time.Timer // ends the barrier if another process has the same endpoint
	peers []netip.AddrPort
	rank  int

	calling chan struct{} // holds a token while news is called, and so guards what follows
	news    func(Event, error)
	silent  bool
}

// judge ends the barrier if enough peers are there at this moment.
func (b *barrier) judge() {
	switch {
	case b.over || !b.waitsUntil(time.Now()).IsZero():
	case b.self.clash && b.self.second:
		if b.clash == nil {
			b.clash = time.AfterFunc(clashTime, b.endClash)
		}
	case b.member && b.self.state != up:
	case b.member && b.self.you.Port() == 0:
		b.end(fmt.Errorf("tracker %s does not tell which address it has listed: nobody can have a rank there", b.self.tracker.name.HostPort()))
	case b.size >= b.n, b.member && b.size+1 >= b.n:
		b.notePeers()
		b.end(nil)
	}
}

// endClash ends the barrier if the process that was listed before still is.
func (b *barrier) endClash() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clash = nil
	if b.self.clash && b.self.second {
		b.end(&SharedError{b.self.you})
	}
}

// notePeers notes the peers that are there, and the own rank.
func (b *barrier) notePeers() {
	_, _, peers := b.changes()
	b.peers, b.rank = slices.Clone(peers), -1
	if you := b.self.you; b.member && you.Port() != 0 {
		b.rank, _ = slices.BinarySearchFunc(b.peers, you, netip.AddrPort.Compare)
		b.peers = slices.Insert(b.peers, b.rank, you)
	}
}

// end ends the barrier, unless it has ended. err is nil if all have met.
func (b *barrier) end(err error) {
	if !b.over {
		b.over, b.err = true, err
		close(b.ended)
	}
}

// callNews calls news for as long as the gathering waits, but not for the error that Gather returns.
func (b *barrier) callNews(ev Event, err error) {
	b.calling <- struct{}{}
	defer func() { <-b.calling }()
	b.mu.Lock()
	_, shared := errors.AsType[*SharedError](err)
	returned := b.over && b.err != nil || err != nil && b.self.tracker.final || shared && b.self.second
	b.mu.Unlock()
	if !b.silent && !returned {
		b.news(ev, err)
	}
}

// stop ends the calls of news, and reports whether all have met. If they have not, it notes the
// peers that are there.
func (b *barrier) stop() (met bool) {
	b.calling <- struct{}{}
	b.silent = true
	<-b.calling
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.notePeers()
	}
	return b.over && b.err == nil
}
