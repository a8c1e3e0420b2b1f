package announce

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
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

// Gather joins the track of r.Key with r.Port and waits until at least n peers are there, yourself
// included. You stay a member until [Gathering.Leave]. With r.Port 0 it only looks.
//
// When exactly n come, all of them get the same Peers, and each another Rank. When more come, some
// may have seen fewer of them than others: len(Peers) > n tells. One process is one peer here: it
// is listed over one address family even where a tracker has both, over IPv4 if that leads there,
// and all have to name the same tracker. An endpoint that others have left behind under the key
// counts as well: take a new key for each gathering.
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
	if t.classic { // which are not to be asked as often
		every, stay = MinInterval, 2*MinInterval
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
	var member context.Context
	member, g.leave = context.WithCancel(context.WithoutCancel(ctx))
	met := make(chan error, 1)
	go func() {
		defer close(g.left)
		defer d.Close()
		waiting, began := true, false
		for ev, err := range d.Watch(member, []Tracker{t}, r, every) {
			if !waiting {
				continue // a member for as long as this loop runs
			}
			if err != nil && !began {
				met <- err
				return
			}
			if news != nil {
				news(ev, err)
			}
			switch {
			case err != nil:
				continue
			case r.Port != 0 && len(ev.You) == 0:
				met <- fmt.Errorf("tracker %s does not tell which address it has listed: nobody can have a rank there", t.HostPort())
				return
			case r.Port != 0:
				g.Peers = append(slices.Clone(ev.Peers), ev.You[0])
				slices.SortFunc(g.Peers, netip.AddrPort.Compare)
				g.Rank, _ = slices.BinarySearchFunc(g.Peers, ev.You[0], netip.AddrPort.Compare)
			default:
				g.Peers = ev.Peers
			}
			if began = true; len(g.Peers) >= n {
				waiting = false
				met <- nil
			}
		}
	}()
	select {
	case err = <-met:
		if err == nil {
			g.until = time.Now().Add(stay)
			return g, nil
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	g.leave()
	<-g.left
	return g, err
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
