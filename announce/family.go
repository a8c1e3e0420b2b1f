package announce

import (
	"context"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"time"
)

// families returns the networks over which to announce to a tracker: both, if its name may have
// addresses of both. Then peers of either family learn an endpoint that they can dial (BEP 7).
func (c *Client) families(t Tracker) []string {
	u := t.FullURL()
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

// over returns a client like c that uses one network only. It has connections of its own, which it
// keeps for the next call.
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

// How long to wait for the other family once a tracker has answered over one.
const (
	// connectWait is the time to connect over it. Diallers wait as long (RFC 8305).
	connectWait = 300 * time.Millisecond
	// answerWait is the time to answer over it once connected. The tracker may already have done
	// what it was asked.
	answerWait = 2 * time.Second
)

// An outcome is the result of a request over one family.
type outcome[T any] struct {
	result T
	err    error
	from   netip.AddrPort // the local end of the connection; invalid if there was none
}

// overEach sends a request over each family at once. After the first success the others get a
// bounded time, unless it is patient.
func overEach[T any](ctx context.Context, c *Client, t Tracker, patient bool, request func(context.Context, *Client) (T, error)) []outcome[T] {
	families := c.families(t)
	all := make([]outcome[T], len(families))
	answering, giveUp := context.WithCancel(ctx)
	defer giveUp()
	connecting, giveUpConnecting := context.WithCancel(answering)
	defer giveUpConnecting()
	var wg sync.WaitGroup
	var first sync.Once
	for i, network := range families {
		d, f := c, &all[i]
		if len(families) > 1 {
			d = c.over(network)
		}
		wg.Go(func() {
			ctx, cancel := context.WithCancel(answering)
			defer cancel()
			connected := context.AfterFunc(connecting, cancel)
			defer connected()
			f.result, f.err = request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
				connected()
				f.from = endpointOf(i.Conn.LocalAddr())
			}}), d)
			if f.err == nil && !patient {
				first.Do(func() {
					time.AfterFunc(connectWait, giveUpConnecting)
					time.AfterFunc(answerWait, giveUp)
				})
			}
		})
	}
	wg.Wait()
	return all
}

// failure returns the error that says most, or nil if one family has succeeded.
func failure[T any](ctx context.Context, all []outcome[T]) (failed error) {
	for _, f := range all {
		if f.err == nil {
			return nil
		}
		failed = weightier(failed, f.err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed
}

// combine makes one reply of those over each family.
func combine(ctx context.Context, all []outcome[*Reply], want int) (*Reply, error) {
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
