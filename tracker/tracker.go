// Package tracker has the rules of an ntrack and BitTorrent tracker. It has no sockets.
//
// [Tracker.Answer] takes a [Call], which is a request and the address it comes from. It returns a
// [Response], and appends the body to a buffer. The peers are in a [store.Store], by default in
// memory. Package server serves a Tracker over sockets. [Handler] makes it an http.Handler for any
// Go server:
//
//	http.Handle("/ntrk/", tracker.Handler(&tracker.Tracker{}))
//
// The native interface is at /ntrk/. The classic interface, for BitTorrent clients, is at /announce,
// /tracker and /scrape. A track is the set of peers that announce under one key. An announce or a
// leave changes a track. A look only asks for its peers.
//
// docs/PROTOCOL.md describes the protocol, and package wire has the types that cross the wire.
package tracker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"hash/maphash"
	"io/fs"
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
	// maxWithIDs is how many peers a reply may have if it has their peer ids. If a peer sent no
	// id, the reply has the SHA-1 hash of its endpoint instead. Computing this hash takes longer
	// than everything else about that peer.
	maxWithIDs = 200
	// largeWant is the limit for [Tracker.Large]: a reply with more peers is large.
	largeWant = 200
	// maxTargets is how many peers a reply for Prometheus may have. It has all of them, or none.
	maxTargets = 10_000
	// maxKept is the largest number of peers or tracks whose memory is kept for another call. The
	// list at the beginning of a stream has up to 10,000 peers. Thousands of streams may begin within
	// a second.
	maxKept = 10_240
)

// A Tracker answers requests. The zero Tracker works. Do not copy a Tracker, and do not change its
// fields after its first use. Any number of goroutines may call its methods.
type Tracker struct {
	// Store has the peers; nil is a new [memory.Store].
	Store store.Store
	// Interval is how often peers are asked to announce, in whole seconds. Less than 1 second
	// counts as 1 second, and more than 1 hour as 1 hour. 0 lets the interval follow the load, from
	// 15 seconds to 30 minutes. A peer that announced on the native interface lapses
	// after 2.5 intervals.
	Interval time.Duration
	// MaxRate limits the announces per second, if the interval follows the load: the interval
	// grows until no more arrive. Announces above the limit are not refused. If Interval is set,
	// MaxRate has no effect. 0 is DefaultMaxRate, less than 0 is no limit.
	MaxRate int
	// MaxWant is how many peers a reply may have, even if the client wants more. 0 is
	// DefaultMaxWant.
	MaxWant int
	// Index lets everybody list all keys. Without it a key that nobody can guess is private.
	Index bool
	// MaxIndex is how many bytes the index may have, about. A larger one is refused. To make one takes
	// two or three times as much, so the tracker makes one at a time. 0 is no limit.
	MaxIndex int64
	// Tokens, unless empty, are the access tokens of clients. Every request must have one of them:
	// as a bearer token (RFC 6750) or as the password of basic authentication (RFC 7617), or on the
	// classic interface in the path, as in /TOKEN/announce. SetTokens changes them later.
	Tokens []string
	// Denial has the keys and networks that the tracker refuses. SetDenial changes it later.
	Denial *Denial
	// Proxies are the networks of trusted reverse proxies, which send X-Forwarded-For. A proxy that
	// connects to a Unix socket is always trusted, and must send X-Forwarded-For.
	Proxies []netip.Prefix
	// Exempt are the networks without limits by address, which docs/operating.md describes. All other
	// addresses have them: Answer refuses a client that asks for too much in a second. nil is the
	// loopback addresses, and a list without networks is nobody.
	Exempt []netip.Prefix
	// Page, unless nil, is a page for people. A browser that visits / or a path below /ntrk/ gets its
	// index.html, and the other files are below /.ntrack/. In index.html each reference to one of them
	// begins with ".ntrack/, with the quotation mark. Package page has such a page.
	Page fs.FS
	// PageLocal gives Page only to clients at loopback addresses.
	PageLocal bool

	once      sync.Once
	table     store.Store // Store, or the one in memory
	store     store.Store // table for the calls of clients: behind a gate if it may block
	tokens    atomic.Pointer[tokens]
	denial    atomic.Pointer[Denial]
	unremoved atomic.Bool    // the store may still have peers of denied keys, after an error
	interval  time.Duration  // Interval within its bounds
	proxies   []netip.Prefix // Proxies, with ::ffff:a.b.c.d written as a.b.c.d
	exempt    []netip.Prefix // Exempt, written the same way
	limits    limits
	indexing  chan struct{} // has room while no index is being made
	scratch   sync.Pool     // of *scratch
	meter     meter
	counters  [numCounters]counters
	made      atomic.Uint32 // how many of scratch were made
	unnamed   unnamedProxy

	mu      sync.Mutex
	streams []*Stream            // the open ones
	shared  map[listing]*sharers // the open streams with a peer id, by listing
	ended   bool                 // EndStreams was called
}

