// Package tracker is a complete ntrack and BitTorrent tracker without sockets.
//
// A [Tracker] decides: its one method takes a [Call], which is what a request says and where it
// comes from, and returns a [Response] with the body appended to a buffer. It keeps peers in a
// [Store], in memory unless told otherwise. [Handler] is a door to it: an http.Handler to mount
// in any Go server, next to anything else:
//
//	http.Handle("/ntrk/", tracker.Handler(&tracker.Tracker{}))
//
// The protocol is docs/PROTOCOL.md; the types that cross the wire are package announce's.
package tracker

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// Defaults of a Tracker.
const (
	DefaultMaxRate = 1000
	DefaultMaxWant = 1000
	// maxLabelled is how many peers a reply has at most that gives their peer ids. Of a peer that
	// gave none this is a SHA-1, which takes longer than all else about it.
	maxLabelled = 200
	// largeWant is how many peers a usual reply has at most.
	largeWant = 200
	// refusedInterval is what those who were refused are told where no interval was chosen.
	refusedInterval = time.Minute
	// classicTTL is the shortest ttl on the classic interface, whose clients come every 5 minutes
	// at the earliest, whatever they are told, and half an hour is not unusual.
	classicTTL = 15 * time.Minute
	// maxKept is how many peers or tracks a call may need for the next to use the same memory.
	maxKept = 4096
)

// A Tracker answers requests. The zero Tracker works. Its fields must not change once it is used,
// it must not be copied, and its methods may be called from any number of goroutines.
type Tracker struct {
	// Store keeps the peers; nil is a [memory.Store] of the Tracker's own.
	Store store.Store
	// Interval is how often peers are asked to announce, in whole seconds: 1 second to 1 hour,
	// and what lies outside counts as the nearer of these. 0 lets it follow the load, from 15
	// seconds to 30 minutes. A peer that announced natively lapses after 2.5 intervals.
	Interval time.Duration
	// MaxRate is how many announces per second the load is kept within by the interval, where that
	// follows it: 0 is DefaultMaxRate, less than 0 no limit.
	MaxRate int
	// MaxWant is how many peers one reply has at most, whatever is asked for; 0 is DefaultMaxWant.
	MaxWant int
	// Index shows everybody every key. Without it a key that cannot be guessed is private.
	Index bool
	// Token, if any, is what every request has to carry: as a bearer token (RFC 6750) or as the
	// password of basic authentication (RFC 7617). SetToken changes it later.
	Token string
	// Proxies are the networks of reverse proxies: what they say in X-Forwarded-For is believed. One
	// that comes by a Unix socket is believed in any case, and has to say it.
	Proxies []netip.Prefix

	once     sync.Once
	store    store.Store
	token    atomic.Pointer[string]
	interval time.Duration  // Interval within its bounds
	proxies  []netip.Prefix // Proxies, of canonical addresses
	scratch  sync.Pool      // of *scratch
	meter    meter

	mu      sync.Mutex
	streams map[*Stream]struct{}
	sharers map[listing]*sharers
	ended   bool
}

// A Call is one request, as far as a tracker looks at it.
type Call struct {
	Method string
	// Target is the request target as sent, never a cleaned path. It is overwritten.
	Target []byte
	// Remote is the other end of the connection. Port 0 says that the port is not known.
	Remote netip.AddrPort
	// Unix says that the connection came by a Unix socket and has no address: the other end is a
	// proxy that is trusted, and Remote is not looked at.
	Unix bool
	// Accept, Authorization and ForwardedFor (X-Forwarded-For) are the fields' values, several of
	// a name joined with commas; FetchMode is Sec-Fetch-Mode.
	Accept, Authorization, ForwardedFor, FetchMode []byte
	// Origin says that the field is there, Page that one of Referer, Sec-Purpose and Purpose is.
	Origin, Page bool
}

// scratch is what one call needs and the next can use again.
type scratch struct {
	req    wire.Request
	peers  []wire.Peer
	tracks []wire.Track

	timing timing
	ttl    func(store.Size) time.Duration // timing.ttl, as a value that is made once
}

// SetToken changes Token for the requests to come, while the Tracker is used. Streams that are open
// stay open.
func (t *Tracker) SetToken(token string) {
	t.once.Do(t.init)
	t.token.Store(&token)
}

func (t *Tracker) init() {
	t.token.Store(&t.Token)
	t.meter.start = time.Now()
	t.store = t.Store
	if t.store == nil {
		t.store = memory.New()
	}
	if t.Interval > 0 {
		t.interval = min(max(t.Interval, time.Second), wire.MaxInterval)
	}
	for _, p := range t.Proxies {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		t.proxies = append(t.proxies, p)
	}
	t.scratch.New = func() any {
		s := new(scratch)
		s.ttl = s.timing.ttl
		return s
	}
}

