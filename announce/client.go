package announce

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"ntrack/announce/wire"
)

// DefaultTimeout bounds a request if [Client.Timeout] is 0.
const DefaultTimeout = 10 * time.Second

// A Client speaks to trackers, native and classic, over HTTP and HTTPS. The zero Client is ready to
// use. Do not copy or change it after its first use. Any number of goroutines may use it at once.
// It uses no HTTP proxy, since the tracker would list the proxy's address.
//
// An error of a Client is one of these, possibly wrapped:
//   - [*RefusalError]: the tracker answered, and refused.
//   - [*UnreachableError]: the tracker did not answer.
//   - [*ReplyError]: the answer makes no sense.
//   - [*SharedError]: another program is listed as the same endpoint.
//   - The cause of a context that has ended.
//   - A plain error for a request that cannot be sent, such as one without a key.
type Client struct {
	// Timeout bounds each request, with its connection and redirects. 0 is DefaultTimeout.
	Timeout time.Duration
	// Poll is how often a watch or a membership polls a tracker that has no event streams. 0 is the
	// interval that the tracker reports. A member never polls less often than at that interval.
	// Gather has a pace of its own.
	Poll time.Duration
	// From is the local endpoint from which to connect. The system chooses an address or a port that
	// is zero. The zone of a link-local address is the network interface to use.
	// Set the port if the port of origin should be that of a service. The service has to set
	// SO_REUSEPORT, too, or start later. TCP allows one connection at a time from there to a tracker.
	From netip.AddrPort
	// Dial connects in place of From, for example through SOCKS. nil is a plain connection. A client
	// with Dial announces once to a tracker, and not over each address family. The context ends after
	// Timeout.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for https. nil uses the certificates that the system trusts.
	TLS *tls.Config
	// Token is sent as a bearer token to a native tracker, and never to where it redirects. A classic
	// tracker takes credentials in its URL.
	Token string
	// Secret makes the peer ids for classic trackers: each is an HMAC of the tracker, the key and the
	// port. Some of these trackers know a peer by its id alone. With the Secret of an earlier process,
	// this one can renew or remove what that process announced. Keep it secret, and use another one on
	// each machine. If it is empty, each Client makes a random one.
	Secret []byte
	// Shared is called before a member leaves a classic tracker. It reports whether someone else still
	// announces the same endpoint. Such a tracker has one peer for both, so then the member does not
	// leave. nil is a function that returns false.
	Shared func(t Tracker, r Request) bool

	mu        sync.Mutex
	byFamily  map[string]*Client         // see over
	dialsBoth bool                       // Dial is called for each family
	network   string                     // "tcp4" or "tcp6" to use that family only, or ""
	onConnect func(local netip.AddrPort) // called for each connection before its use; may be nil
	// lookup replaces the system's resolver unless it is nil.
	lookup    func(ctx context.Context, network, host string) ([]netip.Addr, error)
	once      sync.Once
	transport *http.Transport
	secret    []byte // Secret, or a random one
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

// Close closes idle connections. A Client that is no longer in use needs no Close.
func (c *Client) Close() {
	c.once.Do(c.init)
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.byFamily {
		d.Close()
	}
}

// derive returns a client with the same settings and connections of its own.
func (c *Client) derive() *Client {
	c.once.Do(c.init)
	if c.From.Port() != 0 {
		c.transport.CloseIdleConnections() // only one connection at a time leads from there to a tracker
	}
	d := &Client{Timeout: c.Timeout, Poll: c.Poll, From: c.From, Dial: c.Dial, TLS: c.TLS, Token: c.Token, Secret: c.secret, Shared: c.Shared, network: c.network, dialsBoth: c.dialsBoth, lookup: c.lookup}
	d.once.Do(d.init)
	return d
}

func (c *Client) timeout() time.Duration {
	return cmp.Or(max(c.Timeout, 0), DefaultTimeout)
}

// Announce joins the track of r.Key, or renews, and returns other peers. r.Verb is ignored.
//
// If the tracker's name has addresses of both families, Announce uses both, so that peers of either
// family can dial you. [Reply.Endpoints] has the endpoints that are listed. One success is enough.
func (c *Client) Announce(ctx context.Context, t Tracker, r Request) (*Reply, error) {
	if err := r.Key.Check(); err != nil {
		return nil, err
	}
	r.Verb = wire.VerbAnnounce
	if t.Classic() && r.Port == 0 {
		port, err := c.originPort()
		if err != nil {
			return nil, err
		}
		if r.Port = port; c.From.Port() == 0 {
			c = c.derive()
			defer c.Close()
			c.From = netip.AddrPortFrom(c.From.Addr(), port)
		}
	}
	all := overEach(ctx, c, t, false, func(ctx context.Context, c *Client) (*Reply, error) {
		reply, _, err := c.ask(ctx, t, r, "started")
		return reply, err
	})
	reply, err := combine(ctx, all, r.Want)
	for _, f := range all {
		if err == nil && f.err != nil && f.from.IsValid() { // listed earlier, or by the request that failed
			reply.RemoveSelf(netip.AddrPortFrom(f.from.Addr(), cmp.Or(r.Port, f.from.Port())))
		}
	}
	return reply, err
}

// Leave removes the peer with r.Port, or with the port of origin, from the track of r.Key. It does so
// over each address family, as [Client.Announce] has listed the peer. Each family has the timeout of
// a request. Leave returns an error if a family leads to the tracker and it refuses or does not answer.
func (c *Client) Leave(ctx context.Context, t Tracker, r Request) (failed error) {
	if err := r.Key.Check(); err != nil {
		return err
	}
	all := overEach(ctx, c, t, true, func(ctx context.Context, c *Client) (bool, error) {
		err := c.sendLeave(ctx, t, r)
		return err == nil, err
	})
	left := slices.ContainsFunc(all, func(f outcome[bool]) bool { return f.result })
	for _, f := range all {
		if f.from.IsValid() || !left || ctx.Err() != nil { // else nothing is listed over this family
			failed = moreInformative(failed, f.err)
		}
	}
	return failed
}

// sendLeave leaves over the one family that c uses.
func (c *Client) sendLeave(ctx context.Context, t Tracker, r Request) error {
	if r.Verb = wire.VerbLeave; t.Classic() {
		r.Port, r.Want = cmp.Or(r.Port, c.From.Port()), NoPeers
		_, _, err := c.ask(ctx, t, r, "stopped")
		return err
	}
	u, err := r.URL(t, "", 0)
	if err != nil {
		return err
	}
	x, err := c.fetch(ctx, t, http.MethodDelete, u, maxReply)
	if err == nil && x.resp.StatusCode != http.StatusNoContent {
		err = &ReplyError{t, fmt.Errorf("status %d is not an answer to a leave", x.resp.StatusCode)}
	}
	return err
}

// List returns up to r.Want peers of the track of r.Key without joining it. Other fields of r are
// ignored. If a tracker replies with fewer peers than there are, List takes them from the beginning
// of the tracker's event stream, if it has one. A classic tracker may report only peers of the
// asker's address family, so List asks it over each family.
func (c *Client) List(ctx context.Context, t Tracker, r Request) (*Reply, error) {
	if err := r.Key.Check(); err != nil {
		return nil, err
	}
	if t.Classic() {
		return combine(ctx, overEach(ctx, c, t, false, func(ctx context.Context, c *Client) (*Reply, error) {
			reply, _, err := c.look(ctx, t, r)
			return reply, err
		}), r.Want)
	}
	reply, _, err := c.look(ctx, t, r)
	if err != nil || !reply.Sample || len(reply.Peers) >= r.Want {
		return reply, err
	}
	if peers, ok := c.streamedPeers(ctx, t, r.Key); ok {
		reply.Count, reply.Sample = len(peers), len(peers) > r.Want
		reply.Peers = peers[:min(len(peers), r.Want)]
	}
	return reply, nil
}

// streamedPeers returns the peers with which an event stream begins. ok is false if there is none.
func (c *Client) streamedPeers(ctx context.Context, t Tracker, key Key) (peers []netip.AddrPort, ok bool) {
	r := Request{Verb: wire.VerbLook, Key: key, Want: NoPeers}
	u, err := r.URL(t, "", 0)
	if err != nil {
		return nil, false
	}
	x, err := c.send(ctx, t, http.MethodGet, u, acceptStream)
	if err != nil {
		return nil, false
	}
	defer x.close()
	events := wire.NewEventReader(x)
	for x.streams() {
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

// look asks for r.Want peers of r.Key over the one family that c uses.
//
// The classic protocol has none. Most classic trackers answer a stop with peers, even if it follows
// no start. The others need an announce, with a port that is no one's service, and a stop at once.
func (c *Client) look(ctx context.Context, t Tracker, r Request) (*Reply, conn, error) {
	r = Request{Verb: wire.VerbLook, Key: r.Key, Want: r.Want}
	if !t.Classic() {
		return c.ask(ctx, t, r, "")
	}
	r.Port, r.ID = 1, newID()
	stopped, cn, err := c.ask(ctx, t, r, "stopped")
	if err != nil || len(stopped.Peers) > 0 || stopped.Count == 0 {
		return stopped, cn, err
	}
	reply, last, err := c.ask(ctx, t, r, "started")
	cn.kept = last.kept // cn.reused stays: only the first request shows whether the connection was alive
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

// ask sends an announce or a look and reads the reply. event is for classic trackers.
func (c *Client) ask(ctx context.Context, t Tracker, r Request, event string) (*Reply, conn, error) {
	var key uint32
	if t.Classic() {
		r.ID, key = c.classicID(t, &r)
	}
	u, err := r.URL(t, event, key)
	if err != nil {
		return nil, conn{}, err
	}
	x, err := c.fetch(ctx, t, http.MethodGet, u, maxReply)
	if err != nil {
		return nil, conn{}, err
	}
	return x.decode(t, &r)
}

// Index returns every track that the tracker shows, sorted by key. It is the index of a native
// tracker, and the full scrape of a classic one. A classic tracker may count only peers of the
// asker's address family, so Index asks it over each family.
func (c *Client) Index(ctx context.Context, t Tracker) ([]Track, error) {
	u, err := t.IndexURL()
	if err != nil {
		return nil, err
	}
	if !t.Classic() {
		return c.fetchIndex(ctx, t, u)
	}
	all := overEach(ctx, c, t, false, func(ctx context.Context, c *Client) ([]Track, error) {
		return c.fetchIndex(ctx, t, u)
	})
	var tracks []Track
	for _, f := range all {
		tracks = wire.MergeTracks(tracks, f.result)
	}
	return tracks, failure(ctx, all)
}

func (c *Client) fetchIndex(ctx context.Context, t Tracker, target *url.URL) ([]Track, error) {
	x, err := c.fetch(ctx, t, http.MethodGet, target, maxIndex)
	if err != nil {
		return nil, err
	}
	tracks, err := wire.DecodeTracks(x.body)
	if err != nil {
		return nil, x.decodeError(t, err)
	}
	return tracks, nil
}

// families returns the networks over which to announce to a tracker: both, if its name may have
// addresses of both. Then peers of either family learn an endpoint that they can dial (BEP 7).
func (c *Client) families(t Tracker) []string {
	u := t.FullURL()
	literal, err := netip.ParseAddr(u.Hostname())
	switch {
	case c.network != "":
		return []string{c.network}
	case c.From.Addr().IsValid():
		return []string{networkOf(c.From.Addr())}
	case err == nil:
		return []string{networkOf(literal)}
	case c.Dial != nil && !c.dialsBoth:
		return []string{"tcp"}
	}
	return []string{"tcp4", "tcp6"}
}

// over returns a client like c that uses one network only. It has connections of its own, which it
// keeps for the next call.
func (c *Client) over(network string) *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byFamily[network] == nil {
		d := c.derive()
		d.network = network
		if c.byFamily == nil {
			c.byFamily = make(map[string]*Client)
		}
		c.byFamily[network] = d
	}
	return c.byFamily[network]
}

// How long to wait for the other family once a tracker has answered over one.
const (
	// connectWait is the time to connect over it. Diallers wait as long (RFC 8305).
	connectWait = 300 * time.Millisecond
	// answerWait is the time to answer over it once connected. The tracker may already have done
	// what it was asked.
	answerWait = 2 * time.Second
)

// An outcome is the result of a request over one family.
type outcome[T any] struct {
	result T
	err    error
	from   netip.AddrPort // the local end of the connection; invalid if there was none
}

// overEach sends a request over each family at once. After the first success the others get a
// bounded time, unless it is patient.
func overEach[T any](ctx context.Context, c *Client, t Tracker, patient bool, request func(context.Context, *Client) (T, error)) []outcome[T] {
	families := c.families(t)
	all := make([]outcome[T], len(families))
	answering, giveUp := context.WithCancel(ctx)
	defer giveUp()
	// This is not below ctx: when ctx ends, a request has to end with the cause of that.
	connecting, giveUpConnecting := context.WithCancel(context.Background())
	defer giveUpConnecting()
	var wg sync.WaitGroup
	var first sync.Once
	for i, network := range families {
		d, f := c, &all[i]
		if len(families) > 1 {
			d = c.over(network)
		}
		wg.Go(func() {
			ctx, cancel := context.WithCancel(answering)
			defer cancel()
			connected := context.AfterFunc(connecting, cancel)
			defer connected()
			f.result, f.err = request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
				connected()
				f.from = endpointOf(i.Conn.LocalAddr())
			}}), d)
			if f.err == nil && !patient {
				first.Do(func() {
					time.AfterFunc(connectWait, giveUpConnecting)
					time.AfterFunc(answerWait, giveUp)
				})
			}
		})
	}
	wg.Wait()
	return all
}

