package announce

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// maxWant is how many peers a watch asks for: what trackers give at most unless told otherwise.
const maxWant = 1000

// session is a watch's dealings with one tracker over one route: it announces, or looks, until its
// context ends, and then leaves.
//
// Renewals come at the tracker's interval or up to a fifth before it, so that peers that joined
// together spread. It keeps to the port that the first reply told: a renewal that came from another
// would be another peer, and the first a ghost.
type session struct {
	c       *Client // with connections of its own
	tracker Tracker
	request Request
	every   time.Duration
	member  bool
	route   *route

	interval time.Duration // of the last reply; 0 before
	failures int           // in a row
	listed   bool          // by an announce, which a leave has to end
	// lasting says that the next request should find this connection alive: the tracker has not
	// said that it closes it, and has kept the one before, if there was one.
	lasting bool
}

// errNoOrigin ends a session: each of its renewals would be another peer.
var errNoOrigin = errors.New("the tracker does not tell the port of origin: give a port to stay")

func (s *session) run(ctx context.Context) error {
	defer func() { s.c.Close() }()
	if s.member && s.tracker.classic && s.request.Port == 0 {
		c, port, err := s.c.fromSomePort()
		if err != nil {
			s.route.failed(err)
			return nil
		}
		s.c, s.request.Port = c, port
	}
	for {
		err := s.poll(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.failures++
			s.route.failed(err)
		}
		if err == errNoOrigin {
			return nil
		}
		if !wait(ctx, s.pause(err)) {
			break
		}
	}
	if !s.listed {
		return nil
	}
	s.c.Timeout = min(s.c.timeout(), 5*time.Second)
	return s.c.leave(context.WithoutCancel(ctx), s.tracker, s.request)
}

// poll asks once.
func (s *session) poll(ctx context.Context) error {
	var reply *Reply
	var cn conn
	var err error
	if s.member {
		event := ""
		if !s.listed {
			event = "started"
		}
		reply, cn, err = s.c.announce(ctx, s.tracker, s.request, event)
	} else {
		reply, cn, err = s.c.look(ctx, s.tracker, s.request.Key, s.request.Want)
	}
	if err != nil {
		return err
	}
	if s.member {
		s.listed = true
		if s.request.Port == 0 {
			if s.request.Port = reply.You.Port(); s.request.Port == 0 {
				return errNoOrigin
			}
		}
	}
	s.route.replied(reply, s.failures > 0 || s.lasting && !cn.reused)
	s.lasting = cn.kept && (cn.reused || s.interval == 0)
	s.interval, s.failures = reply.Interval, 0
	return nil
}

// pause is how long to wait after a request that has ended so.
func (s *session) pause(err error) time.Duration {
	interval := s.interval
	if interval == 0 {
		interval = MinInterval
	}
	if err != nil {
		if s.every > 0 {
			interval = max(s.every, MinInterval)
		}
		return backoff(s.failures, interval, err)
	}
	pause := jitter(interval, 0.2)
	if s.every > 0 && (!s.member || s.every < pause) {
		pause = s.every
	}
	return pause
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
