package announce

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
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

// A Client sends requests to trackers over HTTP and HTTPS. Native trackers speak ntrack's own
// protocol, classic ones are BitTorrent trackers. The zero Client is ready to use. Do not copy or
// change a Client after its first use. Any number of goroutines may use it at the same time. It
// does not use an HTTP proxy, since the tracker would list the address of the proxy.
//
// An error of a Client is one of these, possibly wrapped:
//   - [*RefusalError]: the tracker has refused the request.
//   - [*UnreachableError]: the tracker did not answer.
//   - [*ReplyError]: the answer is not a tracker's reply.
//   - [*SharedError]: another process is listed as the same endpoint.
//   - The cause of a context that has ended.
//   - A plain error for a request that cannot be sent, such as one without a key.
type Client struct {
	// Timeout bounds each request, with its connection and redirects. 0 is DefaultTimeout.
	Timeout time.Duration
	// Poll is the time between two polls, if Watch or Join polls a tracker without event streams. 0
	// is the interval that the tracker reports. A member polls at this interval if Poll is longer.
	// Gather does not use Poll.
	Poll time.Duration
	// From is the local endpoint of connections. If its address or its port is zero, the system
	// chooses one. The zone of a link-local address is the network interface to use.
	//
	// Set the port if the port of origin should be the port of a service on this machine. The
	// service has to set SO_REUSEPORT, too, or start after the connection. TCP allows only one
	// connection at a time from one local endpoint to one tracker.
	From netip.AddrPort
	// Dial makes the connections, for example through SOCKS, instead of connecting from From. nil
	// is a plain connection. A client with Dial announces once to a tracker, and not over each
	// address family. The context that Dial gets ends after Timeout.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is the configuration for https. With nil, the client trusts the certificates of the system.
	TLS *tls.Config
	// Token is sent to native trackers as a bearer token. It is not sent to another host to which a
	// tracker redirects. For a classic tracker, put credentials into its URL.
	Token string
	// The peer ids for classic trackers depend on Secret: each is an HMAC of the tracker, the key
	// and the port. Some classic trackers identify a peer by its id alone. A process with the
	// Secret of an earlier process can renew or remove the peers that the earlier one announced.
	// Keep Secret secret, and use a different one on each machine. If it is empty, each Client
	// makes a random one.
	Secret []byte
	// Shared is called before a member leaves a classic tracker. It reports whether another process
	// still announces the same endpoint. The tracker has one peer for both processes, so the member
	// then does not leave. nil is a function that returns false.
	Shared func(t Tracker, r Request) bool

	mu        sync.Mutex
	byFamily  map[string]*Client         // the clients that over has made
	resolved  map[string][]netip.Addr    // the last addresses of each network and host name, from DNS
	dialsBoth bool                       // Dial is called for each family; only tests set it
	network   string                     // "tcp4" or "tcp6" to use only one family, or ""
	onConnect func(local netip.AddrPort) // called for each connection before its use; may be nil
	// lookup replaces the system's resolver if it is not nil. Only tests set it.
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

// derive returns a client with the same settings, and with its own connections.
func (c *Client) derive() *Client {
	c.once.Do(c.init)
	if c.From.Port() != 0 {
		c.transport.CloseIdleConnections() // the derived client connects from the same port
	}
	derived := &Client{Timeout: c.Timeout, Poll: c.Poll, From: c.From, Dial: c.Dial, TLS: c.TLS, Token: c.Token, Secret: c.secret, Shared: c.Shared, network: c.network, dialsBoth: c.dialsBoth, lookup: c.lookup}
	derived.once.Do(derived.init)
	return derived
}

func (c *Client) timeout() time.Duration {
	return cmp.Or(max(c.Timeout, 0), DefaultTimeout)
}

// Announce joins the track of r.Key, or renews your stay in it, and returns other peers. It ignores
// r.Verb.
//
// If the tracker's name has addresses of both families, Announce announces over both, so that peers
// of either family can dial you. [Reply.Endpoints] has the endpoints that the tracker lists.
// Announce succeeds if one family does.
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
	reply, err := combineReplies(ctx, all, r.Want)
	for _, o := range all {
		// The request that failed, or an earlier one, may have listed you over this family.
		if err == nil && o.err != nil && o.from.IsValid() {
			reply.RemoveOwn(netip.AddrPortFrom(o.from.Addr(), cmp.Or(r.Port, o.from.Port())))
		}
	}
	return reply, err
}

// Leave removes the peer that [Client.Announce] has listed from the track of r.Key. Its port is
// r.Port or, if that is 0, the port of origin. Leave sends a request over each address family, with
// the timeout of a request for each. It returns an error if the tracker refuses one of them, or if
// the tracker is reachable over a family and does not answer.
func (c *Client) Leave(ctx context.Context, t Tracker, r Request) (failed error) {
	if err := r.Key.Check(); err != nil {
		return err
	}
	all := overEach(ctx, c, t, true, func(ctx context.Context, c *Client) (bool, error) {
		err := c.sendLeave(ctx, t, r)
		return err == nil, err
	})
	anyLeft := slices.ContainsFunc(all, func(o outcome[bool]) bool { return o.result })
	for _, o := range all {
		// A family without a connection is no failure if the other one has left: nothing is listed
		// there.
		if o.from.IsValid() || !anyLeft || ctx.Err() != nil {
			failed = moreInformative(failed, o.err)
		}
	}
	return failed
}

// sendLeave sends one leave, over the first family that connects or over c.network.
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