// failure returns the error that says most, or nil if one family has succeeded.
func failure[T any](ctx context.Context, all []outcome[T]) (failed error) {
	for _, f := range all {
		if f.err == nil {
			return nil
		}
		failed = moreInformative(failed, f.err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed
}

// combine makes one reply of those over each family.
func combine(ctx context.Context, all []outcome[*Reply], want int) (*Reply, error) {
	if err := failure(ctx, all); err != nil {
		return nil, err
	}
	var reply *Reply
	for _, f := range all {
		switch {
		case f.err != nil:
		case reply == nil:
			reply = f.result
		default:
			reply.Merge(f.result, want)
		}
	}
	return reply, nil
}

// originPort returns the port from which to connect. A classic tracker does not look at the port of
// origin, so the port has to be known before the request.
func (c *Client) originPort() (uint16, error) {
	if c.From.Port() != 0 {
		return c.From.Port(), nil
	}
	if c.Dial != nil {
		return 0, errHiddenPort
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

// idPrefix begins every peer id in the usual style (BEP 20): the client and its version.
const idPrefix = "-NT0100-"

// newID returns a random peer id.
func newID() wire.ID {
	var id wire.ID
	_, _ = rand.Read(id[copy(id[:], idPrefix):])
	return id
}

// classicID returns the peer id and the `key` parameter for a classic tracker. The id is r.ID, or
// else one that follows from the secret, as the `key` does.
func (c *Client) classicID(t Tracker, r *Request) (id wire.ID, key uint32) {
	c.once.Do(c.init)
	hash := r.Key.InfoHash()
	text := append(hash[:], r.ID[:]...)
	text = binary.BigEndian.AppendUint16(text, r.Port)
	mac := hmac.New(sha256.New, c.secret)
	u := t.FullURL()
	u.User = nil // another password is the same peer
	if u.RawQuery != "" {
		u.RawQuery += "&" // earlier versions hashed it, too, and the id must not change
	}
	mac.Write(append(text, u.String()...))
	sum := mac.Sum(nil)
	if id = r.ID; id == (wire.ID{}) {
		copy(id[copy(id[:], idPrefix):], sum)
	}
	return id, binary.BigEndian.Uint32(sum[len(id)-len(idPrefix):])
}
