package tracker

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ntrack/announce/wire"
)

// A Call is the part of one request that a tracker needs. Make a new one for each request.
type Call struct {
	Method string
	// Target is the request target exactly as the client sent it, such as /ntrk/k?port=1. Answer
	// overwrites it.
	Target []byte
	// Remote is the other end of the connection. Port 0 means that the port is not known.
	Remote netip.AddrPort
	// Unix says that the connection came by a Unix socket. Then the other end is a trusted proxy,
	// and Remote is ignored.
	Unix bool
	// ProxyItself says that a trusted proxy sent the request for itself, as a health check, and not
	// for a client. A GET then only looks, an announce or a leave by another method is refused, and
	// X-Forwarded-For is ignored.
	ProxyItself bool
	// Accept, Authorization, ForwardedFor (X-Forwarded-For) and FetchMode (Sec-Fetch-Mode) are the
	// values of these header fields. The values of a repeated field are joined with commas, without
	// empty ones.
	Accept, Authorization, ForwardedFor, FetchMode []byte
	// HasOrigin says that the request has the header field Origin.
	HasOrigin bool
	// HasBrowserField says that the request has one of the header fields Referer, Sec-Purpose and
	// Purpose. Browsers send them: Referer for most of what a web page loads, and the others when
	// they fetch ahead.
	HasBrowserField bool

	accepted accepted
	denial   *Denial // that has not denied it
	tokenTag uint32  // of its token (tokens.go); 0 without one
}

// A Response is what a server sends before the body.
type Response struct {
	Status int
	// Type is the Content-Type; empty if there is no body.
	Type string
	// TTL is how long the peer stays listed after an announce. TTL is 0 if the call was not an
	// announce. The header field Expires is Date plus TTL.
	TTL time.Duration
	// Retry is the value of Retry-After; 0 if there is none.
	Retry time.Duration
	// CORS says that a web page may read the reply.
	CORS bool
	// Close says that the connection must end after this reply.
	Close bool
	// UnnamedProxy says that the client seems to be a reverse proxy, but that the tracker has no
	// Proxies: it is at a private or loopback address, and it sent X-Forwarded-For, or has announced
	// about 1000 keys within an hour. A tracker says so once.
	UnnamedProxy bool
	// Stream is nil unless the reply is an event stream. Then the body is only the beginning, and
	// the rest comes from Stream.Append. The reply has no Content-Length, and ends when the server
	// ends the connection. The server must call Stream.Close.
	Stream *Stream

	preflight bool
	page      bool // the body is a file of Tracker.Page
}

// AppendHeader appends the header fields as lines that end in CRLF. Date, Content-Length and
// Connection are not among them: the server adds these. date is the time that the server sends
// in Date.
func (r *Response) AppendHeader(dst []byte, date time.Time) []byte {
	if r.Type != "" {
		dst = append(append(append(dst, "Content-Type: "...), r.Type...), "\r\n"...)
	}
	dst = append(dst, "Cache-Control: no-store\r\n"...)
	if r.Stream != nil {
		dst = append(dst, "X-Accel-Buffering: no\r\n"...) // without it nginx would delay events
	}
	if r.TTL > 0 {
		dst = appendDate(append(dst, "Expires: "...), date.Add(r.TTL).UTC())
		dst = append(dst, "\r\n"...)
	}
	if r.Retry > 0 {
		dst = strconv.AppendInt(append(dst, "Retry-After: "...), int64((r.Retry+time.Second-1)/time.Second), 10)
		dst = append(dst, "\r\n"...)
	}
	if r.Status == 401 {
		dst = append(dst, "WWW-Authenticate: Bearer\r\n"...)
	}
	if r.page {
		dst = append(dst, pageHeader...)
	}
	if r.CORS {
		dst = append(dst, "Access-Control-Allow-Origin: *\r\n"...)
	}
	if r.preflight {
		dst = append(dst, "Access-Control-Allow-Methods: GET\r\nAccess-Control-Allow-Headers: Authorization\r\nAccess-Control-Max-Age: 86400\r\n"...)
	}
	return dst
}

