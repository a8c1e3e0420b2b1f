// Package tracker has the rules of an ntrack and BitTorrent tracker. It has no sockets.
//
// [Tracker.Answer] takes a [Call], which is a request and where it comes from, and returns a
// [Response] with the body appended to a buffer. The peers are in a [store.Store], by default in
// memory. Package server serves a Tracker over sockets, and [Handler] makes it an http.Handler for
// any Go server:
//
//	http.Handle("/ntrk/", tracker.Handler(&tracker.Tracker{}))
//
// docs/PROTOCOL.md describes the protocol, and package wire has the types that cross the wire.
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
	// maxWithIDs is how many peers a reply has at most if it gives their peer ids. The id of a peer
	// that sent none is a SHA-1, which takes longer than all the rest of that peer.
	maxWithIDs = 200
	// largeWant is how many peers a usual reply has at most.
	largeWant = 200
	// maxKept is the largest number of peers or tracks whose memory is kept for another call.
	maxKept = 4096
)

// A Tracker answers requests. The zero Tracker works. Its fields must not change once it is used,
// it must not be copied, and its methods may be called from any number of goroutines.
type Tracker struct {
	// Store has the peers; nil is a new [memory.Store].
	Store store.Store
	// Interval is how often peers are asked to announce, in whole seconds. It is 1 second to 1
	// hour; a value outside counts as the nearer of these. 0 lets the interval follow the load,
	// from 15 seconds to 30 minutes. A peer that announced natively lapses after 2.5 intervals.
	Interval time.Duration
	// MaxRate is how many announces per second an interval that follows the load allows. 0 is
	// DefaultMaxRate, less than 0 is no limit.
	MaxRate int
	// MaxWant is how many peers one reply has at most, even if a client wants more. 0 is
	// DefaultMaxWant.
	MaxWant int
	// Index lets everybody list all keys. Without it a key that cannot be guessed is private.
	Index bool
	// Token, unless empty, must be in every request: as a bearer token (RFC 6750) or as the
	// password of basic authentication (RFC 7617). SetToken changes it later.
	Token string
	// Proxies are the networks of trusted reverse proxies, which send X-Forwarded-For. A proxy that
	// comes by a Unix socket is always trusted, and must send it.
	Proxies []netip.Prefix

	once     sync.Once
	store    store.Store
	token    atomic.Pointer[string]
	interval time.Duration  // Interval within its bounds
	proxies  []netip.Prefix // Proxies for canonical addresses
	scratch  sync.Pool      // of *scratch
	meter    meter

	mu      sync.Mutex
	streams map[*Stream]struct{}
	sharers map[listing]*sharers
	ended   bool // EndStreams was called
}

// scratch is memory that a call needs and another can use again.
type scratch struct {
	req    wire.Request
	peers  []wire.Peer
	tracks []wire.Track

	timing timing
	ttlOf  func(store.Size) time.Duration // timing.ttl, as a func value that is made once
}

// SetToken changes Token for later requests. It may be called while the Tracker is used. Open
// streams stay open.
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
		s.ttlOf = s.timing.ttl
		return s
	}
}

// AtOnce says whether Answer needs no longer than for an announce, does not wait, and returns the
// whole reply. Then one goroutine may serve many connections. It returns false if the store may
// block ([store.Store.NeverBlocks]), or if c lists a whole index or opens an event stream. AtOnce
// must be called before Answer.
func (t *Tracker) AtOnce(c *Call) bool {
	t.once.Do(t.init)
	if !t.store.NeverBlocks() || c.parseAccept().stream {
		return false
	}
	if !t.Index {
		return true
	}
	path, _, _ := bytes.Cut(c.Target, []byte("?"))
	return !bytes.HasSuffix(path, []byte("/ntrk/")) && !bytes.HasSuffix(path, []byte("/scrape"))
}

