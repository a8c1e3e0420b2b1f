package announce

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ntrack/announce/wire"
)

// maxRedirects is how many redirects a client follows.
const maxRedirects = 3

// conn is what a request learns of the connection it used.
type conn struct {
	local, remote netip.AddrPort
	reused        bool // an earlier request had used it
	kept          bool // the tracker has not said that it closes it
}

type result struct {
	conn
	status int
	retry  time.Duration // see retryAfter
	body   []byte
}

// do sends one request and reads the reply, which is bounded by limit. It follows redirects
// itself: net/http would turn a DELETE into a GET, and so a leave into an announce.
func (c *Client) do(ctx context.Context, t Tracker, method string, target *url.URL, limit int64) (*result, error) {
	c.once.Do(c.init)
	limited, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	x, err := c.follow(limited, t, method, target, "application/json")
	var res *result
	if err == nil {
		res, err = x.read(t, limit)
	}
	switch {
	case err == nil:
		return res, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		return nil, &UnreachableError{t, fmt.Errorf("no answer within %v", c.timeout())}
	}
	return nil, err
}

// follow sends a request, also to where it is redirected, and returns the reply with its body open.
func (c *Client) follow(ctx context.Context, t Tracker, method string, first *url.URL, accept string) (*exchange, error) {
	u := first
	for hops := 0; ; hops++ {
		res, err := c.roundTrip(ctx, t, method, u, u.Scheme == first.Scheme && u.Host == first.Host, accept)
		if err != nil {
			return nil, err
		}
		location := res.resp.Header.Get("Location")
		if res.resp.StatusCode/100 != 3 || location == "" {
			return res, nil
		}
		_ = res.resp.Body.Close()
		next, err := u.Parse(location)
		switch {
		case err != nil:
			return nil, &ReplyError{t, fmt.Errorf("redirects to %s, which is no URL", wire.Quote(wire.Redact(location)))}
		case hops == maxRedirects:
			return nil, &ReplyError{t, fmt.Errorf("redirects more than %d times", maxRedirects)}
		case next.Scheme != "http" && next.Scheme != "https":
			return nil, &ReplyError{t, fmt.Errorf("redirects to scheme %s", wire.Quote(next.Scheme))}
		case u.Scheme == "https" && next.Scheme != "https":
			return nil, &ReplyError{t, errors.New("redirects from https to http, which is not followed")}
		}
		keepZone(next, u)
		u = next
	}
}

// keepZone gives the target of a redirect the zone of where it comes from. What a tracker writes
// as a zone means nothing on this machine, but a link-local address is on the tracker's own link.
func keepZone(to, from *url.URL) {
	a, err := netip.ParseAddr(to.Hostname())
	zone := ""
	if b, err := netip.ParseAddr(from.Hostname()); err == nil && a.IsLinkLocalUnicast() {
		zone = b.Zone()
	}
	if err != nil || a.Zone() == zone {
		return
	}
	port := strings.TrimPrefix(to.Host, "["+to.Hostname()+"]")
	to.Host = "[" + a.WithZone(zone).String() + "]" + port
}

type exchange struct {
	conn
	over net.Conn
	resp *http.Response
}

func (c *Client) roundTrip(ctx context.Context, t Tracker, method string, u *url.URL, named bool, accept string) (*exchange, error) {
	x := new(exchange)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		x.over = i.Conn
		x.local, x.remote, x.reused = endpointOf(i.Conn.LocalAddr()), endpointOf(i.Conn.RemoteAddr()), i.Reused
		if c.connected != nil {
			c.connected(x.local)
		}
	}})
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("tracker %s: %w", t, err)
	}
	req.Header.Set("User-Agent", "ntrack")
	if !t.Classic() {
		req.Header.Set("Accept", accept)
	}
	switch user := t.URL().User; {
	case !named:
	case c.Token != "" && !t.Classic():
		req.Header.Set("Authorization", "Bearer "+c.Token)
	case user != nil:
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	if x.resp, err = c.transport.RoundTrip(req); err != nil {
		if u.Host != t.HostPort() {
			err = &redirectError{u.Host, err}
		}
		return nil, &UnreachableError{t, err}
	}
	x.kept = !x.resp.Close
	return x, nil
}

func endpointOf(a net.Addr) netip.AddrPort {
	e, _ := netip.ParseAddrPort(a.String())
	return wire.Canonical(e)
}

// read reads the body, or the refusal that the status and the body make.
func (x *exchange) read(t Tracker, limit int64) (*result, error) {
	defer x.resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(x.resp.Body, limit+1))
	if err != nil {
		return nil, &UnreachableError{t, fmt.Errorf("the reply broke off: %w", err)}
	}
	if int64(len(body)) > limit {
		return nil, &ReplyError{t, fmt.Errorf("reply longer than %d bytes", limit)}
	}
	if status := x.resp.StatusCode; status/100 != 2 {
		return nil, refusalFrom(status, x.resp.Header, body)
	}
	return &result{x.conn, x.resp.StatusCode, retryAfter(x.resp.Header), body}, nil
}

func refusalFrom(status int, h http.Header, body []byte) *RefusalError {
	f := wire.DecodeRefusal(body)
	if f == nil {
		f = new(RefusalError)
		if strings.HasPrefix(h.Get("Content-Type"), "text/plain") {
			line, _, _ := bytes.Cut(body, []byte("\n"))
			f.Reason = wire.Clean(string(line))
		}
	}
	f.Status = status
	if f.Reason == "" {
		f.Reason = fmt.Sprintf("%d %s", status, http.StatusText(status))
	}
	f.Retry = cmp.Or(retryAfter(h), f.Retry)
	return f
}

// retryAfter is how long a reply asks to wait before the next request, in whole seconds, a day at
// most; 0 where it does not. It names seconds or a date (RFC 9110, 10.2.3), which counts from the
// reply's own where that has one: two clocks may differ.
func retryAfter(h http.Header) time.Duration {
	const most = 24 * time.Hour
	value := h.Get("Retry-After")
	n, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, uint64(most/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return (min(max(at.Sub(now), 0), most) + time.Second - 1).Truncate(time.Second)
}