// List returns up to r.Want peers of the track of r.Key without joining it, with their labels if r.Labels
// is true. It ignores the other fields of r. If a tracker replies with a sample of fewer peers, List takes them from the
// beginning of the tracker's event stream, if it has one. A classic tracker may report only peers
// of the asker's address family, so List asks it over each family.
func (c *Client) List(ctx context.Context, t Tracker, r Request) (*Reply, error) {
	if err := r.Key.Check(); err != nil {
		return nil, err
	}
	if t.Classic() {
		return combineReplies(ctx, overEach(ctx, c, t, false, func(ctx context.Context, c *Client) (*Reply, error) {
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

// streamedPeers returns the peers with which an event stream begins. ok is false if the tracker
// sends no stream.
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

// look asks for r.Want peers of r.Key without joining, over the first family that connects or over
// c.network.
//
// The classic protocol has no look. Most classic trackers answer event=stopped with peers, even if no
// event=started came before. For the others, look announces port 1, which no peer uses, and stops
// again.
func (c *Client) look(ctx context.Context, t Tracker, r Request) (*Reply, conn, error) {
	r = Request{Verb: wire.VerbLook, Key: r.Key, Want: r.Want, Labels: r.Labels}
	if !t.Classic() {
		return c.ask(ctx, t, r, "")
	}
	r.Port, r.ID = 1, newID()
	stopped, cn, err := c.ask(ctx, t, r, "stopped")
	if err != nil || len(stopped.Peers) > 0 || stopped.Count == 0 {
		return stopped, cn, err
	}
	reply, last, err := c.ask(ctx, t, r, "started")
	cn.kept = last.kept // but not reused: only the first request shows whether the connection was open
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(c.timeout(), 2*time.Second))
	defer cancel()
	r.Want = NoPeers
	if _, _, err2 := c.ask(after, t, r, "stopped"); err == nil {
		err = err2
	}
	if err != nil {
		return nil, cn, err
	}
	reply.UncountOwn(stopped.Count)
	return reply, cn, nil
}

// ask sends an announce or a look and reads the reply. event is the parameter for classic trackers.
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

// Index returns the tracks of a tracker, sorted by key, as far as the tracker lists them. It asks a
// native tracker for its index, and a classic one for a full scrape. A classic tracker may count only
// peers of the asker's address family, so Index asks it over each family.
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
	for _, o := range all {
		tracks = wire.MergeTracks(tracks, o.result)
	}
	return tracks, combineErrors(ctx, all)
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

// families returns the networks over which to announce to a tracker. These are both, tcp4 and tcp6,
// if the tracker's name may have addresses of both families. Then peers of either family get an
// endpoint that they can dial (BEP 7).
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

// over returns a client with the settings of c that uses only one network. Every call for this
// network returns the same client, so that it can reuse its connections.
func (c *Client) over(network string) *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byFamily[network] == nil {
		derived := c.derive()
		derived.network = network
		if c.byFamily == nil {
			c.byFamily = make(map[string]*Client)
		}
		c.byFamily[network] = derived
	}
	return c.byFamily[network]
}

// How long to wait for the other family after a tracker has answered over one.
const (
	// connectWait is the time for a connection over the other family. net.Dialer waits as long (RFC
	// 8305).
	connectWait = 300 * time.Millisecond
	// answerWait is the time for an answer if there is a connection. The tracker may already have
	// carried out the request.
	answerWait = 2 * time.Second
)

// An outcome is the result of a request over one family.
type outcome[T any] struct {
	result T
	err    error
	from   netip.AddrPort // the local end of the connection; invalid without a connection
}

// overEach sends a request over all families at the same time. After the first success, it waits for
// the others only a short time, unless waitForAll is true.
func overEach[T any](ctx context.Context, c *Client, t Tracker, waitForAll bool, request func(context.Context, *Client) (T, error)) []outcome[T] {
	families := c.families(t)
	all := make([]outcome[T], len(families))
	answering, giveUp := context.WithCancel(ctx)
	defer giveUp()
	// connecting is not derived from ctx: when ctx ends, a request has to end with the cause of ctx.
	connecting, giveUpConnecting := context.WithCancel(context.Background())
	defer giveUpConnecting()
	var wg sync.WaitGroup
	var first sync.Once
	for i, network := range families {
		client, o := c, &all[i]
		if len(families) > 1 {
			client = c.over(network)
		}
		wg.Go(func() {
			ctx, cancel := context.WithCancel(answering)
			defer cancel()
			connected := context.AfterFunc(connecting, cancel) // the end of connecting cancels the request
			defer connected()
			o.result, o.err = request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
				connected()
				o.from = endpointOf(info.Conn.LocalAddr())
			}}), client)
			if o.err == nil && !waitForAll {
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

// combineErrors returns nil if one family has succeeded, or else the error that says most.
func combineErrors[T any](ctx context.Context, all []outcome[T]) (failed error) {
	for _, o := range all {
		if o.err == nil {
			return nil
		}
		failed = moreInformative(failed, o.err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed
}

// combineReplies makes one reply of the replies over each family. It returns an error if all failed.
func combineReplies(ctx context.Context, all []outcome[*Reply], want int) (*Reply, error) {
	if err := combineErrors(ctx, all); err != nil {
		return nil, err
	}
	var reply *Reply
	for _, o := range all {
		switch {
		case o.err != nil:
		case reply == nil:
			reply = o.result
		default:
			reply.Merge(o.result, want)
		}
	}
	return reply, nil
}

// originPort returns the port from which to connect. A classic tracker ignores the port of origin, so
// the request has to name it, and the client has to know it before it connects.
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