// Large says whether the reply to c may have so many peers that it takes many times as long as a
// usual one. It may be wrong about a request that is malformed. It must be called before Answer.
func (t *Tracker) Large(c *Call) bool {
	for rest := c.Target; ; {
		_, value, found := bytes.Cut(rest, []byte("numwant="))
		if !found {
			return false
		}
		n, i := 0, 0
		for ; i < len(value) && value[i] != '&'; i++ {
			if n = n*10 + int(value[i]-'0'); value[i] < '0' || value[i] > '9' || n > largeWant {
				return true // or it is escaped, and is not decoded here
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
	body, err := t.decide(ctx, c, s, &resp, dst)
	if err != nil {
		return t.appendRefusal(c, &s.req, err, dst)
	}
	return resp, body
}

// Refuse answers a request that is malformed in a part which is not in c, such as a header field.
// The status is 400, or that of the classic interface, and the format is that of the request as far
// as c has it. The body of the reply is appended to dst.
func (t *Tracker) Refuse(c *Call, reason string, dst []byte) (Response, []byte) {
	t.once.Do(t.init)
	s := t.scratch.Get().(*scratch)
	defer t.recycle(s)
	_ = s.req.Parse(c.Method, c.Target) // only for the form of the answer
	return t.appendRefusal(c, &s.req, &wire.RefusalError{Status: 400, Reason: reason}, dst)
}

// recycle keeps s for another call, without the memory that only a large call needs.
func (t *Tracker) recycle(s *scratch) {
	if cap(s.peers) > maxKept {
		s.peers = nil
	}
	if cap(s.tracks) > maxKept {
		s.tracks = nil
	}
	t.scratch.Put(s)
}

// decide is what happens to every request: it is parsed and checked, the store is called once, and
// the reply is written. Only a classic "stopped" calls the store twice, because its reply has a
// count.
func (t *Tracker) decide(ctx context.Context, c *Call, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	req := &s.req
	peer, err := t.checkCall(c, req)
	if err != nil {
		return nil, err
	}
	accept := c.parseAccept()
	format := replyFormat(req, accept, wire.FormatBencode)
	switch {
	case req.Verb == wire.VerbScrape:
		return t.listTracks(ctx, peer.Endpoint.Addr(), format, s, resp, dst)
	case c.Method == "GET" && accept.stream && !req.Classic && req.Format == wire.FormatUnnamed:
		return t.openStream(ctx, req.Key.Bytes(), peer, s, resp, dst)
	}
	want := store.Want{Peers: t.wantedPeers(req), IDs: format == wire.FormatBencode && !req.Compact && !req.NoPeerID}
	if want.IDs {
		want.Peers = min(want.Peers, maxWithIDs)
	}
	peers := s.peers[:0]
	s.timing = t.timingOf(req)
	var res store.Result
	switch req.Verb {
	case wire.VerbAnnounce:
		peers, res, err = t.store.Announce(ctx, req.Key.Bytes(), peer, s.ttlOf, want, peers)
		if err == nil {
			t.meter.count()
			resp.TTL = s.timing.ttl(res.Size)
		}
	case wire.VerbLook:
		peers, res, err = t.store.Look(ctx, req.Key.Bytes(), peer.Endpoint.Addr(), want, peers)
	case wire.VerbLeave:
		err = t.store.Leave(ctx, req.Key.Bytes(), peer.Endpoint)
		if err == nil && !req.Classic {
			resp.Status = 204
			return dst, nil
		}
		if err == nil {
			_, res, err = t.store.Look(ctx, req.Key.Bytes(), peer.Endpoint.Addr(), store.Want{}, nil)
		}
	}
	if err != nil {
		return nil, err
	}
	reply := wire.Reply{Key: req.Key, You: peer.Endpoint, Count: res.Count, Interval: s.timing.interval(res.Size), TTL: s.timing.ttl(res.Size)}
	s.peers = peers[:0]
	resp.Type = contentType(req, format)
	return req.AppendReply(dst, format, &reply, peers), nil
}

// checkCall reads a call into req and applies the rules that do not need the store. It returns the
// peer. The peer of a call that only looks has port 0 and no id.
func (t *Tracker) checkCall(c *Call, req *wire.Request) (wire.Peer, error) {
	err := req.Parse(c.Method, c.Target)
	if f, ok := err.(*wire.RefusalError); ok && f.Status == 404 {
		return wire.Peer{}, err
	}
	if token := *t.token.Load(); token != "" && !c.hasToken(token) {
		return wire.Peer{}, &wire.RefusalError{Status: 401, Reason: "token missing or wrong: send Authorization: Bearer TOKEN"}
	}
	if err != nil {
		return wire.Peer{}, err
	}
	if c.Origin && c.Method != "GET" && c.Method != "HEAD" {
		return wire.Peer{}, &wire.RefusalError{Status: 400, Reason: "method " + c.Method + " with an Origin: a web page may only look"}
	}
	origin, err := t.origin(c)
	if err != nil {
		return wire.Peer{}, err
	}
	registers := req.Verb == wire.VerbAnnounce || req.Verb == wire.VerbLeave
	if registers && c.Method == "GET" && c.fromBrowser() {
		req.Verb, registers = wire.VerbLook, false
	}
	switch {
	case !registers:
		return wire.Peer{Endpoint: netip.AddrPortFrom(origin.Addr(), 0)}, nil
	case req.Port != 0:
		origin = netip.AddrPortFrom(origin.Addr(), req.Port)
	case origin.Port() == 0:
		return wire.Peer{}, &wire.RefusalError{Status: 400, Reason: "port is missing: behind a proxy the port of origin is not known; 1 to 65535"}
	}
	return wire.Peer{Endpoint: origin, ID: req.ID}, nil
}

// wantedPeers returns how many peers the reply may have.
func (t *Tracker) wantedPeers(r *wire.Request) int {
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

// listTracks replies to a scrape and to a request for the index, which is a scrape of all keys.
func (t *Tracker) listTracks(ctx context.Context, asker netip.Addr, format wire.Format, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	if len(s.req.Keys) == 0 && !t.Index {
		return nil, &wire.RefusalError{Status: 404, Reason: "this tracker keeps its index to itself: ask for a key"}
	}
	tracks, err := t.store.Scrape(ctx, s.req.Keys, asker, s.tracks[:0])
	if err != nil {
		return nil, err
	}
	s.tracks = tracks[:0]
	resp.Type = contentType(&s.req, format)
	dst = wire.AppendTracks(dst, format, tracks)
	clear(tracks) // the keys belong to the store, and the pool must not keep them alive
	return dst, nil
}

// replyFormat returns the format of a reply: that of the classic interface, or the one that the
// request names, or the one that Accept names, or else the given one.
func replyFormat(r *wire.Request, a *accepted, otherwise wire.Format) wire.Format {
	switch {
	case r.Classic:
		return wire.FormatBencode
	case r.Format != wire.FormatUnnamed:
		return r.Format
	case a.format != wire.FormatUnnamed:
		return a.format
	}
	return otherwise
}

func contentType(r *wire.Request, f wire.Format) string {
	switch {
	case r.Classic:
		return "text/plain"
	case f == wire.FormatJSON:
		return "application/json"
	case f == wire.FormatText:
		return "text/plain; charset=utf-8"
	}
	return "application/x-bencode"
}

// appendRefusal appends the reply to a request that ended with err.
func (t *Tracker) appendRefusal(c *Call, req *wire.Request, err error, dst []byte) (Response, []byte) {
	var f *wire.RefusalError
	var full *store.FullError
	switch {
	case errors.As(err, &f):
	case errors.As(err, &full):
		f = &wire.RefusalError{Status: 503, Reason: full.Error(), Retry: t.refusalInterval()}
		if full.Stream {
			f.Retry = 0 // a plain request may follow at once
		}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f = &wire.RefusalError{Status: 503, Reason: "the store did not answer in time", Retry: t.refusalInterval()}
	default:
		// The text of err is for the operator, not for a client.
		f = &wire.RefusalError{Status: 500, Reason: "the tracker has an error of its own"}
	}
	format := replyFormat(req, c.parseAccept(), wire.FormatText)
	resp := Response{Status: f.Status, Type: contentType(req, format), Retry: f.Retry, CORS: c.Origin, Close: len(c.Target) > wire.MaxTarget}
	if req.Classic {
		resp.Status, resp.Retry = 200, 0
	}
	return resp, f.Append(dst, format, t.refusalInterval())
}