// A scratch is the memory of a call, which a later call uses again.
type scratch struct {
	req    wire.Request
	peers  []wire.Peer
	tracks []wire.Track

	timing   timing
	kind     kind                           // of the request, as far as it is known
	counters int                            // the index of the counters for this memory
	ttlOf    func(store.Size) time.Duration // timing.ttl; kept, because making this func value allocates
}

func (t *Tracker) init() {
	t.tokens.Store(hashTokens(t.Tokens))
	t.denial.Store(t.Denial)
	t.limits.used.Bytes = rateTable
	t.indexing = make(chan struct{}, 1)
	t.meter.start = time.Now()
	t.unnamed.seed = maphash.MakeSeed()
	t.table = t.Store
	if t.table == nil {
		t.table = memory.New()
	}
	if t.store = t.table; !t.table.NeverBlocks() {
		t.store = newGate(t.table)
	}
	if t.Interval > 0 {
		t.interval = min(max(t.Interval, time.Second), wire.MaxInterval)
	}
	for _, p := range t.Proxies {
		t.proxies = append(t.proxies, unmapped(p))
	}
	for _, p := range t.Exempt {
		t.exempt = append(t.exempt, unmapped(p))
	}
	t.scratch.New = func() any {
		s := new(scratch)
		s.counters = int(t.made.Add(1) % numCounters)
		s.ttlOf = s.timing.ttl
		return s
	}
}

// AtOnce says whether Answer returns the whole reply to c in about the time of an announce, and
// never waits. If AtOnce returns true, a goroutine that serves many connections may call Answer.
// AtOnce returns false if the store may block ([store.Store.NeverBlocks]). If Index is set, it also
// returns false for every scrape and for the index. Call AtOnce before Answer, which overwrites
// c.Target. The methods of a stream never wait.
func (t *Tracker) AtOnce(c *Call) bool {
	t.once.Do(t.init)
	if !t.store.NeverBlocks() {
		return false
	}
	if !t.Index {
		return true
	}
	path, _, _ := bytes.Cut(c.Target, []byte("?"))
	return !bytes.HasSuffix(path, []byte("/ntrk/")) && !bytes.HasSuffix(path, []byte("/scrape"))
}

// MayWait says whether Answer may wait for the store. It is always the same. The methods of a stream never
// wait.
func (t *Tracker) MayWait() bool {
	t.once.Do(t.init)
	return !t.table.NeverBlocks()
}

// Large says whether the reply to c may have more than 200 peers, as an event stream may, and so
// take much longer than most replies. It may be wrong about a malformed request. Call Large before
// Answer, which overwrites c.Target.
func (t *Tracker) Large(c *Call) bool {
	if c.parseAccept().stream {
		return true
	}
	for rest := c.Target; ; {
		_, value, found := bytes.Cut(rest, []byte("format="))
		if !found {
			break
		}
		value, rest, _ = bytes.Cut(value, []byte("&"))
		if string(value) == "http_sd" || bytes.IndexByte(value, '%') >= 0 { // it may be escaped, as below
			return true
		}
	}
	for rest := c.Target; ; {
		_, value, found := bytes.Cut(rest, []byte("numwant="))
		if !found {
			return false
		}
		n, i := 0, 0
		for ; i < len(value) && value[i] != '&'; i++ {
			if value[i] < '0' || value[i] > '9' {
				return true // the number may be escaped, and Large does not decode it
			}
			if n = n*10 + int(value[i]-'0'); n > largeWant {
				return true
			}
		}
		rest = value[i:]
	}
}

