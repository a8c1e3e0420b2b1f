package announce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
)

// maxWant is the number of peers that a session asks for if Request.Want is 0. Most trackers send no
// more.
const maxWant = 1000

const (
	maxBackoff = 15 * time.Second // the longest wait after a failure if no interval is known
	// pollTime is how long a session polls after it could not follow a stream. The track may be too
	// large for a stream, or an intermediary may buffer the stream.
	pollTime = 10 * time.Minute
	// When a tracker has ended all of its streams, its clients connect again at random times. For
	// each thousand peers they spread over returnTime.
	returnTime = 2 * time.Second
	// leaveTime bounds how long a session takes to leave. In the first part of it, endTime, the
	// session waits for the end of a stream, or for the answer to an announce that is under way.
	// Such an announce may list the member, so the leave has to follow it.
	leaveTime = 5 * time.Second
	endTime   = time.Second
	// brokenTime is how long a tracker may list a member whose stream broke. A tracker closes a
	// connection 45 s after the last acknowledgement. An intermediary does so at the second heartbeat
	// that it cannot pass on.
	brokenTime = time.Minute
)

// A session sends the requests to one source until its context ends, and then leaves. It follows the
// tracker's event stream. If there is none, it polls: it sends an announce or a look again and again.
//
// A poll follows the last one after the tracker's interval, or up to a fifth earlier. So peers that
// joined together soon poll at different times. A member keeps the port that the first reply
// reported. With another port it would be a second peer, and the first one would stay listed until
// its ttl ends.
type session struct {
	c       *Client // a client of this session alone, for the family of the source
	tracker Tracker
	request Request
	member  bool
	source  *source

	interval    time.Duration // the interval of the last reply; 0 before the first
	streamWait  time.Duration // the longest wait after a failure, by the ttl of a stream; 0 after a reply
	failures    int           // the number of rounds in a row that failed
	pollUntil   time.Time     // the session asks for no stream until then
	pollNext    bool          // the tracker refused the last stream, so the next round polls
	listedUntil time.Time     // the tracker may list this member until then, unless it leaves
	connected   bool          // the last request had a connection
	// keepsAlive is true if the next request should find the connection open. The tracker has not
	// announced that it closes the connection, and the last request reused it or was the first. If
	// the connection is closed all the same, the tracker may have been restarted.
	keepsAlive bool
}

// newSession returns a session with a client that has the settings of c and uses one network.
func (c *Client) newSession(source *source, r Request, network string, member bool) *session {
	r.Verb, r.Labels = wire.VerbAnnounce, false // streams have no labels
	if r.Want == 0 {
		r.Want = maxWant
	}
	derived := c.derive()
	derived.network = network
	return &session{c: derived, tracker: source.tracker.name, request: r, member: member, source: source}
}

// run sends requests until ctx ends, and then leaves. It returns nil if the member has left, or else
// the reason for which the tracker may still list it.
func (s *session) run(ctx context.Context) error {
	defer s.c.Close()
	s.c.onConnect = func(local netip.AddrPort) {
		s.connected = true
		if s.member {
			local = netip.AddrPortFrom(local.Addr(), cmp.Or(s.request.Port, local.Port()))
		} else {
			local = netip.AddrPort{} // a look does not list this process
		}
		s.source.recordConnection(local)
	}
	for ctx.Err() == nil {
		pause, err := s.round(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.source.recordFailure(err)
		}
		if err == errNoOrigin || err == errHiddenPort {
			return nil
		}
		wait(ctx, pause)
	}
	switch {
	case time.Now().After(s.listedUntil): // the tracker does not list this member
		return nil
	case s.request.Port == 0 && s.c.From.Port() == 0: // a leave needs a port
		return nil
	case s.tracker.Classic() && s.c.Shared != nil && s.c.Shared(s.tracker, s.request):
		return nil
	}
	// The client must not change, because a dial may go on after its request has ended.
	const limit = leaveTime - endTime
	silent := &UnreachableError{Tracker: s.tracker, Err: fmt.Errorf("%w within %v", errSilent, limit)}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, silent)
	defer cancel()
	return s.c.sendLeave(ctx, s.tracker, s.request)
}

// round sends one request. If the answer is a stream, round follows the stream to its end. It returns
// how long to wait before the next round.
func (s *session) round(ctx context.Context) (time.Duration, error) {
	var err error
	if s.pollNext {
		s.pollNext = false
		err = s.pollInstead(ctx)
	} else if s.tracker.Classic() || time.Now().Before(s.pollUntil) {
		err = s.poll(ctx)
	} else {
		began := time.Now()
		streamed, pause, streamErr := s.stream(ctx)
		if streamed && streamErr == nil {
			if time.Since(began) >= silence {
				s.failures = 0
			} else {
				s.failures++
				pause = max(pause, backoff(s.failures, maxBackoff, nil))
			}
			return pause, nil
		}
		err = streamErr
	}
	if err != nil {
		s.failures++
		longest := cmp.Or(s.streamWait, s.interval, maxBackoff)
		if s.source.otherIsUp() {
			longest = pollTime // this machine may have no path over this family
		} else if s.c.Poll > 0 {
			longest = max(s.c.Poll, wire.MinInterval)
		}
		return backoff(s.failures, longest, err), err
	}
	pause := jitter(s.interval, 0.2)
	if s.c.Poll > 0 && (!s.member || s.c.Poll < pause) {
		pause = s.c.Poll
	}
	return pause, nil
}

