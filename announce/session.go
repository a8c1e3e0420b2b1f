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

// maxWant is how many peers a session asks for if the request does not say. Trackers usually give
// no more.
const maxWant = 1000

const (
	maxBackoff = 15 * time.Second // the longest wait after a failure while no interval is known
	// pollTime is how long a session polls after a stream was of no use: the track is too large for a
	// stream, or something on the way holds the stream back.
	pollTime = 10 * time.Minute
	// returnTime is the time over which every thousand peers spread their return to a tracker that has
	// ended its streams.
	returnTime = 2 * time.Second
	// leaveTime bounds how long a session takes to leave. endTime is the part of it for waiting:
	// for the answer to an announce that is under way, or for the end of a stream. The announce may
	// list the peer, so the peer has to leave after the answer.
	leaveTime = 5 * time.Second
	endTime   = time.Second
	// brokenTime is how long a tracker may list a member whose stream broke. A tracker gives up a
	// connection 45 s after the last acknowledgement, an intermediary at the second heartbeat that it
	// cannot pass on.
	brokenTime = time.Minute
)

// A session deals with one source until its context ends, and then leaves. It follows the tracker's
// event stream. If there is none, it polls: it announces or looks time and again.
//
// Polls come at the tracker's interval or up to a fifth earlier, so that peers that joined together
// do not stay together. A member keeps the port that the first reply reported. With another port it
// would be another peer, and the first one would stay listed until its ttl is over.
type session struct {
	c       *Client // with connections of its own, over the family of the source
	tracker Tracker
	request Request
	member  bool
	source  *source

	interval    time.Duration // of the last reply; 0 before
	failures    int           // in a row
	pollUntil   time.Time     // until then, do not ask for a stream
	pollNext    bool          // the last stream was refused, so poll next
	listedUntil time.Time     // until then the tracker may list this member, unless it leaves
	connected   bool          // the last request had a connection
	// keepsAlive says that the next request should find the connection open: the tracker has not
	// announced that it closes it, and has kept the one before, if there was one. If the connection
	// is closed all the same, the tracker may have been restarted.
	keepsAlive bool
}

// newSession returns a session that has not begun, with a client like c for one network.
func (c *Client) newSession(source *source, r Request, network string, member bool) *session {
	if r.Verb = wire.VerbAnnounce; r.Want == 0 {
		r.Want = maxWant
	}
	d := c.derive()
	d.network = network
	return &session{c: d, tracker: source.tracker.name, request: r, member: member, source: source}
}

// run deals with the source until ctx ends, and leaves. It returns nil once the member has left, or
// else why the tracker may still list it.
func (s *session) run(ctx context.Context) error {
	defer s.c.Close()
	s.c.onConnect = func(local netip.AddrPort) {
		s.connected = true
		if s.member {
			local = netip.AddrPortFrom(local.Addr(), cmp.Or(s.request.Port, local.Port()))
		} else {
			local = netip.AddrPort{} // a look lists nothing
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
	case time.Now().After(s.listedUntil): // not listed
		return nil
	case s.request.Port == 0 && s.c.From.Port() == 0: // no port that a leave could name
		return nil
	case s.tracker.Classic() && s.c.Shared != nil && s.c.Shared(s.tracker, s.request):
		return nil
	}
	s.c.Timeout = min(s.c.timeout(), leaveTime-endTime)
	return s.c.sendLeave(context.WithoutCancel(ctx), s.tracker, s.request)
}

// round sends one request. If the answer is a stream, it follows that to its end. It returns how
// long to wait before the next round.
func (s *session) round(ctx context.Context) (time.Duration, error) {
	var err error
	if s.pollNext {
		s.pollNext = false
		err = s.pollInstead(ctx)
	} else if s.tracker.Classic() || time.Now().Before(s.pollUntil) {
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
		if s.source.otherIsUp() {
			most = pollTime // this machine may have no path over this family
		} else if s.c.Poll > 0 {
			most = max(s.c.Poll, wire.MinInterval)
		}
		return backoff(s.failures, most, err), err
	}
	pause := jitter(s.interval, 0.2)
	if s.c.Poll > 0 && (!s.member || s.c.Poll < pause) {
		pause = s.c.Poll
	}
	return pause, nil
}

// poll announces, or looks, once.
func (s *session) poll(ctx context.Context) error {
	if !s.member {
		reply, cn, err := s.c.look(ctx, s.tracker, s.request)
		if err != nil {
			return err
		}
		return s.noteReply(reply, cn)
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
	// The context ends a moment after ctx, so that an answer under way can still come.
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(endTime, cancel) })()
	s.connected = false
	reply, cn, err := s.c.ask(asking, s.tracker, s.request, event)
	s.noteError(err)
	if err != nil {
		return err
	}
	return s.noteReply(reply, cn)
}

// pollInstead polls once because a stream is of no use. If that succeeds, polls go on for a while.
func (s *session) pollInstead(ctx context.Context) error {
	err := s.poll(ctx)
	if err == nil {
		s.pollUntil = time.Now().Add(jitter(pollTime, 0.5))
	}
	return err
}

func (s *session) noteReply(reply *Reply, cn conn) error {
	s.noteListed(max(reply.TTL, reply.Interval*5/2, wire.DefaultInterval))
	if s.member {
		if err := s.keepPort(reply.You); err != nil {
			return err
		}
	}
	s.source.recordReply(reply, s.failures > 0 || s.keepsAlive && !cn.reused)
	s.keepsAlive = cn.kept && (cn.reused || s.interval == 0)
	s.interval, s.failures = reply.Interval, 0
	return nil
}

