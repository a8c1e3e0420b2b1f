package announce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntrack/announce/wire"
)

// A Gathering is who has met under a key.
type Gathering struct {
	// Peers are all who were there, you included, in the order of [netip.AddrPort.Compare].
	Peers []netip.AddrPort
	// Rank is your own place in Peers, from 0; -1 when you only look.
	Rank int

	until time.Time // not to leave before
	leave context.CancelFunc
	left  chan struct{}
}

// linger is how long the members of a gathering stay at least, so that the slowest still finds all
// of them, and gatherEvery how often they look where there is no event stream: twice meanwhile.
const (
	linger      = 2 * time.Second
	gatherEvery = 800 * time.Millisecond
)

// late is by how much the end of a gathering's time has to be overdue for the process to count as
// stopped meanwhile.
const late = 500 * time.Millisecond

// sharing is how long two programs may be listed as one endpoint: one may be on its way out.
const sharing = 2 * time.Second

// Gather joins the track of r.Key with r.Port and waits until at least n peers are there, yourself
// included. You stay a member until [Gathering.Leave]. With r.Port 0 it only looks.
//
// The first moment at which n are there counts, as the tracker reports it: also where some have
// left again before this process, which may have been stopped, came to read of it. Where there is
// no event stream, a moment that no reply shows is missed.
//
// When exactly n come, all of them get the same Peers, and each another Rank. When more come, some
// may have seen fewer of them than others: len(Peers) > n tells. One process is one peer here: it
// is listed over one address family even where a tracker has both, over IPv4 if that leads there,
// and all have to name the same tracker. On a classic tracker that keeps the families apart, one
// that IPv4 does not lead to cannot meet the others. An endpoint that others have left behind under
// the key counts as well: take a new key for each gathering. Two processes that give the same port from the
// same address would be one peer. Where the tracker has event streams, the second one gets a
// [*SharedError], and the first one is told. The tracker tells them apart by r.ID, which is drawn
// where it is zero.
//
// An error before the first answer is returned. From then on news, which may be nil, is told every
// event and every error while it waits, one at a time, and it tries again. When ctx ends first,
// the error is what ended it, Peers are those who were there, and you have left. The Gathering is
// never nil.
func (c *Client) Gather(ctx context.Context, t Tracker, r Request, n int, news func(Event, error)) (*Gathering, error) {
	d := c.derive()
	g := &Gathering{Rank: -1, left: make(chan struct{})}
	stay := linger
	every := gatherEvery
	if t.Classic() { // which are not to be asked as often
		every, stay = wire.MinInterval, 2*wire.MinInterval
	}
	if r.Port == 0 {
		stay = 0
	}
	var err error
	for _, d.network = range d.families(t) { // the first that leads there, or a process would be two peers
		_, _, failed := d.look(ctx, t, r.Key, maxWant)
		if failed == nil {
			err = nil
			break
		}
		if err == nil || telling(failed) > telling(err) {
			err = failed
		}
	}
	if err != nil {
		d.Close()
		return g, err
	}
	if r.ID == (ID{}) && !t.Classic() {
		r.ID = newID()
	}
	over := []path{{d.network, r.Port != 0}}
	for _, network := range c.families(t) {
		if t.Classic() && network != d.network { // which may have its own peers
			over = append(over, path{network, false})
		}
	}
	w := &meeting{follower: newFollower(), n: n, member: r.Port != 0, rank: -1, news: news,
		ended: make(chan struct{}), telling: make(chan struct{}, 1)}
	w.moment = w.judge
	sessions, err := d.sessions(w.follower, []Tracker{t}, r, every, func(Tracker) []path { return over })
	if err != nil {
		d.Close()
		return g, err
	}
	var member context.Context
	member, g.leave = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(g.left)
		defer d.Close()
		_ = w.watch(member, sessions, w.tell)
	}()
	select {
	case <-w.ended:
	case <-ctx.Done():
		if end, ok := ctx.Deadline(); ok && time.Since(end) > late {
			select {
			case <-w.ended:
			case <-time.After(catchUp):
			}
		}
	}
	if w.stop() {
		g.until = time.Now().Add(stay)
	} else {
		g.leave()
		<-g.left // the moment may still come: the tracker reports it until it has let go of this peer
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g.Peers, g.Rank = w.peers, w.rank
	if !w.over {
		return g, context.Cause(ctx)
	}
	return g, w.err
}

// A meeting is what a gathering waits for.
type meeting struct {
	*follower
	n      int
	member bool
	ended  chan struct{} // closed once it is over

	// By mu of merged.
	over  bool
	err   error
	clash *time.Timer // ends it where another process has the same endpoint
	peers []netip.AddrPort
	rank  int

	telling chan struct{} // holds a token while news is called, and so guards what follows
	news    func(Event, error)
	began   bool
	silent  bool
}

// judge looks whether enough are there at this moment.
func (w *meeting) judge() {
	switch self := w.sites[0].sources[0]; {
	case w.over || !w.gathered(time.Now()).IsZero():
	case self.shared && self.late:
		if w.clash == nil {
			w.clash = time.AfterFunc(sharing, w.clashed)
		}
	case w.member && self.state != up:
	case w.member && self.you.Port() == 0:
		w.end(fmt.Errorf("tracker %s does not tell which address it has listed: nobody can have a rank there", self.site.tracker.HostPort()))
	case w.members() >= w.n:
		w.look()
		w.end(nil)
	}
}

// clashed ends it if the process that was there first still is.
func (w *meeting) clashed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clash = nil
	if self := w.sites[0].sources[0]; self.shared && self.late {
		w.end(&SharedError{self.you}) // nothing, where it is over
	}
}

// members is how many there are, you included.
func (w *meeting) members() int {
	if w.member {
		return w.present + 1
	}
	return w.present
}

// look takes down who is there.
func (w *meeting) look() {
	w.peers, w.rank = w.everyone(), -1
	if you := w.sites[0].sources[0].you; w.member && you.Port() != 0 {
		w.rank, _ = slices.BinarySearchFunc(w.peers, you, netip.AddrPort.Compare)
		w.peers = slices.Insert(w.peers, w.rank, you)
	}
}

func (w *meeting) end(err error) {
	if !w.over {
		w.over, w.err = true, err
		close(w.ended)
	}
}

// tell passes news on for as long as the gathering waits.
func (w *meeting) tell(ev Event, err error) bool {
	w.telling <- struct{}{}
	defer func() { <-w.telling }()
	w.mu.Lock()
	_, shared := errors.AsType[*SharedError](err)
	clash := shared && w.sites[0].sources[0].late // which clashed is for
	if err != nil && !shared && !w.began {
		w.end(err)
	}
	w.began = w.began || err == nil
	silent := w.silent || w.over && w.err != nil || clash || w.news == nil
	w.mu.Unlock()
	if !silent {
		w.news(ev, err)
	}
	return true // a member for as long as the watch runs
}

// stop ends the news. It reports whether all have met; if not, it takes down who is there.
func (w *meeting) stop() (met bool) {
	w.telling <- struct{}{}
	w.silent = true
	<-w.telling
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.look()
	}
	return w.over && w.err == nil
}

// Leave leaves, and returns when that is done: two seconds after everybody was there, so that the
// slowest finds you too (on a classic tracker 20 s), but at once if ctx ends. It may be called
// again. A tracker that is away then forgets you after the ttl.
func (g *Gathering) Leave(ctx context.Context) {
	if g.leave == nil {
		return
	}
	wait(ctx, time.Until(g.until))
	g.leave()
	<-g.left
}