// poll sends one announce, or one look if this session only looks.
func (s *session) poll(ctx context.Context) error {
	if !s.member {
		reply, cn, err := s.c.look(ctx, s.tracker, s.request)
		if err != nil {
			return err
		}
		return s.useReply(reply, cn)
	}
	if s.tracker.Classic() && s.request.Port == 0 {
		port, err := s.c.originPort()
		if err != nil {
			return err
		}
		s.request.Port, s.c.From = port, netip.AddrPortFrom(s.c.From.Addr(), port)
	}
	event := ""
	if s.interval == 0 {
		event = "started"
	}
	// The request ends a moment after ctx, so that an answer that is under way can still arrive.
	requestCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(endTime, cancel) })()
	s.connected = false
	reply, cn, err := s.c.ask(requestCtx, s.tracker, s.request, event)
	s.extendListedAfter(err)
	if err != nil {
		return err
	}
	return s.useReply(reply, cn)
}

// pollInstead polls once because the session cannot follow a stream. If the poll succeeds, the
// session goes on polling for pollTime.
func (s *session) pollInstead(ctx context.Context) error {
	err := s.poll(ctx)
	if err == nil {
		s.pollUntil = time.Now().Add(jitter(pollTime, 0.5))
	}
	return err
}

// useReply records what a reply reports, for this session and its source.
func (s *session) useReply(reply *Reply, cn conn) error {
	s.extendListed(max(reply.TTL, reply.Interval*5/2, wire.DefaultInterval))
	if s.member {
		if err := s.keepPort(reply.You); err != nil {
			return err
		}
	}
	s.source.recordReply(reply, s.failures > 0 || s.keepsAlive && !cn.reused)
	s.keepsAlive = cn.kept && (cn.reused || s.interval == 0)
	s.interval, s.streamWait, s.failures = reply.Interval, 0, 0
	return nil
}

// keepPort sets the port of the following requests to the port of you, which the tracker has listed.
// It does nothing if the request has a port. If you has none, it returns errNoOrigin.
func (s *session) keepPort(you netip.AddrPort) error {
	if s.request.Port == 0 {
		s.request.Port = you.Port()
	}
	if s.request.Port == 0 {
		return errNoOrigin
	}
	return nil
}

// extendListed records that the tracker may list this member for at least d from now.
func (s *session) extendListed(d time.Duration) {
	if until := time.Now().Add(d); s.member && until.After(s.listedUntil) {
		s.listedUntil = until
	}
}

// extendListedAfter records that the tracker may list this member although the request ended with
// err. The answer may have been lost, or a gateway may have sent the error. With status 503 the
// tracker has not listed the member, because of a limit. err may be nil.
func (s *session) extendListedAfter(err error) {
	refusal, refused := errors.AsType[*RefusalError](err)
	if err != nil && s.connected && !(refused && (refusal.Status < 500 || refusal.Status == 503)) {
		s.extendListed(wire.DefaultInterval)
	}
}

// stream asks for an event stream. If it gets one, it follows the stream to its end, and returns true
// and how long to wait before the next one. It treats any other answer like the answer to a poll.
//
// At the end of ctx, a member half-closes the connection and waits until the tracker closes its side.
// This shows that the tracker no longer lists the member. A DELETE would also remove another member
// with the same endpoint. So the session sends one in two cases only: the tracker does not close its
// side, or an intermediary has closed the connection, which says nothing about the tracker.
func (s *session) stream(ctx context.Context) (streamed bool, pause time.Duration, err error) {
	r := s.request
	if r.Verb = wire.VerbAnnounce; !s.member {
		r.Verb = wire.VerbLook
	}
	requestCtx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(context.Canceled)
	var halfClose atomic.Pointer[func() error]
	var answered atomic.Bool
	defer context.AfterFunc(ctx, func() {
		// The tracker gets endTime to close its side, or to answer.
		half := halfClose.Load()
		if half != nil && (*half)() == nil || s.member && !answered.Load() {
			time.AfterFunc(endTime, func() { end(errEnded) })
		} else {
			end(errEnded)
		}
	})()
	s.connected = false
	u, err := r.URL(s.tracker, "", 0)
	if err != nil {
		return false, 0, err
	}
	u.RawQuery += "&age=1" // after numwant, which every session has
	x, err := s.c.send(requestCtx, s.tracker, http.MethodGet, u, acceptStream)
	answered.Store(err == nil)
	if err == nil {
		defer x.close()
		if !x.streams() {
			err = s.readReply(x, &r)
		}
	}
	s.extendListedAfter(err)
	refusal, refused := errors.AsType[*RefusalError](err)
	switch {
	case err != nil && ctx.Err() != nil:
		return false, 0, err
	case s.connected && errors.Is(err, errSilent), refused && refusal.Status == http.StatusNotAcceptable:
		return false, 0, s.pollInstead(ctx)
	case refused && refusal.Status >= 500:
		// The track may be too large for a stream, or the tracker may be overloaded. A poll after a
		// pause shows which of the two. The refusal is only reported if the tracker asks for a long
		// wait.
		if s.pollNext = true; refusal.Retry <= maxBackoff {
			return true, backoff(1, maxBackoff, err), nil
		}
		return false, 0, err
	case err != nil || !x.streams():
		return false, 0, err
	}

	events := wire.NewEventReader(x)
	peers, err := s.followStream(ctx, x, events, &halfClose)
	if err != io.EOF || x.relayed() {
		s.extendListed(brokenTime)
	}
	var long *wire.LongEventError
	switch {
	case ctx.Err() != nil:
		return true, 0, nil
	case err == errNoOrigin:
		return false, 0, err
	case !x.live && errors.Is(context.Cause(x.ctx), errSilent):
		return false, 0, s.pollInstead(ctx)
	case errors.As(err, &long):
		s.source.recordStreamEnd()
		s.pollUntil = time.Now().Add(pollTime)
		return false, 0, &ReplyError{s.tracker, err}
	case !x.live:
		return false, 0, &UnreachableError{Tracker: s.tracker, Err: fmt.Errorf("the event stream broke off: %w", err)}
	}
	s.source.recordStreamEnd()
	return true, afterStream(events.Retry, err == io.EOF, peers), nil
}