// Answer carries out the request of c and returns the reply. It appends the body of the reply to
// dst.
func (t *Tracker) Answer(ctx context.Context, c *Call, dst []byte) (Response, []byte) {
	t.once.Do(t.init)
	resp := Response{Status: 200, CORS: c.HasOrigin}
	if c.Method == "OPTIONS" {
		resp.Status, resp.CORS, resp.preflight = 204, true, true
		return resp, dst
	}
	if t.Page != nil && (c.parseAccept().page || bytes.HasPrefix(c.Target, []byte(pageParts))) {
		if resp, body, ok := t.answerPage(ctx, c, dst); ok {
			return resp, body
		}
	}
	s := t.scratch.Get().(*scratch)
	defer t.recycle(s)
	s.kind = kindOther
	body, err := t.decide(ctx, c, s, &resp, dst)
	t.count(s, err)
	if err != nil {
		return t.appendRefusal(c, &s.req, err, dst)
	}
	return resp, body
}

// Check returns nil if the store answers a look within ctx, and if the streams are not stuck. Each call
// looks at another key, so many calls look at all parts of a store. A store that says that it is not
// available answers: another process in place of this one could not reach its database either.
func (t *Tracker) Check(ctx context.Context) error {
	t.once.Do(t.init)
	t.mu.Lock()
	_ = len(t.streams)
	t.mu.Unlock()
	_, _, err := t.table.Look(ctx, []byte(rand.Text()), netip.IPv6Loopback(), store.Want{Peers: 1}, nil)
	if errors.Is(err, store.ErrUnavailable) {
		return nil
	}
	return err
}

// Refuse returns the reply to a request that is malformed in a way that c cannot show, such as a
// header line without a colon. The status is 400, or 200 on the classic interface. The format is the
// one that c asks for. Refuse appends the body of the reply to dst.
func (t *Tracker) Refuse(c *Call, reason string, dst []byte) (Response, []byte) {
	t.once.Do(t.init)
	s := t.scratch.Get().(*scratch)
	defer t.recycle(s)
	_ = t.parse(c, &s.req) // only for the format
	refusal := &wire.RefusalError{Status: 400, Reason: reason}
	s.kind = kindOther
	t.count(s, refusal)
	return t.appendRefusal(c, &s.req, refusal, dst)
}

// recycle keeps s for another call, but without memory that only a large call needs.
func (t *Tracker) recycle(s *scratch) {
	if cap(s.peers) > maxKept {
		s.peers = nil
	}
	if cap(s.tracks) > maxKept {
		s.tracks = nil
	}
	t.scratch.Put(s)
}

