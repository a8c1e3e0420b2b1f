package server

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ntrack/tracker"
)

// A head is the request line and the header fields that this server uses. Its slices point into the
// buffer that was parsed.
type head struct {
	method string
	target []byte
	minor  int // the version is HTTP/1.minor

	accept, authorization, forwardedFor, fetchMode []byte
	hasOrigin                                      bool
	hasBrowserField                                bool // it has a fieldBrowser

	keepAlive bool
	expect    bool  // the client waits for 100 Continue before it sends the body
	length    int64 // bytes in the body, unless it is chunked
	chunked   bool  // the body has a chunked transfer coding
}

// plain says that the request ends with its head, and that nothing comes before the reply. A POST
// is never plain, because an old client may send an empty line after it, which only conn.readHead
// skips.
func (h *head) plain() bool {
	return h.length == 0 && !h.chunked && !h.expect && h.method != "POST"
}

// skipEmptyLines returns b without the empty lines at its beginning. An old client may send one
// after the body of a POST, and a server should ignore it (RFC 9112 section 2.2).
func skipEmptyLines(b []byte) []byte {
	for {
		switch {
		case len(b) > 0 && b[0] == '\n':
			b = b[1:]
		case len(b) > 1 && b[0] == '\r' && b[1] == '\n':
			b = b[2:]
		default:
			return b
		}
	}
}

// A badRequest is an error in a request that the tracker cannot see. It is the reason in the
// refusal.
type badRequest string

func (r badRequest) Error() string { return string(r) }

// headEnd returns the length of the head at the beginning of b, with the empty line at its end. It
// returns 0 if the head is not complete. searched is how many bytes an earlier call has searched.
func headEnd(b []byte, searched int) int {
	// The end has at most 3 bytes. Some of them may be among those that were searched.
	for i := max(searched-3, 0); ; {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0
		}
		i += j + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
	}
}

// parseHead reads a head (RFC 9112). It is at least as strict as net/http. It refuses a head if
// another server could see the end of the request elsewhere. The error is a badRequest with the
// first fault. Even then h has the fields that are right, because they decide the format of the
// refusal.
func (h *head) parseHead(b []byte) error {
	*h = head{}
	var bad error
	refuse := func(reason string) {
		if bad == nil {
			bad = badRequest(reason)
		}
	}
	line, rest := cutLine(b)
	h.parseRequestLine(line, refuse)
	hosts, lengths, closing := 0, 0, false
	for {
		if line, rest = cutLine(rest); len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			refuse("header: each line must be NAME: VALUE, and not folded")
			continue
		}
		value = bytes.Trim(value, " \t")
		if !validValue(value) {
			refuse("header " + string(name[:min(len(name), 40)]) + ": has control characters")
			continue
		}
		switch fieldOf(name) {
		case fieldAccept:
			combine(&h.accept, value)
		case fieldAuthorization:
			combine(&h.authorization, value)
		case fieldForwardedFor:
			combine(&h.forwardedFor, value)
		case fieldFetchMode:
			combine(&h.fetchMode, value)
		case fieldOrigin:
			h.hasOrigin = true
		case fieldBrowser:
			h.hasBrowserField = true
		case fieldHost:
			if hosts++; hosts > 1 || !validHost(value) {
				refuse("header Host: must be given once, and be a host")
			}
		case fieldConnection:
			for v := value; len(v) > 0; {
				var token []byte
				token, v, _ = bytes.Cut(v, []byte(","))
				switch token = bytes.Trim(token, " \t"); {
				case equalFold(token, "close"):
					closing = true
				case equalFold(token, "keep-alive"):
					h.keepAlive = true
				case len(token) > 0 && !isToken(token):
					// Servers do not agree whether close is one of the words. To close is always right.
					closing = true
				}
			}
		case fieldLength:
			n, ok := parseLength(value)
			if lengths++; !ok || lengths > 1 && n != h.length {
				refuse("header Content-Length: must be one number")
			}
			h.length = n
		case fieldTransferEncoding:
			if h.chunked || !equalFold(value, "chunked") || h.minor == 0 {
				refuse("header Transfer-Encoding: may only be chunked, once, in HTTP/1.1")
			}
			h.chunked = true
		case fieldExpect:
			if !equalFold(value, "100-continue") {
				refuse("header Expect: may only be 100-continue")
			}
			h.expect = h.minor > 0
		}
	}
	if hosts == 0 && h.minor > 0 {
		refuse("header Host: is missing, but HTTP/1.1 requires it")
	}
	if h.chunked && lengths > 0 { // another server may use the other one (RFC 9112 section 6.3)
		refuse("headers Transfer-Encoding and Content-Length: only one of them may be given")
	}
	h.keepAlive = h.keepAlive && !closing
	return bad
}