// appendDate appends t, which must be in UTC, in the format of HTTP. time.Format would take longer
// than everything else in the header.
func appendDate(dst []byte, t time.Time) []byte {
	const days, months = "SunMonTueWedThuFriSat", "JanFebMarAprMayJunJulAugSepOctNovDec"
	two := func(n int) (tens, ones byte) { return '0' + byte(n/10), '0' + byte(n%10) }
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	w, m := 3*t.Weekday(), 3*month-3
	d1, d2 := two(day)
	c1, c2 := two(year / 100)
	y1, y2 := two(year % 100)
	h1, h2 := two(hour)
	m1, m2 := two(minute)
	s1, s2 := two(second)
	return append(dst, days[w], days[w+1], days[w+2], ',', ' ', d1, d2, ' ', months[m], months[m+1], months[m+2], ' ',
		c1, c2, y1, y2, ' ', h1, h2, ':', m1, m2, ':', s1, s2, ' ', 'G', 'M', 'T')
}

// An accepted is what a client accepts, according to its Accept field.
type accepted struct {
	parsed bool        // parseAccept has set the other fields
	format wire.Format // the format with the highest weight; FormatUnnamed if there is none
	stream bool        // an event stream has a higher weight than every format
	html   bool        // the client accepts HTML or images, as a browser does
	page   bool        // the client accepts HTML, and names no format
}

// parseAccept parses Accept (RFC 9110 section 12.5.1), once for each Call. If two media types have
// the same weight, the first one counts. A wildcard is not a format.
func (c *Call) parseAccept() *accepted {
	a := &c.accepted
	if a.parsed {
		return a
	}
	*a = accepted{parsed: true}
	formatWeight, weight := 0, 0
	for rest, field := c.Accept, []byte(nil); len(rest) > 0; {
		field, rest, _ = bytes.Cut(rest, []byte(","))
		media, params, _ := bytes.Cut(field, []byte(";"))
		media = bytes.TrimSpace(media)
		f := formatOf(media)
		stream := equalFold(media, "text/event-stream")
		if q := weightOf(params); f != wire.FormatUnnamed || stream {
			if q > weight {
				a.stream, weight = stream, q
			}
			if !stream && q > formatWeight {
				a.format, formatWeight = f, q
			}
		}
		page := equalFold(media, "text/html")
		a.page = a.page || page && weightOf(params) > 0
		a.html = a.html || page || len(media) > 6 && equalFold(media[:6], "image/")
	}
	a.page = a.page && weight == 0
	// Java's HTTP client accepts HTML and images, too. Azureus and its forks use it. No browser
	// sends an Accept that begins like this.
	if bytes.HasPrefix(c.Accept, []byte("text/html, image/gif, image/jpeg, *")) {
		a.html, a.page = false, false
	}
	return a
}

// formatOf returns the format of a media type, or FormatUnnamed.
func formatOf(media []byte) wire.Format {
	switch {
	case equalFold(media, "text/plain"):
		return wire.FormatText
	case equalFold(media, "application/json"):
		return wire.FormatJSON
	case equalFold(media, "application/x-bencode"):
		return wire.FormatBencode
	}
	return wire.FormatUnnamed
}

// weightOf returns the weight in the parameters of a media type, in thousandths. It returns
// 1000, a weight of 1, if the weight is missing or malformed.
func weightOf(params []byte) int {
	weight := 1000
	for p := []byte(nil); len(params) > 0; {
		p, params, _ = bytes.Cut(params, []byte(";"))
		name, value, _ := bytes.Cut(p, []byte("="))
		if equalFold(bytes.TrimSpace(name), "q") {
			weight = parseWeight(bytes.TrimSpace(value))
		}
	}
	return weight
}

