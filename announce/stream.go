package announce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
)

// acceptStream asks for an event stream. A tracker without streams answers as to any announce.
const acceptStream = "text/event-stream, application/json;q=0.5"

// What ends a stream from this side.
var (
	errSilent = errors.New("no answer")
	errEnded  = errors.New("the end of the session")
)

// An openReply is a reply with its body open, which may be an event stream.
type openReply struct {
	*exchange
	quiet  *time.Timer // calls silent
	last   atomic.Bool // its next call is the last one
	cancel context.CancelCauseFunc
	ctx    context.Context
	live   bool // a stream that has begun: each byte is a sign of life
}

// catchUp is how long a process that was stopped has to read what has come meanwhile.
const catchUp = time.Second

// heard takes in a sign of life of a stream.
func (o *openReply) heard() {
	o.last.Store(false)
	o.quiet.Reset(silence - catchUp)
}

// silent ends a reply that has not come, or a stream that has been silent. To a process that was
// stopped every stream looks silent at first, also one that has something to read.
func (o *openReply) silent() {
	if o.last.Swap(true) {
		o.cancel(errSilent)
	} else {
		o.quiet.Reset(catchUp)
	}
}

// open sends an announce or a look that asks for an event stream. A reply has to come, and a
// stream to begin, within the timeout of a request. The caller must call close.
func (c *Client) open(ctx context.Context, t Tracker, r *Request) (*openReply, error) {
	u, err := r.URL(t, "", 0)
	if err != nil {
		return nil, err
	}
	c.once.Do(c.init)
	o := new(openReply)
	o.ctx, o.cancel = context.WithCancelCause(ctx)
	o.last.Store(true)
	o.quiet = time.AfterFunc(c.timeout(), o.silent)
	if o.exchange, err = c.follow(o.ctx, t, http.MethodGet, u, acceptStream); err != nil {
		o.close()
		return nil, o.why(c, t, err)
	}
	return o, nil
}

// why is the reason of an error, which may be at this end.
func (o *openReply) why(c *Client, t Tracker, err error) error {
	switch cause := context.Cause(o.ctx); {
	case cause == errSilent:
		return &UnreachableError{t, fmt.Errorf("%w within %v", errSilent, c.timeout())}
	case cause != nil && cause != context.Canceled:
		return cause
	}
	return err
}

func (o *openReply) close() {
	o.quiet.Stop()
	if o.exchange != nil {
		if o.streams() {
			_ = o.over.Close() // now, and not a little later: the next connection may come from the same port
		}
		_ = o.resp.Body.Close()
	}
	o.cancel(context.Canceled)
}

// streams says that the reply is an event stream.
func (o *openReply) streams() bool {
	media, _, _ := mime.ParseMediaType(o.resp.Header.Get("Content-Type"))
	return o.resp.StatusCode == http.StatusOK && media == "text/event-stream"
}

// relayed says that something stands between this end and the tracker, whose own stream has neither
// chunks nor a Via: its end says nothing about the tracker's.
func (o *openReply) relayed() bool {
	return o.resp.Header.Get("Via") != "" || len(o.resp.TransferEncoding) > 0
}

// Read reads the body of a stream, and lets it be silent for no longer than it may.
func (o *openReply) Read(b []byte) (int, error) {
	n, err := o.resp.Body.Read(b)
	if n > 0 && o.live {
		o.heard()
	}
	return n, err
}

// everyone is who is there as an event stream begins; ok is false where there is none.
func (c *Client) everyone(ctx context.Context, t Tracker, key Key) (peers []netip.AddrPort, ok bool) {
	o, err := c.open(ctx, t, &Request{Verb: wire.VerbLook, Key: key, Want: NoPeers})
	if err != nil {
		return nil, false
	}
	defer o.close()
	events := wire.NewEventReader(o)
	for o.streams() {
		ev, err := events.Next()
		if err != nil {
			break
		}
		if ev.Name == "peers" {
			slices.SortFunc(ev.Peers, netip.AddrPort.Compare)
			return slices.Compact(ev.Peers), true
		}
	}
	return nil, false
}

