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

// A Response is what a door sends before the body.
type Response struct {
	Status int
	// Type is the Content-Type; empty where there is no body.
	Type string
	// TTL, where it is not 0, is how long the registration just made will last: Expires is the
	// Date plus that.
	TTL time.Duration
	// Retry, where it is not 0, is Retry-After.
	Retry time.Duration
	// CORS says that a web page may read the reply.
	CORS bool
	// Close says that the connection is to end after this reply.
	Close bool
	// Stream, where it is not nil, goes on where the body ends: there is no Content-Length, and the
	// connection ends with it. The door must call its Close.
	Stream *Stream

	preflight bool
}

// AppendHeader appends every header field but Date, Content-Length and Connection, which are a
// door's own, as lines that end in CRLF. date is what the door sends as Date.
func (r *Response) AppendHeader(dst []byte, date time.Time) []byte {
	if r.Type != "" {
		dst = append(append(append(dst, "Content-Type: "...), r.Type...), "\r\n"...)
	}
	dst = append(dst, "Cache-Control: no-store\r\n"...)
	if r.Stream != nil {
		dst = append(dst, "X-Accel-Buffering: no\r\n"...) // or nginx would gather events
	}
	if r.TTL > 0 {
		dst = appendTime(append(dst, "Expires: "...), date.Add(r.TTL).UTC())
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

// appendTime appends t, which is in UTC, in http.TimeFormat. To follow a layout takes longer than
// all the rest of a header.
func appendTime(dst []byte, t time.Time) []byte {
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

// formOf is the form of a reply: what the request names, else what Accept names, else bencode.
func formOf(r *wire.Request, accept []byte) wire.Format {
	f := wire.FormatBencode
	switch {
	case r.Classic:
	case r.Format != wire.FormatUnnamed:
		f = r.Format
	default:
		if a := formAccepted(accept); a != wire.FormatUnnamed {
			f = a
		}
	}
	return f
}

// formAccepted is the form whose media type Accept names with the highest weight, the first of
// equals. Wildcards name nothing (RFC 9110 section 12.5.1 has the grammar).
func formAccepted(accept []byte) wire.Format {
	best, bestQ := wire.FormatUnnamed, 0
	for media, q := range mediaRanges(accept) {
		if f := formNamed(media); f != wire.FormatUnnamed && q > bestQ {
			best, bestQ = f, q
		}
	}
	return best
}

func formNamed(media []byte) wire.Format {
	switch {
	case asciiEqual(media, "text/plain"):
		return wire.FormatText
	case asciiEqual(media, "application/json"):
		return wire.FormatJSON
	case asciiEqual(media, "application/x-bencode"):
		return wire.FormatBencode
	}
	return wire.FormatUnnamed
}

// streamed says whether a native request is for an event stream: nothing in it names another form,
// and no type of one comes before in Accept.
func streamed(r *wire.Request, accept []byte) bool {
	if r.Classic || r.Format != wire.FormatUnnamed {
		return false
	}
	stream, bestQ := false, 0
	for media, q := range mediaRanges(accept) {
		if is := asciiEqual(media, "text/event-stream"); q > bestQ && (is || formNamed(media) != wire.FormatUnnamed) {
			stream, bestQ = is, q
		}
	}
	return stream
}

// mediaRanges iterates over the media ranges of an Accept field, with weights in thousandths. A
// malformed weight counts as 1.
func mediaRanges(accept []byte) func(yield func(media []byte, q int) bool) {
	return func(yield func([]byte, int) bool) {
		for rest, field := accept, []byte(nil); len(rest) > 0; {
			field, rest, _ = bytes.Cut(rest, []byte(","))
			media, params, _ := bytes.Cut(field, []byte(";"))
			q := 1000
			for p := []byte(nil); len(params) > 0; {
				p, params, _ = bytes.Cut(params, []byte(";"))
				name, value, _ := bytes.Cut(p, []byte("="))
				if asciiEqual(bytes.TrimSpace(name), "q") {
					q = weight(bytes.TrimSpace(value))
				}
			}
			if !yield(bytes.TrimSpace(media), q) {
				return
			}
		}
	}
}

func weight(v []byte) int {
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

// asciiEqual compares without regard to case and without allocating.
func asciiEqual(b []byte, s string) bool {
	return len(b) == len(s) && bytes.EqualFold(b, []byte(s))
}

// isBrowser says that a GET was made, or may have been made, by a web page. Two programs that are
// none look alike. Java's HTTP client, and with it Azureus and its kin, names text/html and
// images, in words no browser uses. Node's fetch sends Sec-Fetch-Mode: cors, with which a browser
// sends an Origin too, unless the page is the tracker's own.
func isBrowser(c *Call) bool {
	if c.Origin || c.Page || len(c.FetchMode) > 0 && !asciiEqual(c.FetchMode, "cors") {
		return true
	}
	if bytes.HasPrefix(c.Accept, []byte("text/html, image/gif, image/jpeg, *")) {
		return false
	}
	for media := range mediaRanges(c.Accept) {
		if asciiEqual(media, "text/html") || len(media) > 6 && asciiEqual(media[:6], "image/") {
			return true
		}
	}
	return false
}

// authorized compares in constant time, lengths included.
func authorized(header []byte, token string) bool {
	scheme, given, _ := bytes.Cut(bytes.TrimSpace(header), []byte(" "))
	given = bytes.TrimSpace(given)
	switch {
	case asciiEqual(scheme, "bearer"):
	case asciiEqual(scheme, "basic"):
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

// origin is where the request comes from: the other end of the connection or, behind proxies the
// operator trusts, the last address in the chain that is none of them. known says that the port
// is the peer's own.
func (t *Tracker) origin(c *Call) (origin netip.AddrPort, known bool, err error) {
	origin, known = wire.Canonical(c.Remote), c.Remote.Port() != 0
	chain := bytes.TrimSpace(c.ForwardedFor)
	switch {
	case c.Unix && len(chain) == 0:
		return origin, false, &wire.RefusalError{Status: 400, Reason: "X-Forwarded-For is missing: a proxy at a Unix socket has to say who asks"}
	case !c.Unix && !origin.Addr().IsValid():
		return origin, false, fmt.Errorf("connection without an address")
	}
	more := len(chain) > 0
	for trusted := c.Unix; more && (trusted || t.trusts(origin.Addr())); trusted = false {
		i := bytes.LastIndexByte(chain, ',')
		entry := string(bytes.TrimSpace(chain[i+1:]))
		chain, more = chain[:max(i, 0)], i >= 0
		ap, err := netip.ParseAddrPort(entry)
		known = ap.Port() != 0
		if err != nil {
			if n := len(entry); n > 2 && entry[0] == '[' && entry[n-1] == ']' {
				entry = entry[1 : n-1]
			}
			a, err := netip.ParseAddr(entry)
			if err != nil {
				return origin, false, &wire.RefusalError{Status: 400, Reason: fmt.Sprintf("X-Forwarded-For: %.60q is no address", entry)}
			}
			ap = netip.AddrPortFrom(a, 0)
		}
		origin = wire.Canonical(ap)
		if a := origin.Addr(); a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return origin, false, &wire.RefusalError{Status: 400, Reason: fmt.Sprintf("X-Forwarded-For: %s is nobody's address", a)}
		}
	}
	return origin, known, nil
}

// Trusts says whether a is the address of a reverse proxy: in one of Proxies.
func (t *Tracker) Trusts(a netip.Addr) bool {
	t.once.Do(t.init)
	return t.trusts(a.Unmap().WithZone(""))
}

func (t *Tracker) trusts(a netip.Addr) bool {
	for _, p := range t.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
