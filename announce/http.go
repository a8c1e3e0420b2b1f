package announce

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
)

// maxRedirects is how many redirects a client follows for one request.
const maxRedirects = 3

// The largest body of a reply and of an index, in bytes. A reply with 1000 peers in the longest form
// has 100 KB.
const (
	maxReply = 4 << 20
	maxIndex = 8 << 20
)

// A conn describes the connection of a request.
type conn struct {
	local  netip.AddrPort // this end
	reused bool           // an earlier request has used the connection
	kept   bool           // the tracker has not announced that it closes the connection
}

// acceptStream is the Accept header that asks for an event stream. A tracker without event streams
// sends a plain reply.
const acceptStream = "text/event-stream, application/json;q=0.5"

const (
	// silence is how long a stream may send nothing, not even a heartbeat, before the client gives
	// up.
	silence = 35 * time.Second
	// catchUp is how long a process that was suspended may read what has arrived since then.
	catchUp = time.Second
)

// The reasons for which a client gives up a request.
var (
	errSilent = errors.New("no answer")
	errEnded  = errors.New("the session has ended")
)

// An exchange is one request and its answer. The answer may be an event stream.
type exchange struct {
	conn
	netConn net.Conn
	resp    *http.Response
	body    []byte // nil until readBody
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silent  error       // the cause of ctx if the time is up
	timer   *time.Timer // calls timeUp
	warned  atomic.Bool // the next call of timeUp gives up
	live    bool        // the stream has begun, so each byte shows that it is alive
}

// fetch sends one request and reads its answer, both within the timeout. A body of more than limit
// bytes is an error. An error status becomes a [RefusalError].
func (c *Client) fetch(ctx context.Context, t Tracker, method string, target *url.URL, limit int64) (*exchange, error) {
	x, err := c.send(ctx, t, method, target, "application/json")
	if err != nil {
		return nil, err
	}
	defer x.close()
	return x, x.readBody(t, limit)
}

// send sends one request and returns its answer, whose body is not read yet. The body, or the
// beginning of a stream, has to arrive within the timeout, too. The caller must call close.
//
// send follows redirects itself, since net/http would turn a DELETE into a GET, and so a leave into
// an announce. It follows none from a tracker to an address of a narrower scope. Else a tracker on the
// internet could make its clients send requests to services on their own machine and network.
func (c *Client) send(ctx context.Context, t Tracker, method string, first *url.URL, accept string) (_ *exchange, err error) {
	c.once.Do(c.init)
	x := &exchange{silent: &UnreachableError{Tracker: t, Err: fmt.Errorf("%w within %v", errSilent, c.timeout())}}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	x.warned.Store(true)
	x.timer = time.AfterFunc(c.timeout(), x.timeUp)
	defer func() {
		if err != nil {
			err = cmp.Or(context.Cause(x.ctx), err)
			x.close()
		}
	}()
	u, scope := first, wire.ScopeLoopback // the scope of the tracker, once there is a connection to it
	ctx = httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		switch remote := endpointOf(i.Conn.RemoteAddr()).Addr(); {
		case u == first:
			scope = wire.ScopeOf(remote)
		case wire.ScopeOf(remote) < scope:
			// Nothing has been sent yet, and the transport must not send it, nor use the connection again.
			x.cancel(&ReplyError{t, fmt.Errorf("redirects from a %s address to a %s one, %s, which is not followed", scope, wire.ScopeOf(remote), remote)})
			_ = i.Conn.Close()
			return
		}
		x.netConn = i.Conn
		x.local, x.reused = endpointOf(i.Conn.LocalAddr()), i.Reused
		if c.onConnect != nil {
			c.onConnect(x.local)
		}
	}})
	for redirects := 0; ; redirects++ {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("tracker %s: %w", t, err)
		}
		req.Header.Set("User-Agent", "ntrack")
		if !t.Classic() {
			req.Header.Set("Accept", accept)
		}
		if accept == acceptStream { // a few compressed bytes could keep this process busy, and a relay could hold events back
			req.Header.Set("Accept-Encoding", "identity")
		}
		switch user := t.FullURL().User; {
		case u.Scheme != first.Scheme || u.Host != first.Host: // credentials are only for the tracker that the user named
		case c.Token != "" && !t.Classic():
			req.Header.Set("Authorization", "Bearer "+c.Token)
		case user != nil:
			password, _ := user.Password()
			req.SetBasicAuth(user.Username(), password)
		}
		if x.resp, err = c.transport.RoundTrip(req); err != nil {
			failed := &UnreachableError{Tracker: t, Err: err}
			if u.Host != t.HostPort() {
				failed.redirect = u.Host
			}
			return nil, failed
		}
		x.kept = !x.resp.Close
		location := x.resp.Header.Get("Location")
		if x.resp.StatusCode/100 != 3 || location == "" {
			return x, nil
		}
		_ = x.resp.Body.Close()
		if redirects == maxRedirects {
			return nil, &ReplyError{t, fmt.Errorf("redirects more than %d times", maxRedirects)}
		}
		if u, err = redirected(u, location); err != nil {
			return nil, &ReplyError{t, err}
		}
	}
}

