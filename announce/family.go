package announce

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// families are the networks over which to announce to a tracker: both where its name may have
// addresses of both, so that peers of either kind learn of an endpoint they can dial (BEP 7).
func (c *Client) families(t Tracker) []string {
	u := t.URL()
	literal, err := netip.ParseAddr(u.Hostname())
	switch {
	case c.network != "":
		return []string{c.network}
	case c.From.Addr().IsValid():
		return []string{networkOf(c.From.Addr())}
	case err == nil:
		return []string{networkOf(literal)}
	case c.Dial != nil && !c.dialsBoth:
		return []string{"tcp"}
	}
	return []string{"tcp4", "tcp6"}
}

// over is c by one network only, with connections of its own, which are kept.
func (c *Client) over(network string) *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byFamily[network] == nil {
		d := c.derive()
		d.network = network
		if c.byFamily == nil {
			c.byFamily = make(map[string]*Client)
		}
		c.byFamily[network] = d
	}
	return c.byFamily[network]
}

// answering is how long a tracker has to answer over one family once it has over the other: it may
// have done what it was asked.
const answering = 2 * time.Second

// A tried is what came of something over one family.
type tried[T any] struct {
	result T
	err    error
	from   netip.AddrPort // where the connection came from; invalid without one
}

// overEach does something over each family at once. Unless it is patient, it gives up the others
// once one has succeeded: those that have not connected after as long as a dialler would (RFC 8305).
func overEach[T any](ctx context.Context, c *Client, t Tracker, patient bool, do func(context.Context, *Client) (T, error)) []tried[T] {
	families := c.families(t)
	all := make([]tried[T], len(families))
	limited, giveUp := context.WithCancel(ctx)
	defer giveUp()
	connecting, giveUpConnecting := context.WithCancel(limited)
	defer giveUpConnecting()
	var wg sync.WaitGroup
	var grace sync.Once
	for i, network := range families {
		d, f := c, &all[i]
		if len(families) > 1 {
			d = c.over(network)
		}
		wg.Go(func() {
			ctx, cancel := context.WithCancel(limited)
			defer cancel()
			connected := context.AfterFunc(connecting, cancel)
			defer connected()
			f.result, f.err = do(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
				connected()
				f.from = endpointOf(i.Conn.LocalAddr())
			}}), d)
			if f.err == nil && !patient {
				grace.Do(func() {
					time.AfterFunc(gathering, giveUpConnecting)
					time.AfterFunc(answering, giveUp)
				})
			}
		})
	}
	wg.Wait()
	return all
}

// failure is the error that says most; nil where something has succeeded.
func failure[T any](ctx context.Context, all []tried[T]) (failed error) {
	for _, f := range all {
		if f.err == nil {
			return nil
		}
		if failed == nil || telling(f.err) > telling(failed) {
			failed = f.err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed
}

// combined is one reply of those over each family.
func combined(ctx context.Context, all []tried[*Reply], want int) (*Reply, error) {
	if err := failure(ctx, all); err != nil {
		return nil, err
	}
	var reply *Reply
	for _, f := range all {
		switch {
		case f.err != nil:
		case reply == nil:
			reply = f.result
		default:
			reply.Merge(f.result, want)
		}
	}
	return reply, nil
}

// leaveEach leaves over each family at once. None is given up because another has succeeded: what
// one of them has listed, no other takes back. Where one has, an error counts only of those that
// lead to the tracker: nobody is listed over one that does not.
func (c *Client) leaveEach(ctx context.Context, t Tracker, r Request) (failed error) {
	all := overEach(ctx, c, t, true, func(ctx context.Context, c *Client) (struct{}, error) {
		return struct{}{}, c.leave(ctx, t, r)
	})
	left := slices.ContainsFunc(all, func(f tried[struct{}]) bool { return f.err == nil })
	for _, f := range all {
		counts := f.from.IsValid() || !left || ctx.Err() != nil
		if f.err != nil && counts && (failed == nil || telling(f.err) > telling(failed)) {
			failed = f.err
		}
	}
	return failed
}

// telling ranks errors of one tracker by how much they say about it.
func telling(err error) int {
	var noAddress *net.AddrError
	var noHost *net.DNSError
	var refused *RefusalError
	var senseless *ReplyError
	switch {
	case errors.As(err, &refused):
		return 3
	case errors.As(err, &senseless):
		return 2
	case errors.As(err, &noAddress), errors.As(err, &noHost) && noHost.IsNotFound, isNoRoute(err):
		return 0
	}
	return 1
}