// keepPort makes the port of origin that the tracker has listed the port of all further requests.
func (s *session) keepPort(you netip.AddrPort) error {
	if s.request.Port == 0 {
		s.request.Port = you.Port()
	}
	if s.request.Port == 0 {
		return errNoOrigin
	}
	return nil
}

// noteListed records that the tracker may list this member for at least d from now.
func (s *session) noteListed(d time.Duration) {
	if until := time.Now().Add(d); s.member && until.After(s.listedUntil) {
		s.listedUntil = until
	}
}

// noteError takes the error of a request. The tracker may have listed this member all the same, if
// the answer was lost or is an error of a gateway. Status 503 says that it has not, because of a
// limit.
func (s *session) noteError(err error) {
	refusal, refused := errors.AsType[*RefusalError](err)
	if err != nil && s.connected && !(refused && (refusal.Status < 500 || refusal.Status == 503)) {
		s.noteListed(wire.DefaultInterval)
	}
}

// stream asks for an event stream. If it gets one, it follows it to its end, and returns true and
// how long to wait before the next one. It treats any other answer like the answer to a poll.
//
// At the end of ctx a member half-closes the connection and waits until the tracker closes its
// side, which shows that the tracker no longer lists it. A leave by DELETE would also remove
// another member with the same endpoint. So a DELETE follows only if the tracker does not close its
// side, or if an intermediary has closed it, which proves nothing about the tracker.
func (s *session) stream(ctx context.Context) (streamed bool, pause time.Duration, err error) {
	r := s.request
	if r.Verb = wire.VerbAnnounce; !s.member {
		r.Verb = wire.VerbLook
	}
	asking, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(context.Canceled)
	var halfClose atomic.Pointer[func() error]
	var answered atomic.Bool
	defer context.AfterFunc(ctx, func() {
		// A moment for the tracker: to close its side, or to answer.
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
	x, err := s.c.send(asking, s.tracker, http.MethodGet, u, acceptStream)
	answered.Store(err == nil)
	if err == nil {
		defer x.close()
		if !x.streams() {
			err = s.readReply(x, &r)
		}
	}
	s.noteError(err)
	refusal, refused := errors.AsType[*RefusalError](err)
	switch {
	case err != nil && ctx.Err() != nil:
		return false, 0, err
	case s.connected && errors.Is(err, errSilent), refused && refusal.Status == http.StatusNotAcceptable:
		return false, 0, s.pollInstead(ctx)
	case refused && refusal.Status >= 500:
		// The track may be too large for a stream, or the tracker overloaded. A poll shows which, but not
		// at once. Only a long wait is worth a report.
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
		s.noteListed(brokenTime)
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

// readReply reads a reply that is no stream.
func (s *session) readReply(x *exchange, r *Request) error {
	if err := x.readBody(s.tracker, maxReply); err != nil {
		return err
	}
	reply, cn, err := x.decode(s.tracker, r)
	if err != nil {
		return err
	}
	return s.noteReply(reply, cn)
}

// followStream reads events until the stream ends, and returns how many peers there were then.
// Once the tracker has listed a member, it stores how to half-close the connection.
func (s *session) followStream(ctx context.Context, x *exchange, events *wire.EventReader, halfClose *atomic.Pointer[func() error]) (peers int, err error) {
	var you netip.AddrPort
	for {
		ev, err := events.Next()
		if err != nil {
			return peers, err
		}
		switch {
		case ev.Name == "you" && len(ev.Peers) == 1 && s.member:
			you = ev.Peers[0]
			if err := s.keepPort(you); err != nil {
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
			x.alive()
			s.source.recordList(events.Epoch, you, ev.Peers)
		case ev.Name == "join" && x.live:
			peers += len(ev.Peers)
			s.source.recordJoins(ev.Peers)
		case ev.Name == "leave" && x.live:
			peers = max(peers-len(ev.Peers), 0)
			s.source.recordLeaves(ev.Peers)
		}
	}
}

// afterStream returns how long to wait after a stream has ended. retry is the time that the tracker
// last asked for; it is below 0 if the tracker did not ask. After a clean end the tracker has ended
// all of its streams, so their clients spread over a time: the more peers, the longer.
func afterStream(retry time.Duration, clean bool, peers int) time.Duration {
	if retry < 0 {
		retry = time.Second
	}
	pause := jitter(retry, 0.5)
	if clean {
		spread := returnTime * time.Duration(peers+1) / 1000
		pause = max(pause, rand.N(min(spread, wire.MaxRetry)))
	}
	return pause
}

// backoff returns how long to wait after that many failures in a row: most at the longest, but no
// less than a refusal asks for.
func backoff(failures int, most time.Duration, err error) time.Duration {
	d := jitter(min(time.Second<<min(failures-1, 12), most), 0.5)
	if f, ok := errors.AsType[*RefusalError](err); ok && f.Retry > d {
		d = min(f.Retry+rand.N(f.Retry/5+1), wire.MaxInterval)
	}
	return d
}

// jitter shortens d by a random part of the share.
func jitter(d time.Duration, share float64) time.Duration {
	return d - time.Duration(rand.Float64()*share*float64(d))
}

// wait waits for d, or until ctx ends. It reports whether d has passed.
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