// parseWeight returns the weight v in thousandths. v may be 0, 0.N or .N, with up to three digits
// after the point. Everything else is 1000: it is either 1 or malformed.
func parseWeight(v []byte) int {
	whole, part, _ := bytes.Cut(v, []byte("."))
	if len(whole) != 1 && len(part) == 0 || len(part) > 3 || len(whole) > 1 || len(whole) == 1 && whole[0] != '0' {
		return 1000
	}
	q := 0
	for i := range 3 {
		q *= 10
		if i < len(part) {
			if part[i] < '0' || part[i] > '9' {
				return 1000
			}
			q += int(part[i] - '0')
		}
	}
	return q
}

// equalFold says whether b is s in any case. It does not allocate.
func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && bytes.EqualFold(b, []byte(s))
}

// fromBrowser says whether a web page may have made this GET request. Sec-Fetch-Mode: cors alone
// does not count, because Node's fetch sends it. A browser also sends Origin in that mode, except for
// a page of the tracker's own site.
func (c *Call) fromBrowser() bool {
	return c.HasOrigin || c.HasBrowserField || len(c.FetchMode) > 0 && !equalFold(c.FetchMode, "cors") || c.parseAccept().html
}

// clientOf returns the address and port of the client that sent c. Normally this is the other end of
// the connection. If the other end is a trusted proxy, it is the last address in X-Forwarded-For that
// is not a trusted proxy. Port 0 means that the client's port is not known.
func (t *Tracker) clientOf(c *Call) (netip.AddrPort, error) {
	client := wire.Canonical(c.Remote)
	chain := bytes.TrimSpace(c.ForwardedFor)
	switch {
	case c.ProxyItself && client.Addr().IsValid():
		return client, nil
	case c.Unix && len(chain) == 0:
		return client, &wire.RefusalError{Status: 400, Reason: "X-Forwarded-For is missing: a proxy at a Unix socket has to name the client"}
	case !c.Unix && !client.Addr().IsValid():
		return client, fmt.Errorf("connection without an address")
	}
	trusted := c.Unix || t.isProxy(client.Addr())
	// Each proxy appends the address from which it got the request. So read from the end, and go on
	// while the sender of the entry is trusted.
	for more := len(chain) > 0; more && trusted; trusted = t.isProxy(client.Addr()) {
		comma := bytes.LastIndexByte(chain, ',')
		entry := string(bytes.TrimSpace(chain[comma+1:]))
		chain, more = chain[:max(comma, 0)], comma >= 0
		var err error
		if client, err = parseForwarded(entry); err != nil {
			return client, err
		}
	}
	return client, nil
}

// parseForwarded parses an entry of X-Forwarded-For: an address with or without a port. An IPv6
// address may be in brackets. The port is 0 if there is none.
func parseForwarded(entry string) (netip.AddrPort, error) {
	client, err := netip.ParseAddrPort(entry)
	if err != nil {
		text := entry
		n := len(entry)
		brackets := n > 2 && entry[0] == '[' && entry[n-1] == ']'
		if brackets {
			text = entry[1 : n-1]
		}
		a, err := netip.ParseAddr(text)
		if err != nil || brackets && a.Is4() {
			return netip.AddrPort{}, &wire.RefusalError{Status: 400, Reason: fmt.Sprintf("X-Forwarded-For: %.60q is not an address", entry)}
		}
		client = netip.AddrPortFrom(a, 0)
	}
	client = wire.Canonical(client)
	if a := client.Addr(); a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.AddrPort{}, &wire.RefusalError{Status: 400, Reason: fmt.Sprintf("X-Forwarded-For: %s is not the address of a client", a)}
	}
	return client, nil
}

// Trusts says whether a is the address of a trusted reverse proxy: whether it is in one of Proxies.
func (t *Tracker) Trusts(a netip.Addr) bool {
	t.once.Do(t.init)
	return t.isProxy(a.Unmap().WithZone(""))
}

// isProxy is Trusts for a canonical address.
func (t *Tracker) isProxy(a netip.Addr) bool {
	for _, p := range t.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
