package announce

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// maxWant is how many peers a watch asks for: what trackers give at most unless told otherwise.
const maxWant = 1000

// Waits of sessions.
const (
	silence    = 35 * time.Second // without a byte, heartbeats included: a stream is dead
	maxBackoff = 15 * time.Second // where no interval is known
	// plainFor is how long a tracker is asked plainly after a stream of it was of no use: its track
	// is too large for one, or something on the way gathers what it sends.
	plainFor = 10 * time.Minute
	// comeBack is the time over which every thousand peers spread their return to a tracker that
	// has ended its streams.
	comeBack = 2 * time.Second
	// leaving bounds how long leaving takes. Of that, crossing is for what comes first: the answer to
	// an announce that is under way, since whoever is listed by that has to leave after it, or the end
	// of a stream.
	leaving  = 5 * time.Second
	crossing = time.Second
	// noticing is how long a tracker may list a member whose stream broke: it gives up a connection
	// after 45 s without an acknowledgement, an intermediary at the second heartbeat that it cannot
	// pass on.
	noticing = time.Minute
)

// session is a watch's dealings with one tracker over one route: it follows the tracker's event
// stream, or announces or looks time and again, until its context ends, and then leaves.
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
	source  *source

	interval time.Duration // of the last reply; 0 before
	failures int           // in a row
	plain    time.Time     // until when not to ask for a stream
	refused  bool          // the last request was for a stream, and a plain one may be answered
	held     time.Time     // until when the tracker may list it whatever ends: only DELETE helps
	// lasting says that the next request should find this connection alive: the tracker has not
	// said that it closes it, and has kept the one before, if there was one.
	lasting bool
	reached bool // the last request had a connection
}

func (s *session) run(ctx context.Context) error {
	defer func() { s.c.Close() }()
	if s.member {
		if s.tracker.Classic() && s.request.Port == 0 {
			c, port, err := s.c.fromSomePort()
			if err != nil {
				s.source.failed(err)
				return nil
			}
			s.c, s.request.Port = c, port
		}
	}
	s.c.connected = func(local netip.AddrPort) {
		s.reached = true
		if s.member {
			local = netip.AddrPortFrom(local.Addr(), cmp.Or(s.request.Port, local.Port()))
		} else {
			local = netip.AddrPort{} // nobody is listed
		}
		s.source.connected(local)
	}
	for ctx.Err() == nil {
		pause, err := s.turn(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.source.failed(err)
		}
		if err == errNoOrigin {
			return nil
		}
		wait(ctx, pause)
	}
	if time.Now().After(s.held) || s.request.Port == 0 && s.c.From.Port() == 0 {
		return nil // not listed, or by nothing that a DELETE could name
	}
	if s.tracker.Classic() && s.c.Shared != nil && s.c.Shared(s.tracker, s.request) {
		return nil
	}
	s.c.Timeout = min(s.c.timeout(), leaving-crossing)
	return s.c.leave(context.WithoutCancel(ctx), s.tracker, s.request)
}

// hold takes note that the tracker may list this member for as long as d, whatever ends.
func (s *session) hold(d time.Duration) {
	if until := time.Now().Add(d); s.member && until.After(s.held) {
		s.held = until
	}
}

// doubt takes note of a request that has failed though it may have listed this member: its answer
// was lost, or is an error of the tracker or a gateway. A tracker over a limit (503) has done nothing.
func (s *session) doubt(err error) {
	f, refused := errors.AsType[*RefusalError](err)
	if err != nil && s.reached && !(refused && (f.Status < 500 || f.Status == 503)) {
		s.hold(wire.DefaultInterval)
	}
}

// turn asks once, follows a stream to its end if that is the answer, and returns how long to wait
// before the next turn.
func (s *session) turn(ctx context.Context) (time.Duration, error) {
	var err error
	if s.refused {
		s.refused = false
		err = s.pollInstead(ctx)
	} else if s.tracker.Classic() || time.Now().Before(s.plain) {
		err = s.poll(ctx)
	} else {
		began := time.Now()
		streamed, pause, failed := s.stream(ctx)
		if streamed && failed == nil {
			if time.Since(began) >= silence {
				s.failures = 0
			} else {
				s.failures++
				pause = max(pause, backoff(s.failures, maxBackoff, nil))
			}
			return pause, nil
		}
		err = failed
	}
	if err != nil {
		s.failures++
		most := cmp.Or(s.interval, maxBackoff)
		if s.source.spare() {
			most = plainFor // there may be no such way, or not for long
		} else if s.every > 0 {
			most = max(s.every, wire.MinInterval)
		}
		return backoff(s.failures, most, err), err
	}
	pause := jitter(s.interval, 0.2)
	if s.every > 0 && (!s.member || s.every < pause) {
		pause = s.every
	}
	return pause, nil
}

// outlive is ctx, but ends a moment later.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(crossing, cancel) })
	return later, func() {
		stop()
		cancel()
	}
}

// errNoOrigin ends a session: each of its renewals would be another peer.
var errNoOrigin = errors.New("the tracker does not tell the port of origin: give a port to stay")

// poll announces, or looks, once.
func (s *session) poll(ctx context.Context) error {
	var reply *Reply
	var cn conn
	var err error
	if s.member {
		event := ""
		if s.interval == 0 {
			event = "started"
		}
		asking, done := outlive(ctx)
		s.reached = false
		reply, cn, err = s.c.announce(asking, s.tracker, s.request, event)
		done()
		s.doubt(err)
	} else {
		reply, cn, err = s.c.look(ctx, s.tracker, s.request.Key, s.request.Want)
	}
	if err != nil {
		return err
	}
	return s.replied(reply, cn)
}

func (s *session) replied(reply *Reply, cn conn) error {
	s.hold(max(reply.TTL, reply.Interval*5/2, wire.DefaultInterval))
	if s.member {
		if err := s.keepPort(reply.You); err != nil {
			return err
		}
	}
	s.source.replied(reply, s.failures > 0 || s.lasting && !cn.reused)
	s.lasting = cn.kept && (cn.reused || s.interval == 0)
	s.interval, s.failures = reply.Interval, 0
	return nil
}

// keepPort makes the port of origin that was listed the port.
func (s *session) keepPort(you netip.AddrPort) error {
	if s.request.Port == 0 {
		s.request.Port = you.Port()
	}
	if s.request.Port == 0 {
		return errNoOrigin
	}
	return nil
}

// backoff is how long to wait after so many failures in a row, at least as long as a refusal asks for.
func backoff(failures int, interval time.Duration, err error) time.Duration {
	d := jitter(min(time.Second<<min(failures-1, 12), interval), 0.5)
	if f, ok := errors.AsType[*RefusalError](err); ok && f.Retry > d {
		d = min(f.Retry+rand.N(f.Retry/5+1), wire.MaxInterval)
	}
	return d
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