// parseRequestLine calls refuse if something is wrong.
func (h *head) parseRequestLine(line []byte, refuse func(reason string)) {
	method, line, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(line, []byte(" "))
	if !ok1 || !ok2 || !isToken(method) || len(target) == 0 || !validTarget(target) {
		refuse("request line: must be METHOD TARGET HTTP/1.1, with single spaces")
		version = []byte("HTTP/1.1")
		if !isToken(method) {
			method, target = nil, nil
		}
	} else if len(version) != 8 || string(version[:7]) != "HTTP/1." || version[7] < '0' || version[7] > '9' {
		refuse("HTTP version: must be 1.0 or 1.1")
		version = []byte("HTTP/1.1")
	} else if target[0] != '/' && string(target) != "*" && !bytes.Contains(target, []byte("://")) {
		refuse("request target: must be a path, such as /ntrk/KEY")
	}
	h.method, h.target, h.minor = methodName(method), target, int(version[7]-'0')
	h.keepAlive = h.minor > 0
}

// cutLine splits b after its first line, which ends in CRLF or LF. line is without this ending.
func cutLine(b []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(b, []byte("\n"))
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, rest
}

// methodName returns b as a string. It allocates only for a method that is not supported.
func methodName(b []byte) string {
	for _, m := range [...]string{"GET", "HEAD", "POST", "DELETE", "OPTIONS"} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// The header fields that this server uses. fieldBrowser stands for each field of
// [tracker.Call.HasBrowserField].
const (
	fieldUnknown = iota
	fieldAccept
	fieldAuthorization
	fieldConnection
	fieldLength
	fieldExpect
	fieldHost
	fieldOrigin
	fieldBrowser
	fieldFetchMode
	fieldTransferEncoding
	fieldForwardedFor
)

// fieldOf returns the header field of that name. It compares the length first, because most fields
// that clients send are unknown.
func fieldOf(name []byte) int {
	// is returns f or 0, which is fieldUnknown. At most one of several names can match, so the sum
	// of the results is its field.
	is := func(s string, f int) int {
		if equalFold(name, s) {
			return f
		}
		return fieldUnknown
	}
	switch len(name) {
	case 4:
		return is("host", fieldHost)
	case 6:
		return is("accept", fieldAccept) + is("expect", fieldExpect) + is("origin", fieldOrigin)
	case 7:
		return is("purpose", fieldBrowser) + is("referer", fieldBrowser)
	case 10:
		return is("connection", fieldConnection)
	case 11:
		return is("sec-purpose", fieldBrowser)
	case 13:
		return is("authorization", fieldAuthorization)
	case 14:
		return is("content-length", fieldLength) + is("sec-fetch-mode", fieldFetchMode)
	case 15:
		return is("x-forwarded-for", fieldForwardedFor)
	case 17:
		return is("transfer-encoding", fieldTransferEncoding)
	}
	return fieldUnknown
}

// equalFold says whether b is s in any case. s must be ASCII in lower case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// combine sets *field to value. If *field has a value already, it appends the new one after a comma
// (RFC 9110 section 5.3). An empty value adds nothing.
func combine(field *[]byte, value []byte) {
	switch {
	case len(value) == 0:
	case len(*field) == 0:
		*field = slices.Clip(value) // so that the first append copies it, and the others need not
	default:
		*field = append(append(*field, ','), value...)
	}
}

func parseLength(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// isToken says whether b is a token, such as the name of a method or a field (RFC 9110 section
// 5.6.2).
func isToken(b []byte) bool { return len(b) > 0 && alphanumericOr(b, "!#$%&'*+-.^_`|~") }

// validHost says whether b has only bytes that RFC 3986 allows in a host and a port. An empty Host
// is valid: a client sends it if its URL has no host.
func validHost(b []byte) bool { return alphanumericOr(b, "!$%&'()*+,-.:;=[]_~") }

// alphanumericOr says whether b has only ASCII letters, digits and bytes that are in others.
func alphanumericOr(b []byte, others string) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}

// validTarget says whether b has no spaces and no control characters.
func validTarget(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// validValue says whether b has no control characters except tabs.
func validValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// buffers are the memory for the calls and replies of a batch. A connection has them only during a
// batch. Otherwise each of ten thousand idle connections would keep memory for its largest reply.
type buffers struct {
	out  []byte // the replies of the batch
	body []byte // the body of the latest reply
	call tracker.Call
}

// reusable says whether b is small enough to be kept for another connection. Larger replies are
// rare.
func (b *buffers) reusable() bool { return max(cap(b.out), cap(b.body)) <= 2*maxBatchBytes }

// setCall fills b.call from the head of a request.
func (b *buffers) setCall(h *head, remote netip.AddrPort, how via) {
	b.call = tracker.Call{
		Method: h.method, Target: h.target, Remote: remote, Unix: how == unixSocket, ProxyItself: how == proxyItself,
		Accept: h.accept, Authorization: h.authorization, ForwardedFor: h.forwardedFor, FetchMode: h.fetchMode,
		HasOrigin: h.hasOrigin, HasBrowserField: h.hasBrowserField,
	}
}

// serveCall lets the tracker answer b.call, and appends the reply to b.out. closing says that the
// connection ends after the reply. more says whether it may have another request. If stream is not
// nil, the reply is the beginning of an event stream, and the connection goes on with the stream.
func (s *Server) serveCall(b *buffers, h *head, now time.Time, closing bool) (more bool, stream *tracker.Stream) {
	var resp tracker.Response
	if s.Challenge != nil && s.isChallenge(b) {
		resp = tracker.Response{Status: http.StatusOK, Type: "text/plain"}
	} else {
		resp, b.body = s.Tracker.Answer(s.callContext(now), &b.call, b.body[:0])
	}
	if resp.UnnamedProxy && !s.ProxyProtocol {
		s.log(slog.LevelWarn, "a private address sends X-Forwarded-For or announces many keys; if it is a reverse proxy, add it to the trusted proxies (--proxy), because its clients are listed at its address", b.call.Remote)
	}
	closing = closing || resp.Close || s.draining.Load() || resp.Stream != nil
	s.appendResponse(b, &resp, h, now, closing)
	return !closing, resp.Stream
}

// cutShort is the reason in the refusal of a request whose client has ended the connection.
const cutShort badRequest = "the request is cut short"

// appendRefusal appends to b.out the last reply of a connection, to the malformed request in. The
// reply has the format that the client asked for, as far as the head can be read.
func (s *Server) appendRefusal(b *buffers, in []byte, remote netip.AddrPort, how via, reason badRequest, now time.Time) {
	lines := in[:bytes.LastIndexByte(in, '\n')+1]
	if len(lines) == 0 {
		lines = in
	}
	var h head
	_ = h.parseHead(lines[:min(len(lines), maxHead)])
	b.setCall(&h, remote, how)
	var resp tracker.Response
	resp, b.body = s.Tracker.Refuse(&b.call, string(reason), b.body[:0])
	s.appendResponse(b, &resp, &h, now, true)
}

// appendResponse appends a response, whose body is b.body, to b.out.
func (s *Server) appendResponse(b *buffers, resp *tracker.Response, h *head, now time.Time, closing bool) {
	out := strconv.AppendInt(append(b.out, "HTTP/1.1 "...), int64(resp.Status), 10)
	out = append(append(out, ' '), http.StatusText(resp.Status)...)
	out = append(append(out, "\r\nDate: "...), s.dateText(now)...)
	out = resp.AppendHeader(append(out, "\r\n"...), now)
	if resp.Status != 204 && resp.Stream == nil {
		out = append(out, "Content-Length: "...)
		out = append(strconv.AppendInt(out, int64(len(b.body)), 10), "\r\n"...)
	}
	switch {
	case closing:
		out = append(out, "Connection: close\r\n"...)
	case h.minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if h.method != "HEAD" {
		out = append(out, b.body...)
	}
	b.out = out
}

// A date is a time in whole seconds and its text in a Date field.
type date struct {
	seconds int64 // Unix time
	text    string
}

// dateText returns the text of now in a Date field. It formats the text about once a second.
func (s *Server) dateText(now time.Time) string {
	d := s.date.Load()
	if d == nil || d.seconds != now.Unix() {
		d = &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
		s.date.Store(d)
	}
	return d.text
}
