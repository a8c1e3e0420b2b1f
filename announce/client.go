package announce

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"ntrack/announce/wire"
)

// DefaultTimeout bounds a request when [Client.Timeout] is 0.
const DefaultTimeout = 10 * time.Second

// Bounds of what is read from a tracker. A reply of 1000 peers in the longest form has 100 KB.
const (
	maxReply = 4 << 20
	maxIndex = 8 << 20
)

// A Client speaks to trackers, native and classic, over HTTP and HTTPS. The zero Client works. It
// must not be copied or changed after its first use, and may be used by any number of goroutines.
// It uses no HTTP proxy: the tracker would list the proxy's address.
//
// Errors are a [*RefusalError] when the tracker answered and refused, an [*UnreachableError] when it
// did not answer, a [*ReplyError] when the answer makes no sense, or what ended the context.
type Client struct {
	// Timeout bounds each request, connecting and redirects included; 0 is DefaultTimeout.
	Timeout time.Duration
	// From is the local endpoint to connect from; a zero address or port is the system's choice. The
	// zone of a link-local address is the network interface to use.
	// With a port, the port of origin is that of a service: one that also sets SO_REUSEPORT, or
	// starts later. TCP only lets one connection at a time lead from there to a tracker.
	From netip.AddrPort
	// Dial connects instead of From, for those who need another way to the tracker, such as SOCKS;
	// nil is a plain connection. Over Dial a tracker is announced to once, not over each family. The
	// context ends after Timeout.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for https; nil means the system's roots.
	TLS *tls.Config
	// Token is sent as a bearer token to a native tracker, never to where it redirects. A classic
	// one takes credentials in its URL.
	Token string
	// Secret makes the peer ids that classic trackers are sent: each is an HMAC over the tracker, the
	// key and the port. Some of these trackers know a peer by its id alone. With the Secret of an
	// earlier process, this one can renew, and take out, what that has announced. No two machines may
	// have the same, and nobody else may learn it. When it is empty, each Client draws its own.
	Secret []byte
	// Shared is asked before a member leaves a classic tracker at the end of [Client.Join] or
	// [Client.Watch]: whether somebody else still announces this endpoint. Such a tracker knows one
	// peer for both, and the member that leaves would take out the other: it does not leave then. nil
	// says no.
	Shared func(t Tracker, r Request) bool

	mu        sync.Mutex
	byFamily  map[string]*Client         // see over
	dialsBoth bool                       // Dial has to be asked for each family
	network   string                     // "tcp4" or "tcp6", the one family to keep to, or ""
	connected func(local netip.AddrPort) // is told of connections before they are used; may be nil
	// lookup takes the place of the system's resolver where it is not nil.
	lookup    func(ctx context.Context, network, host string) ([]netip.Addr, error)
	once      sync.Once
	transport *http.Transport
	secret    []byte // Secret, or what was drawn in its place
}

// An UnreachableError says that a tracker did not answer.
type UnreachableError struct {
	Tracker Tracker
	Err     error
}