// decide parses and checks a request, calls the store once, and appends the body of the reply to
// dst. Only a classic "stopped" calls the store twice, because its reply has a count.
func (t *Tracker) decide(ctx context.Context, c *Call, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	req := &s.req
	peer, err := t.checkCall(c, req)
	if err != nil {
		return nil, err
	}
	s.kind = kindOf(req.Verb)
	c.denial = t.denial.Load()
	if err := c.denial.checkDenial(req, peer.Endpoint.Addr()); err != nil {
		return nil, err
	}
	accept := c.parseAccept()
	format := replyFormat(req, accept, wire.FormatBencode)
	switch {
	case req.Verb == wire.VerbScrape:
		if err := t.checkRate(ctx, peer.Endpoint.Addr(), req, lookRate, t.unitsOfScrape(len(req.Keys)), t.meter.now()); err != nil {
			return nil, err
		}
		return t.listTracks(ctx, peer.Endpoint.Addr(), format, s, resp, dst)
	case c.Method == "GET" && accept.stream && !req.Classic && req.Format == wire.FormatUnnamed:
		s.kind = kindStream
		return t.openStream(ctx, c, peer, s, resp, dst)
	}
	dictionaries := format == wire.FormatBencode && !req.Compact && !req.NoPeerID
	want := store.Want{Peers: t.wantedPeers(req), IDs: dictionaries || format == wire.FormatJSON && req.Labels}
	if dictionaries {
		want.Peers = min(want.Peers, maxWithIDs)
	}
	if format == wire.FormatHTTPSD {
		want.Peers = maxTargets + 1 // a part of the list would end the scraping of the others
	}
	peers, now, addr := s.peers[:0], t.meter.now(), peer.Endpoint.Addr()
	if err := t.checkRate(ctx, addr, req, rateOf(req), unitsOf(want), now); err != nil {
		return nil, err
	}
	s.timing = t.timingOf(req, now)
	var res store.Result
	switch req.Verb {
	case wire.VerbAnnounce:
		peers, res, err = t.store.Announce(ctx, req.Key.Bytes(), peer, s.ttlOf, want, peers)
		if err == nil && t.deniedSince(c.denial, req.Key.Bytes()) {
			// SetDenial may have removed the track before the peer joined.
			err = cmp.Or(t.table.Leave(ctx, req.Key.Bytes(), peer.Endpoint), denied("key"))
		}
		if err == nil {
			t.meter.count()
			t.chargeKey(addr, res.Size, now)
			resp.UnnamedProxy = len(t.proxies) == 0 && t.unnamed.record(c, req.Key.Bytes(), time.Now())
			resp.TTL = s.timing.ttl(res.Size)
		}
	case wire.VerbLook:
		peers, res, err = t.store.Look(ctx, req.Key.Bytes(), peer.Endpoint.Addr(), want, peers)
	case wire.VerbLeave:
		if err := t.store.Leave(ctx, req.Key.Bytes(), peer.Endpoint); err != nil {
			return nil, err
		}
		if !req.Classic {
			resp.Status = 204
			return dst, nil
		}
		_, res, err = t.store.Look(ctx, req.Key.Bytes(), peer.Endpoint.Addr(), store.Want{}, nil)
	}
	if err != nil {
		return nil, err
	}
	if format == wire.FormatHTTPSD && len(peers) > maxTargets {
		return nil, &store.FullError{What: "peers for format http_sd", Max: maxTargets}
	}
	reply := wire.Reply{Key: req.Key, You: peer.Endpoint, Count: res.Count, Interval: s.timing.interval(res.Size), TTL: s.timing.ttl(res.Size)}
	s.peers = peers[:0]
	resp.Type = contentType(req, format)
	return req.AppendReply(dst, format, &reply, peers), nil
}

// checkCall parses a call into req and applies the rules that do not need the store. It returns the
// peer that sent the call. If the call is no announce and no leave, the peer has port 0 and no id.
func (t *Tracker) checkCall(c *Call, req *wire.Request) (wire.Peer, error) {
	err := t.parse(c, req)
	if refusal, ok := err.(*wire.RefusalError); ok && refusal.Status == 404 {
		return wire.Peer{}, err // a wrong path needs no token
	}
	if !t.tokens.Load().admit(c, req.Token) {
		return wire.Peer{}, &wire.RefusalError{Status: 401, Reason: "token missing or wrong: send Authorization: Bearer TOKEN"}
	}
	if err != nil {
		return wire.Peer{}, err
	}
	if c.HasOrigin && c.Method != "GET" && c.Method != "HEAD" {
		return wire.Peer{}, &wire.RefusalError{Status: 400, Reason: "method " + c.Method + " with the header field Origin: a web page may only send GET"}
	}
	client, err := t.clientOf(c)
	if err != nil {
		return wire.Peer{}, err
	}
	registers := req.Verb == wire.VerbAnnounce || req.Verb == wire.VerbLeave
	if registers && c.Method == "GET" && (c.ProxyItself || c.fromBrowser()) {
		// A web page must not be able to list its visitors, so the request only looks. So does the
		// health check of a proxy, which has no peer to list.
		req.Verb, registers = wire.VerbLook, false
	}
	switch {
	case registers && c.ProxyItself:
		return wire.Peer{}, &wire.RefusalError{Status: 400, Reason: "the proxy sent this request for itself (PROXY LOCAL or UNKNOWN), so there is no peer to list or to remove"}
	case !registers:
		return wire.Peer{Endpoint: netip.AddrPortFrom(client.Addr(), 0)}, nil
	case req.Port != 0:
		client = netip.AddrPortFrom(client.Addr(), req.Port)
	case client.Port() == 0:
		return wire.Peer{}, &wire.RefusalError{Status: 400, Reason: "port is missing, and a proxy hides the client's port: send port=N, 1 to 65535"}
	}
	return wire.Peer{Endpoint: client, ID: req.ID}, nil
}