// stream asks for an event stream, and follows the one it gets until that ends: then streamed is
// true, and pause how long to wait before the next one. Any other answer it takes as that to an
// announce or a look.
//
// At the end of ctx a member half-closes the connection and waits for the tracker to close its
// side: that is how it knows that the tracker has let go of it. A DELETE would also end what
// another member with the same endpoint holds, so it is only for where that sign does not come, or
// means nothing: an intermediary may keep its own connection to the tracker open.
func (s *session) stream(ctx context.Context) (streamed bool, pause time.Duration, err error) {
	r := s.request
	if !s.member {
		r.Verb = wire.VerbLook
	}
	free, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(context.Canceled)
	var halfClose atomic.Pointer[func() error]
	var answered atomic.Bool
	defer context.AfterFunc(ctx, func() {
		switch half := halfClose.Load(); {
		case half != nil && (*half)() == nil, s.member && !answered.Load():
			time.AfterFunc(crossing, func() { end(errEnded) })
		default:
			end(errEnded)
		}
	})()
	s.reached = false
	o, err := s.c.open(free, s.tracker, &r)
	answered.Store(err == nil)
	if err == nil {
		defer o.close()
		if !o.streams() {
			err = s.take(o, &r)
		}
	}
	s.doubt(err)
	f, refused := errors.AsType[*RefusalError](err)
	switch {
	case err != nil && ctx.Err() != nil:
		return false, 0, err
	case s.reached && errors.Is(err, errSilent), refused && f.Status == http.StatusNotAcceptable:
		return false, 0, s.pollInstead(ctx)
	case refused && f.Status >= 500:
		// The track may be too large for a stream, or the tracker overloaded: a plain request tells,
		// but not at once. Only a longer wait is news.
		if s.refused = true; f.Retry <= maxBackoff {
			return true, backoff(1, maxBackoff, err), nil
		}
		return false, 0, err
	case err != nil || !o.streams():
		return false, 0, err
	}
	events := wire.NewEventReader(o)
	var you netip.AddrPort
	peers := 0
	for err == nil {
		var ev wire.StreamEvent
		if ev, err = events.Next(); err != nil {
			break
		}
		switch {
		case ev.Name == "you" && len(ev.Peers) == 1 && s.member:
			you = ev.Peers[0]
			if err := s.keepPort(you); err != nil {
				return false, 0, err
			}
			if half, ok := o.over.(interface{ CloseWrite() error }); ok && s.c.From.Port() == 0 {
				closeWrite := sync.OnceValue(half.CloseWrite)
				if halfClose.Store(&closeWrite); ctx.Err() != nil {
					_ = closeWrite() // it has ended before there was an answer
				}
			}
		case (ev.Name == "shared" || ev.Name == "unshared") && len(ev.Peers) == 1 && s.member:
			s.source.sharing(ev.Peers[0], ev.Name == "shared")
		case ev.Name == "peers":
			o.live, peers = true, len(ev.Peers)
			o.heard()
			s.source.listed(events.Epoch, you, ev.Peers)
		case ev.Name == "join" && o.live:
			peers += len(ev.Peers)
			s.source.changed(ev.Peers, true)
		case ev.Name == "leave" && o.live:
			peers = max(peers-len(ev.Peers), 0)
			s.source.changed(ev.Peers, false)
		}
	}
	if err != io.EOF || o.relayed() {
		s.hold(noticing)
	}
	var long *wire.LongEventError
	switch {
	case ctx.Err() != nil:
		return true, 0, nil
	case !o.live && context.Cause(o.ctx) == errSilent:
		return false, 0, s.pollInstead(ctx)
	case errors.As(err, &long):
		s.source.lost()
		s.plain = time.Now().Add(plainFor)
		return false, 0, &ReplyError{s.tracker, err}
	case !o.live:
		return false, 0, &UnreachableError{s.tracker, fmt.Errorf("the event stream broke off: %w", err)}
	}
	s.source.lost()
	return true, afterStream(events.Retry, err == io.EOF, peers), nil
}

// afterStream is how long to wait after a stream has ended: as long as the tracker said last, where
// it did (retry is not below 0). A clean end is that of the tracker, and of all of its streams.
func afterStream(retry time.Duration, clean bool, peers int) time.Duration {
	if retry < 0 {
		retry = time.Second
	}
	pause := jitter(retry, 0.5)
	if clean {
		spread := comeBack * time.Duration(peers+1) / 1000
		pause = max(pause, rand.N(min(spread, wire.MaxRetry)))
	}
	return pause
}

// take takes in a reply that is no stream.
func (s *session) take(o *openReply, r *Request) error {
	res, err := o.read(s.tracker, maxReply)
	if err != nil {
		return o.why(s.c, s.tracker, err)
	}
	reply, cn, err := res.reply(s.tracker, r)
	if err != nil {
		return err
	}
	return s.replied(reply, cn)
}

// pollInstead polls where a stream is of no use, and goes on so for a while if that is better.
func (s *session) pollInstead(ctx context.Context) error {
	err := s.poll(ctx)
	if err == nil {
		s.plain = time.Now().Add(jitter(plainFor, 0.5))
	}
	return err
}
