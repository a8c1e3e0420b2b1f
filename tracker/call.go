package tracker

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
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
	// Accept, Authorization, ForwardedFor (X-Forwarded-For) and FetchMode (Sec-Fetch-Mode) are the
	// values of these header fields. The values of a repeated field are joined with commas.
	Accept, Authorization, ForwardedFor, FetchMode []byte
	// HasOrigin says that the request has the header field Origin.
	HasOrigin bool
	// FromPage says that the request has one of the header fields Referer, Sec-Purpose and
	// Purpose. A browser sends these for a web page.
	FromPage bool

	accepted accepted
}

// A Response is what a server sends before the body.
type Response struct {
	Status int
	// Type is the Content-Type; empty if there is no body.
	Type string
	// TTL is how long the peer stays listed after an announce. Expires is Date plus TTL. It is 0
	// if the call was not an announce.
	TTL time.Duration
	// Retry is the value of Retry-After; 0 if there is none.
	Retry time.Duration
	// CORS says that a web page may read the reply.
	CORS bool
	// Close says that the connection must end after this reply.
	Close bool
	// Stream is nil unless the reply is an event stream, which goes on after the body. Such a reply
	// has no Content-Length and ends with its connection. The server must call Stream.Close.
	Stream *Stream

	preflight bool
}

// AppendHeader appends the header fields as lines that end in CRLF. Date, Content-Length and
// Connection are not among them: the server adds these. date is the time in its Date.
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
	page   bool        // HTML or images are accepted, as by a browser
}

// parseAccept parses Accept (RFC 9110 section 12.5.1) when it is first called for a call. If two
// media types have the same weight, the first one counts. A wildcard is not a format.
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
		a.page = a.page || equalFold(media, "text/html") || len(media) > 6 && equalFold(media[:6], "image/")
	}
	// Java's HTTP client accepts HTML and images, too. Azureus and its forks use it. No browser
	// sends an Accept that begins like this.
	if bytes.HasPrefix(c.Accept, []byte("text/html, image/gif, image/jpeg, *")) {
		a.page = false
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

// weightOf returns the weight in the parameters of a media type, in thousandths. The weight is 1 if
// it is missing or malformed.
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
// does not show that, because Node's fetch sends it, too. A browser sends Origin with it, unless
// the page has the origin of the tracker.
func (c *Call) fromBrowser() bool {
	return c.HasOrigin || c.FromPage || len(c.FetchMode) > 0 && !equalFold(c.FetchMode, "cors") || c.parseAccept().page
}

// hasToken says whether the call has the token: as a bearer token (RFC 6750) or as the password of
// basic authentication (RFC 7617). It compares in constant time, even if the lengths differ.
func (c *Call) hasToken(token string) bool {
	scheme, given, _ := bytes.Cut(bytes.TrimSpace(c.Authorization), []byte(" "))
	given = bytes.TrimSpace(given)
	switch {
	case equalFold(scheme, "bearer"):
	case equalFold(scheme, "basic"):
		userPass, err := base64.StdEncoding.DecodeString(string(given))
		if err != nil {
			return false
		}
		_, given, _ = bytes.Cut(userPass, []byte(":"))
	default:
		return false
	}
	a, b := sha256.Sum256(given), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// origin returns the address and port that a call comes from. If the other end of the connection is
// a trusted proxy, that is the last address in X-Forwarded-For that is not a trusted proxy.
// Otherwise it is the other end of the connection. Port 0 means that the peer's own port is not
// known.
func (t *Tracker) origin(c *Call) (netip.AddrPort, error) {
	origin := wire.Canonical(c.Remote)
	chain := bytes.TrimSpace(c.ForwardedFor)
	switch {
	case c.Unix && len(chain) == 0:
		return origin, &wire.RefusalError{Status: 400, Reason: "X-Forwarded-For is missing: a proxy at a Unix socket has to name the client"}
	case !c.Unix && !origin.Addr().IsValid():
		return origin, fmt.Errorf("connection without an address")
	}
	more := len(chain) > 0
	for trusted := c.Unix; more && (trusted || t.isProxy(origin.Addr())); trusted = false {
		i := bytes.LastIndexByte(chain, ',')
		entry := string(bytes.TrimSpace(chain[i+1:]))
		chain, more = chain[:max(i, 0)], i >= 0
		ap, err := netip.ParseAddrPort(entry)
		if err != nil {
			if n := len(entry); n > 2 && entry[0] == '[' && entry[n-1] == ']' {
				entry = entry[1 : n-1]
			}
			a, err := netip.ParseAddr(entry)
			if err != nil {
				return origin, &wire.RefusalError{Status: 400, Reason: fmt.Sprintf("X-Forwarded-For: %.60q is no address", entry)}
			}
			ap = netip.AddrPortFrom(a, 0)
		}
		origin = wire.Canonical(ap)
		if a := origin.Addr(); a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return origin, &wire.RefusalError{Status: 400, Reason: fmt.Sprintf("X-Forwarded-For: %s is nobody's address", a)}
		}
	}
	return origin, nil
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