// parse parses a call. A path with a token exists only if clients need tokens.
func (t *Tracker) parse(c *Call, req *wire.Request) error {
	err := req.Parse(c.Method, c.Target)
	if req.Token != nil && len(*t.tokens.Load()) == 0 {
		*req = wire.Request{Keys: req.Keys[:0]}
		return wire.NoPath()
	}
	return err
}

// wantedPeers returns how many peers the reply may have. It ignores maxWithIDs.
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

// replyFormat returns the format of a reply. It is bencode on the classic interface, or else the
// format in the query, or else the format in Accept, or else fallback.
func replyFormat(r *wire.Request, a *accepted, fallback wire.Format) wire.Format {
	switch {
	case r.Classic:
		return wire.FormatBencode
	case r.Format != wire.FormatUnnamed:
		return r.Format
	case a.format != wire.FormatUnnamed:
		return a.format
	}
	return fallback
}

func contentType(r *wire.Request, f wire.Format) string {
	switch {
	case r.Classic:
		return "text/plain"
	case f == wire.FormatJSON || f == wire.FormatHTTPSD:
		return "application/json"
	case f == wire.FormatText:
		return "text/plain; charset=utf-8"
	}
	return "application/x-bencode"
}

// appendRefusal returns the reply to a request that failed with err, and appends its body to dst.
func (t *Tracker) appendRefusal(c *Call, req *wire.Request, err error, dst []byte) (Response, []byte) {
	var refusal *wire.RefusalError
	var limited *rateError
	var full *store.FullError
	switch {
	case errors.As(err, &refusal):
	case errors.As(err, &limited):
		if req.Classic { // retry in has minutes
			limited.wait = (limited.wait + time.Minute - 1).Truncate(time.Minute)
		}
		refusal = &wire.RefusalError{Status: 503, Reason: limited.Error(), Retry: limited.wait}
	case errors.As(err, &full):
		refusal = &wire.RefusalError{Status: 503, Reason: full.Error(), Retry: t.refusalInterval()}
		if full.Stream {
			refusal.Retry = 0 // the client may announce at once instead
		}
	case errors.Is(err, errLargeIndex):
		refusal = &wire.RefusalError{Status: 503, Reason: errLargeIndex.Error(), Retry: t.refusalInterval()}
	case errors.Is(err, errSlow):
		refusal = storeRefusal(errSlow.Error())
	case errors.Is(err, store.ErrUnavailable):
		refusal = storeRefusal("the shared table does not answer now")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		refusal = &wire.RefusalError{Status: 503, Reason: "the store did not answer in time", Retry: t.refusalInterval()}
	default:
		// A client must not see the text of err.
		refusal = &wire.RefusalError{Status: 500, Reason: "the tracker has an error of its own"}
	}
	format := replyFormat(req, c.parseAccept(), wire.FormatText)
	resp := Response{Status: refusal.Status, Type: contentType(req, format), Retry: refusal.Retry, CORS: c.HasOrigin}
	resp.Close = len(c.Target) > wire.MaxTarget // docs/PROTOCOL.md, The target
	if req.Classic {
		resp.Status, resp.Retry = 200, 0
	}
	return resp, refusal.Append(dst, format, t.refusalInterval())
}
