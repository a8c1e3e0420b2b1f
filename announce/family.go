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
	u := t.norm().url
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

// overEach does something over each family at once. Once one has succeeded, the others have as
// long as a dialler would give them (RFC 8305), and then are given up. It returns the results of
// those that have succeeded; without any, the error that says most.
func overEach[T any](ctx context.Context, c *Client, t Tracker, do func(context.Context, *Client) (T, error)) ([]T, error) {
	families := c.families(t)
	if len(families) == 1 {
		result, err := do(ctx, c)
		return []T{result}, err
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	results, errs := make([]T, len(families)), make([]error, len(families))
	var wg sync.WaitGroup
	var grace sync.Once
	for i, network := range families {
		wg.Go(func() {
			if results[i], errs[i] = do(limited, c.over(network)); errs[i] == nil {
				grace.Do(func() { time.AfterFunc(gathering, cancel) })
			}
		})
	}
	wg.Wait()
	var done []T
	var failed error
	for i, err := range errs {
		if err == nil {
			done = append(done, results[i])
		} else if failed == nil || telling(err) > telling(failed) {
			failed = err
		}
	}
	switch {
	case len(done) > 0:
		return done, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, failed
}

// leaveEach leaves over each family at once. None is given up because another has succeeded: what
// one of them has listed, no other takes back. Where one has, an error counts only of those that
// lead to the tracker: nobody is listed over one that does not.
func (c *Client) leaveEach(ctx context.Context, t Tracker, r Request) error {
	families := c.families(t)
	if len(families) == 1 {
		return c.leave(ctx, t, r)
	}
	errs, connected := make([]error, len(families)), make([]bool, len(families))
	var wg sync.WaitGroup
	for i, network := range families {
		wg.Go(func() {
			errs[i] = c.over(network).leave(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				GotConn: func(httptrace.GotConnInfo) { connected[i] = true },
			}), t, r)
		})
	}
	wg.Wait()
	left := slices.Contains(errs, nil)
	var failed error
	for i, err := range errs {
		counts := connected[i] || !left || ctx.Err() != nil
		if err != nil && counts && (failed == nil || telling(err) > telling(failed)) {
			failed = err
		}
	}
	return failed
}

// telling ranks errors of one tracker by how much they say about it.
func telling(err error) int {
	var noAddress *net.AddrError
	var noHost *net.DNSError
	var refused *Failure
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