// refused is when to come again for those who were refused: no store has told the load.
func (t *Tracker) refused() time.Duration {
	if t.interval > 0 {
		return t.interval
	}
	return refusedInterval
}

// Prompt says whether Answer decides c without waiting for anything but a lock, in about the time
// of an announce, and with all of the reply, so that one goroutine may answer many connections in
// turn. It is not where the store may wait ([store.Store.Prompt]), for a whole index, which takes as
// long as it is, and for an event stream, which goes on.
func (t *Tracker) Prompt(c *Call) bool {
	t.once.Do(t.init)
	if !t.store.Prompt() {
		return false
	}
	for media := range mediaRanges(c.Accept) {
		if asciiEqual(media, "text/event-stream") {
			return false
		}
	}
	if !t.Index {
		return true
	}
	path, _, _ := bytes.Cut(c.Target, []byte("?"))
	return !bytes.HasSuffix(path, []byte("/ntrk/")) && !bytes.HasSuffix(path, []byte("/scrape"))
}

// Large says whether the reply to c may have so many peers that it takes many times as long as a
// usual one. It may be wrong about a request that is not what it seems.
func (t *Tracker) Large(c *Call) bool {
	for rest := c.Target; ; {
		_, value, found := bytes.Cut(rest, []byte("numwant="))
		if !found {
			return false
		}
		n, i := 0, 0
		for ; i < len(value) && value[i] != '&'; i++ {
			if n = n*10 + int(value[i]-'0'); value[i] < '0' || value[i] > '9' || n > largeWant {
				return true // or is written in a way that is not looked into
			}
		}
		rest = value[i:]
	}
}

// Answer decides one call and appends the body of the reply to dst.
func (t *Tracker) Answer(ctx context.Context, c *Call, dst []byte) (Response, []byte) {
	t.once.Do(t.init)
	resp := Response{Status: 200, CORS: c.Origin}
	if c.Method == "OPTIONS" {
		resp.Status, resp.CORS, resp.preflight = 204, true, true
		return resp, dst
	}
	s := t.scratch.Get().(*scratch)
	defer t.recycle(s)
	body, err := t.answer(ctx, c, s, &resp, dst)
	if err != nil {
		return t.refuse(c, &s.req, err, resp, dst)
	}
	return resp, body
}

// Refuse answers a request that is malformed before c is whole, such as in a header: with status
// 400, or as the classic interface does, in the form that c asks for as far as it is known. It
// appends the body of the reply to dst.
func (t *Tracker) Refuse(c *Call, reason string, dst []byte) (Response, []byte) {
	t.once.Do(t.init)
	s := t.scratch.Get().(*scratch)
	defer t.recycle(s)
	s.req.ParseForm(c.Method, c.Target)
	return t.refuse(c, &s.req, &wire.RefusalError{Status: 400, Reason: reason}, Response{CORS: c.Origin}, dst)
}

// recycle gives s to the next call, but not what few calls need as large.
func (t *Tracker) recycle(s *scratch) {
	if cap(s.peers) > maxKept {
		s.peers = nil
	}
	if cap(s.tracks) > maxKept {
		s.tracks = nil
	}
	t.scratch.Put(s)
}