// redirected returns the target of a redirect. A zone in location is a name on the tracker's machine,
// so redirected ignores it. A link-local address gets the zone of from, since it is on the same link.
func redirected(from *url.URL, location string) (*url.URL, error) {
	to, err := from.Parse(location)
	switch {
	case err != nil:
		return nil, fmt.Errorf("redirects to %s, which is not a URL", wire.Quote(wire.Redact(location)))
	case to.Scheme != "http" && to.Scheme != "https":
		return nil, fmt.Errorf("redirects to scheme %s", wire.Quote(to.Scheme))
	case from.Scheme == "https" && to.Scheme != "https":
		return nil, errors.New("redirects from https to http, which is not followed")
	}
	a, err := netip.ParseAddr(to.Hostname())
	zone := ""
	if b, err := netip.ParseAddr(from.Hostname()); err == nil && a.IsLinkLocalUnicast() {
		zone = b.Zone()
	}
	if err == nil && a.Zone() != zone {
		port := strings.TrimPrefix(to.Host, "["+to.Hostname()+"]")
		to.Host = "[" + a.WithZone(zone).String() + "]" + port
	}
	return to, nil
}

// endpointOf returns the endpoint of a TCP address, or zero if it is not one.
func endpointOf(a net.Addr) netip.AddrPort {
	e, _ := netip.ParseAddrPort(a.String())
	return wire.Canonical(e)
}

// readBody reads the body to its end. If the status is an error, it returns a [RefusalError].
func (x *exchange) readBody(t Tracker, limit int64) (err error) {
	x.body, err = io.ReadAll(io.LimitReader(x.resp.Body, limit+1))
	switch {
	case err != nil:
		return cmp.Or(context.Cause(x.ctx), error(&UnreachableError{Tracker: t, Err: fmt.Errorf("the reply broke off: %w", err)}))
	case int64(len(x.body)) > limit:
		return &ReplyError{t, fmt.Errorf("reply longer than %d bytes", limit)}
	case x.resp.StatusCode/100 != 2:
		refusal := x.refusal()
		refusal.Reason = t.Conceal(refusal.Reason)
		return refusal
	}
	return nil
}

// refusal makes a [RefusalError] of an error status and its body.
func (x *exchange) refusal() *RefusalError {
	f := wire.DecodeRefusal(x.body)
	if f == nil {
		f = new(RefusalError)
		if strings.HasPrefix(x.resp.Header.Get("Content-Type"), "text/plain") {
			line, _, _ := bytes.Cut(x.body, []byte("\n"))
			f.Reason = wire.Clean(string(line))
		}
	}
	f.Status = x.resp.StatusCode
	if f.Reason == "" {
		f.Reason = fmt.Sprintf("%d %s", f.Status, http.StatusText(f.Status))
	}
	f.Retry = cmp.Or(retryAfter(x.resp.Header), f.Retry)
	return f
}

// decode decodes the reply to r.
func (x *exchange) decode(t Tracker, r *Request) (*Reply, conn, error) {
	if !t.Classic() { // a peer with the same label is another peer
		unlabelled := *r
		unlabelled.ID = wire.ID{}
		r = &unlabelled
	}
	reply, err := r.DecodeReply(x.body, x.local)
	if err != nil {
		return nil, x.conn, x.decodeError(t, err)
	}
	return reply, x.conn, nil
}

// decodeError completes an error of decoding. A refusal with status 200 gets the wait of the
// Retry-After header. Any other error becomes a [ReplyError].
func (x *exchange) decodeError(t Tracker, err error) error {
	if refusal, ok := err.(*RefusalError); ok {
		refusal.Retry = cmp.Or(retryAfter(x.resp.Header), refusal.Retry)
		refusal.Reason = t.Conceal(refusal.Reason)
		return refusal
	}
	return &ReplyError{t, err}
}

// retryAfter returns how long a reply asks the client to wait before the next request. This is a
// number of whole seconds, at most a day, and 0 if the reply does not ask. The header has seconds
// or a date (RFC 9110, 10.2.3). retryAfter compares a date with the Date header of the reply, if
// there is one, since the two clocks may differ.
func retryAfter(h http.Header) time.Duration {
	const longest = 24 * time.Hour
	value := h.Get("Retry-After")
	n, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, uint64(longest/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return (min(max(at.Sub(now), 0), longest) + time.Second - 1).Truncate(time.Second)
}

// timeUp gives up an answer that has not come, or a stream that has been silent. If this process was
// suspended, the timer has ended although there may be data to read. So a stream first gets catchUp.
func (x *exchange) timeUp() {
	if x.warned.Swap(true) {
		x.cancel(x.silent)
	} else {
		x.timer.Reset(catchUp)
	}
}

// alive records that a stream is alive, and restarts its timer.
func (x *exchange) alive() {
	x.warned.Store(false)
	x.timer.Reset(silence - catchUp)
}

// Read reads the body of a stream.
func (x *exchange) Read(b []byte) (int, error) {
	n, err := x.resp.Body.Read(b)
	if n > 0 && x.live {
		x.alive()
	}
	return n, err
}

// close ends the exchange. It closes the connection of a stream.
func (x *exchange) close() {
	x.timer.Stop()
	if x.resp != nil {
		if x.streams() {
			_ = x.netConn.Close() // now, since the next connection may come from the same port
		}
		_ = x.resp.Body.Close()
	}
	x.cancel(context.Canceled)
}

// streams reports whether the answer is an event stream.
func (x *exchange) streams() bool {
	media, _, _ := mime.ParseMediaType(x.resp.Header.Get("Content-Type"))
	return x.resp.StatusCode == http.StatusOK && media == "text/event-stream"
}

// relayed reports whether an intermediary passes the stream on. Chunks or a Via header show this,
// since a tracker sends neither. After the intermediary has ended its stream to the client, the
// tracker's stream to the intermediary may go on.
func (x *exchange) relayed() bool {
	return x.resp.Header.Get("Via") != "" || len(x.resp.TransferEncoding) > 0
}