// readReply reads and uses a reply that is not a stream.
func (s *session) readReply(x *exchange, r *Request) error {
	if err := x.readBody(s.tracker, maxReply); err != nil {
		return err
	}
	reply, cn, err := x.decode(s.tracker, r)
	if err != nil {
		return err
	}
	return s.useReply(reply, cn)
}

// followStream reads events until the stream ends. It returns how many peers the track had then. Once
// the tracker has listed a member, followStream sets halfClose to a function that half-closes the
// connection.
func (s *session) followStream(ctx context.Context, x *exchange, events *wire.EventReader, halfClose *atomic.Pointer[func() error]) (peers int, err error) {
	var you wire.StreamEvent
	var own netip.AddrPort
	for {
		ev, err := events.Next()
		if err != nil {
			return peers, err
		}
		switch {
		case ev.Name == "you":
			if you = ev; !s.member || len(ev.Peers) != 1 {
				continue
			}
			own = ev.Peers[0]
			if err := s.keepPort(own); err != nil {
				return peers, err
			}
			if half, ok := x.netConn.(interface{ CloseWrite() error }); ok && s.c.From.Port() == 0 {
				closeWrite := sync.OnceValue(half.CloseWrite)
				if halfClose.Store(&closeWrite); ctx.Err() != nil {
					_ = closeWrite() // ctx ended before the answer came
				}
			}
		case (ev.Name == "shared" || ev.Name == "unshared") && len(ev.Peers) == 1 && s.member:
			s.source.recordShared(ev.Peers[0], ev.Name == "shared")
		case ev.Name == "peers":
			x.live, peers = true, len(ev.Peers)
			s.streamWait = min(cmp.Or(you.TTL*2/5, maxBackoff), maxBackoff)
			x.alive()
			s.source.recordList(you.Epoch, you.TTL, you.Age, own, ev.Peers)
		case ev.Name == "join" && x.live:
			peers = min(peers+len(ev.Peers), maxRoster)
			s.source.recordJoins(ev.Peers)
		case ev.Name == "leave" && x.live:
			peers = max(peers-len(ev.Peers), 0)
			s.source.recordLeaves(ev.Peers)
		}
	}
}

// afterStream returns how long to wait after a stream has ended. retry is the wait that the tracker
// last asked for, or -1. After a clean end, the tracker has probably ended all of its streams. Then
// the clients spread their next requests, over a longer time if there are more peers.
func afterStream(retry time.Duration, clean bool, peers int) time.Duration {
	if retry < 0 {
		retry = time.Second
	}
	pause := jitter(retry, 0.5)
	if clean {
		spread := returnTime * time.Duration(min(peers, maxRoster)+1) / 1000
		pause = max(pause, rand.N(min(spread, wire.MaxRetry)))
	}
	return pause
}

// backoff returns how long to wait after a number of failures in a row. The wait doubles from one
// second to longest, with jitter. A refusal may ask for a longer wait, of up to wire.MaxInterval.
func backoff(failures int, longest time.Duration, err error) time.Duration {
	d := jitter(min(time.Second<<min(failures-1, 12), longest), 0.5)
	if f, ok := errors.AsType[*RefusalError](err); ok && f.Retry > d {
		d = min(f.Retry+rand.N(f.Retry/5+1), wire.MaxInterval)
	}
	return d
}

// jitter shortens d by a random part. share is the largest part: 0.2 is a fifth of d.
func jitter(d time.Duration, share float64) time.Duration {
	return d - time.Duration(rand.Float64()*share*float64(d))
}

// wait waits for d or until ctx ends, and reports whether d has passed.
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