// answer is the way of every request: parse, decide, one call to the store (two for a classic
// "stopped", whose reply has a count), write.
func (t *Tracker) answer(ctx context.Context, c *Call, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	req := &s.req
	parsed := req.Parse(c.Method, c.Target)
	if f, ok := parsed.(*wire.RefusalError); ok && f.Status == 404 {
		return nil, f
	}
	if token := *t.token.Load(); token != "" && !authorized(c.Authorization, token) {
		return nil, &wire.RefusalError{Status: 401, Reason: "token missing or wrong: send Authorization: Bearer TOKEN"}
	}
	if parsed != nil {
		return nil, parsed
	}
	if c.Origin && c.Method != "GET" && c.Method != "HEAD" {
		return nil, &wire.RefusalError{Status: 400, Reason: "method " + c.Method + " with an Origin: a web page may only look"}
	}
	origin, known, err := t.origin(c)
	if err != nil {
		return nil, err
	}
	if (req.Verb == wire.VerbAnnounce || req.Verb == wire.VerbLeave) && c.Method == "GET" && isBrowser(c) {
		req.Verb = wire.VerbLook
	}
	peer := wire.Peer{Endpoint: netip.AddrPortFrom(origin.Addr(), req.Port), ID: req.ID}
	if req.Port == 0 && (req.Verb == wire.VerbAnnounce || req.Verb == wire.VerbLeave) {
		if !known {
			return nil, &wire.RefusalError{Status: 400, Reason: "port is missing: behind a proxy the port of origin is not known; 1 to 65535"}
		}
		peer.Endpoint = origin
	}
	if c.Method == "GET" && req.Verb != wire.VerbScrape && streamed(req, c.Accept) {
		if req.Verb == wire.VerbLook {
			peer = wire.Peer{Endpoint: netip.AddrPortFrom(origin.Addr(), 0)}
		}
		return t.stream(ctx, req.Key.Bytes(), peer, s, resp, dst)
	}
	if req.Verb == wire.VerbScrape {
		return t.scrape(ctx, c, s, origin.Addr(), resp, dst)
	}
	form := formOf(req, c.Accept)
	want := store.Want{Peers: t.want(req), IDs: form == wire.FormatBencode && !req.Compact && !req.NoPeerID}
	if want.IDs {
		want.Peers = min(want.Peers, maxLabelled)
	}
	reply := wire.Reply{Key: req.Key, You: peer.Endpoint}
	peers := s.peers[:0]
	s.timing = t.timing(req)
	var res store.Result
	switch req.Verb {
	case wire.VerbAnnounce:
		peers, res, err = t.store.Announce(ctx, req.Key.Bytes(), peer, s.ttl, want, peers)
		if err == nil {
			t.meter.announce()
			resp.TTL = s.ttl(res.Size)
		}
	case wire.VerbLook:
		reply.You = netip.AddrPortFrom(origin.Addr(), 0)
		peers, res, err = t.store.Look(ctx, req.Key.Bytes(), origin.Addr(), want, peers)
	case wire.VerbLeave:
		err = t.store.Leave(ctx, req.Key.Bytes(), peer.Endpoint)
		if err == nil && !req.Classic {
			resp.Status = 204
			return dst, nil
		}
		if err == nil {
			_, res, err = t.store.Look(ctx, req.Key.Bytes(), origin.Addr(), store.Want{}, nil)
		}
	}
	if err != nil {
		return nil, err
	}
	reply.Count, reply.Interval, reply.TTL = res.Count, s.timing.interval(res.Size), s.ttl(res.Size)
	s.peers = peers[:0]
	resp.Type = contentType(req, form)
	return req.AppendReply(dst, form, &reply, peers), nil
}

// want is how many peers the store is to give.
func (t *Tracker) want(r *wire.Request) int {
	most := t.MaxWant
	if most <= 0 {
		most = DefaultMaxWant
	}
	switch r.Want {
	case wire.NoPeers:
		return 0
	case 0:
		return min(wire.DefaultWant, most)
	}
	return min(r.Want, most)
}

// scrape answers /scrape and the index, which is a scrape of everything.
func (t *Tracker) scrape(ctx context.Context, c *Call, s *scratch, asker netip.Addr, resp *Response, dst []byte) ([]byte, error) {
	if len(s.req.Keys) == 0 && !t.Index {
		return nil, &wire.RefusalError{Status: 404, Reason: "this tracker keeps its index to itself: ask for a key"}
	}
	tracks, err := t.store.Scrape(ctx, s.req.Keys, asker, s.tracks[:0])
	if err != nil {
		return nil, err
	}
	s.tracks = tracks[:0]
	form := formOf(&s.req, c.Accept)
	resp.Type = contentType(&s.req, form)
	dst = wire.AppendTracks(dst, form, tracks)
	clear(tracks) // keys are the store's: keep none alive in the pool
	return dst, nil
}

// refuse writes an error in the form that was asked for.
func (t *Tracker) refuse(c *Call, req *wire.Request, err error, resp Response, dst []byte) (Response, []byte) {
	var f *wire.RefusalError
	var full *store.FullError
	switch {
	case errors.As(err, &f):
	case errors.As(err, &full):
		f = &wire.RefusalError{Status: 503, Reason: full.Error(), Retry: t.refused()}
		if full.Stream {
			f.Retry = 0 // a plain request may come at once, and a stream is of no use for long
		}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f = &wire.RefusalError{Status: 503, Reason: "the store did not answer in time", Retry: t.refused()}
	default:
		// Not err's text: what a store says of itself is the operator's business.
		f = &wire.RefusalError{Status: 500, Reason: "the tracker has an error of its own"}
	}
	resp.Status, resp.Retry = f.Status, f.Retry
	resp.Close = len(c.Target) > wire.MaxTarget
	form := wire.FormatBencode
	if !req.Classic {
		form = req.Format
		if form == wire.FormatUnnamed {
			form = formAccepted(c.Accept)
		}
		if form == wire.FormatUnnamed {
			form = wire.FormatText
		}
	}
	resp.Type = contentType(req, form)
	if req.Classic {
		resp.Status, resp.Retry = 200, 0
	}
	return resp, f.Append(dst, form, t.refused())
}
