package announce

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Stay announces r, keeps it announced until ctx ends, and then leaves. It returns nil once it has
// left.
//
// The first announce has to succeed: its error is returned. From then on news, which may be nil,
// is told every reply and every error, one at a time, and errors do not end the stay: it tries
// again after a second, then after longer and longer up to the interval. Renewals come at the
// tracker's interval or up to a fifth before it, so that peers that joined together spread.
//
// It keeps to the address family and the port that the first reply told: a renewal that came from
// another would be another peer, and the first a ghost.
func (c *Client) Stay(ctx context.Context, t Tracker, r Request, news func(*Reply, error)) error {
	d := c.derive()
	defer func() { d.Close() }()
	if t.classic && r.Port == 0 {
		p, port, err := d.fromSomePort()
		if err != nil {
			return err
		}
		d, r.Port = p, port
	}
	reply, cn, err := d.announce(ctx, t, r, "started")
	if err != nil {
		return err
	}
	if r.Port == 0 {
		if r.Port = reply.You.Port(); r.Port == 0 {
			return errors.New("the tracker does not tell the port of origin: give a port to stay")
		}
	}
	if d.Dial == nil {
		d.network = networkOf(cn.remote.Addr())
	}
	if news != nil {
		news(reply, nil)
	}
	interval, failures := reply.Interval, 0
	for wait(ctx, jitter(interval, 0.2)) {
		for {
			reply, _, err = d.announce(ctx, t, r, "")
			if ctx.Err() != nil {
				break
			}
			if news != nil {
				news(reply, err)
			}
			if err == nil {
				interval, failures = reply.Interval, 0
				break
			}
			failures++
			if !wait(ctx, backoff(failures, interval, err)) {
				break
			}
		}
	}
	d.Timeout = min(d.timeout(), 5*time.Second)
	return d.Leave(context.WithoutCancel(ctx), t, r)
}

// backoff is how long to wait after so many failures in a row.
func backoff(failures int, interval time.Duration, err error) time.Duration {
	d := min(time.Second<<min(failures-1, 12), interval)
	var f *Failure
	if errors.As(err, &f) && f.Retry > d {
		d = min(f.Retry, MaxInterval)
	}
	return jitter(d, 0.5)
}

// jitter shortens d by up to a share of it.
func jitter(d time.Duration, share float64) time.Duration {
	return d - time.Duration(rand.Float64()*share*float64(d))
}

// wait reports whether d has passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