func (e *UnreachableError) Error() string {
	err, where := e.Err, ""
	if r, ok := errors.AsType[*redirectError](err); ok {
		err, where = r.err, "it redirects to "+r.host+": "
	}
	var op *net.OpError
	var call *os.SyscallError
	var dns *net.DNSError
	switch { // without addresses: the one that matters is in front already
	case errors.As(err, &dns):
		err = errors.New(dns.Err)
	case errors.As(err, &call):
		err = call.Err
	case errors.As(err, &op):
		err = op.Err
	}
	return fmt.Sprintf("tracker %s is unreachable: %s", e.Tracker.HostPort(), wire.Clean(where+err.Error()))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// A redirectError says that a request failed at a host to which the tracker redirects.
type redirectError struct {
	host string
	err  error
}

func (e *redirectError) Error() string { return "it redirects to " + e.host + ": " + e.err.Error() }
func (e *redirectError) Unwrap() error { return e.err }

// A ReplyError says that what answered at a tracker's address did not speak like one.
type ReplyError struct {
	Tracker Tracker
	Err     error
}

func (e *ReplyError) Error() string {
	return fmt.Sprintf("tracker %s: %s", e.Tracker.HostPort(), wire.Clean(e.Err.Error()))
}

func (e *ReplyError) Unwrap() error { return e.Err }

// A SharedError says that another program is listed as the same endpoint under the same key, so
// that both are one peer. A tracker with event streams reports it to a member that has given a peer
// id, of another member that has given another one.
type SharedError struct{ Endpoint netip.AddrPort }

func (e *SharedError) Error() string {
	return fmt.Sprintf("another process is listed as %s, too, and both count as one peer: each needs a port of its own", e.Endpoint)
}

func (c *Client) init() {
	c.transport = &http.Transport{
		DialContext:            c.dial,
		DialTLSContext:         c.dialTLS,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        5 * time.Minute,
		MaxIdleConnsPerHost:    1,
	}
	if c.secret = c.Secret; len(c.secret) == 0 {
		c.secret = make([]byte, sha256.Size)
		_, _ = rand.Read(c.secret)
	}
}

// Peer ids are in the usual style (BEP 20): who wrote the client, its version, and what tells it
// from others.
const idPrefix = "-NT0100-"

// newID is a peer id that has never been sent.
func newID() ID {
	var id ID
	_, _ = rand.Read(id[copy(id[:], idPrefix):])
	return id
}

// classicID is the peer id by which r goes to a classic tracker, the one it has or else the one
// that follows from the secret, and the `key` that belongs to it.
func (c *Client) classicID(t Tracker, r *Request) (id ID, key uint32) {
	hash := r.Key.InfoHash()
	text := append(hash[:], r.ID[:]...)
	text = binary.BigEndian.AppendUint16(text, r.Port)
	mac := hmac.New(sha256.New, c.secret)
	u := t.URL()
	u.User = nil // another password is the same peer
	if u.RawQuery != "" {
		u.RawQuery += "&" // earlier versions hashed it too, and the id must not change
	}
	mac.Write(append(text, u.String()...))
	sum := mac.Sum(nil)
	if id = r.ID; id == (ID{}) {
		copy(id[copy(id[:], idPrefix):], sum)
	}
	return id, binary.BigEndian.Uint32(sum[len(id)-len(idPrefix):])
}

// Close closes idle connections. A Client that is garbage needs no Close.
func (c *Client) Close() {
	c.once.Do(c.init)
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.byFamily {
		d.Close()
	}
}

// derive is a client with the same settings and connections of its own.
func (c *Client) derive() *Client {
	c.once.Do(c.init)
	if c.From.Port() != 0 {
		c.transport.CloseIdleConnections() // only one connection at a time leads from there to a tracker
	}
	d := &Client{Timeout: c.Timeout, From: c.From, Dial: c.Dial, TLS: c.TLS, Token: c.Token, Secret: c.secret, Shared: c.Shared, network: c.network, dialsBoth: c.dialsBoth, lookup: c.lookup}
	d.once.Do(d.init)
	return d
}

func (c *Client) timeout() time.Duration {
	if c.Timeout <= 0 {
		return DefaultTimeout
	}
	return c.Timeout
}

// Announce joins the track of r.Key, or renews, and returns other peers. r.Verb is not looked at.
//
// Where the tracker's name has addresses of both families it announces over each, so that peers of
// either kind can dial you: [Reply.Endpoints] tells which are listed. One that succeeds is enough.
func (c *Client) Announce(ctx context.Context, t Tracker, r Request) (*Reply, error) {
	if err := r.Key.Check(); err != nil {
		return nil, err
	}
	if t.Classic() && r.Port == 0 {
		// A classic tracker does not look at the port of origin: choose it first.
		d, port, err := c.fromSomePort()
		if err != nil {
			return nil, err
		}
		if d != c {
			defer d.Close()
		}
		c, r.Port = d, port
	}
	all := overEach(ctx, c, t, false, func(ctx context.Context, c *Client) (*Reply, error) {
		reply, _, err := c.announce(ctx, t, r, "started")
		return reply, err
	})
	reply, err := combined(ctx, all, r.Want)
	for _, f := range all {
		if err == nil && f.err != nil && f.from.IsValid() { // it may be listed from before, or now
			reply.RemoveSelf(netip.AddrPortFrom(f.from.Addr(), cmp.Or(r.Port, f.from.Port())))
		}
	}
	return reply, err
}

func (c *Client) announce(ctx context.Context, t Tracker, r Request, event string) (*Reply, conn, error) {
	r.Verb = wire.VerbAnnounce
	return c.ask(ctx, t, r, event)
}

// fromSomePort is a client that connects from a port that it already knows.
func (c *Client) fromSomePort() (*Client, uint16, error) {
	if c.From.Port() != 0 {
		return c, c.From.Port(), nil
	}
	if c.Dial != nil {
		return nil, 0, errors.New("a classic tracker does not look at the port of origin, and Dial hides it: give a port")
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return nil, 0, err
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	d := c.derive()
	d.From = netip.AddrPortFrom(c.From.Addr(), port)
	return d, port, nil
}

// Leave takes the peer with r.Port, or the port of origin, out of the track of r.Key: over each
// family, as [Client.Announce] has listed it. Each has until the timeout of a request. A family over
// which the tracker is connected to, but gives no answer or refuses, is an error.
func (c *Client) Leave(ctx context.Context, t Tracker, r Request) error {
	if err := r.Key.Check(); err != nil {
		return err
	}
	return c.leaveEach(ctx, t, r)
}

func (c *Client) leave(ctx context.Context, t Tracker, r Request) error {
	if r.Verb = wire.VerbLeave; !t.Classic() {
		u, err := r.URL(t, "", 0)
		if err != nil {
			return err
		}
		res, err := c.do(ctx, t, http.MethodDelete, u, maxReply)
		if err == nil && res.status != http.StatusNoContent {
			err = &ReplyError{t, fmt.Errorf("status %d is no answer to a leave", res.status)}
		}
		return err
	}
	r.Want = NoPeers
	if r.Port == 0 {
		r.Port = c.From.Port()
	}
	_, _, err := c.ask(ctx, t, r, "stopped")
	return err
}

// List returns up to want peers of the track (as [Request.Want]) without joining it. Where a
// tracker gives fewer though there are more, they come from the beginning of its event stream, if
// it has one. A classic tracker is asked over each family, as it may give only peers of one.
func (c *Client) List(ctx context.Context, t Tracker, key Key, want int) (*Reply, error) {
	if t.Classic() {
		return combined(ctx, overEach(ctx, c, t, false, func(ctx context.Context, c *Client) (*Reply, error) {
			reply, _, err := c.look(ctx, t, key, want)
			return reply, err
		}), want)
	}
	reply, _, err := c.look(ctx, t, key, want)
	if err != nil || !reply.Sample || len(reply.Peers) >= want {
		return reply, err
	}
	if peers, ok := c.everyone(ctx, t, key); ok {
		reply.Count, reply.Sample = len(peers), len(peers) > want
		reply.Peers = peers[:min(len(peers), want)]
	}
	return reply, nil
}

func (c *Client) look(ctx context.Context, t Tracker, key Key, want int) (*Reply, conn, error) {
	if err := key.Check(); err != nil {
		return nil, conn{}, err
	}
	r := Request{Verb: wire.VerbLook, Key: key, Want: want}
	if !t.Classic() {
		return c.ask(ctx, t, r, "")
	}
	// A classic tracker knows no looking. Most answer one who stops, without his having started;
	// the others want an announce, with a port that nobody takes for a peer, and a stop at once.
	r.Port, r.ID = 1, newID()
	stopped, cn, err := c.ask(ctx, t, r, "stopped")
	if err != nil || len(stopped.Peers) > 0 || stopped.Count == 0 {
		return stopped, cn, err
	}
	reply, last, err := c.ask(ctx, t, r, "started")
	cn.kept = last.kept // whether the look found its connection alive is for the first to say
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(c.timeout(), 2*time.Second))
	defer cancel()
	r.Want = NoPeers
	if _, _, err2 := c.ask(after, t, r, "stopped"); err == nil {
		err = err2
	}
	if err != nil {
		return nil, cn, err
	}
	reply.UncountAsker(stopped.Count)
	return reply, cn, nil
}

// Index returns every track that the tracker shows, sorted by key: the index of a native tracker,
// the full scrape of a classic one, which is asked over each family, as it may count only peers of
// one.
func (c *Client) Index(ctx context.Context, t Tracker) ([]Track, error) {
	u, err := t.IndexURL()
	if err != nil {
		return nil, err
	}
	if !t.Classic() {
		return c.index(ctx, t, u)
	}
	all := overEach(ctx, c, t, false, func(ctx context.Context, c *Client) ([]Track, error) {
		return c.index(ctx, t, u)
	})
	var tracks []Track
	for _, f := range all {
		tracks = wire.MergeTracks(tracks, f.result)
	}
	return tracks, failure(ctx, all)
}

func (c *Client) index(ctx context.Context, t Tracker, target *url.URL) ([]Track, error) {
	res, err := c.do(ctx, t, http.MethodGet, target, maxIndex)
	if err != nil {
		return nil, err
	}
	tracks, err := wire.DecodeTracks(res.body)
	return tracks, res.judge(t, err)
}

// judge tells an error of decoding from a refusal, which also the head of the reply may say more of.
func (res *result) judge(t Tracker, err error) error {
	f, refused := err.(*RefusalError)
	switch {
	case err == nil:
		return nil
	case refused:
		f.Retry = cmp.Or(res.retry, f.Retry)
		return f
	}
	return &ReplyError{t, err}
}

// ask sends an announce or a look and reads the reply.
func (c *Client) ask(ctx context.Context, t Tracker, r Request, event string) (*Reply, conn, error) {
	c.once.Do(c.init)
	var key uint32
	if t.Classic() {
		r.ID, key = c.classicID(t, &r)
	}
	u, err := r.URL(t, event, key)
	if err != nil {
		return nil, conn{}, err
	}
	res, err := c.do(ctx, t, http.MethodGet, u, maxReply)
	if err != nil {
		return nil, conn{}, err
	}
	return res.reply(t, &r)
}

// reply decodes the reply to r.
func (res *result) reply(t Tracker, r *Request) (*Reply, conn, error) {
	reply, err := r.DecodeReply(res.body, res.local)
	if err != nil {
		return nil, res.conn, res.judge(t, err)
	}
	return reply, res.conn, nil
}
