package server

import "bytes"

// head is what a request says before its body, as far as it matters here. Its slices point into
// the buffer that was parsed.
type head struct {
	method string
	target []byte
	minor  int // of HTTP/1

	accept, authorization, forwardedFor, fetchMode []byte
	origin, page                                   bool

	keepAlive bool
	expect    bool  // the client waits for 100 Continue before it sends the body
	length    int64 // of the body
	chunked   bool  // the body comes in chunks, and their sizes with them
}

// plain says that the request has no body, nor needs anything but an answer.
func (h *head) plain() bool {
	return h.length == 0 && !h.chunked && !h.expect && h.method != "POST"
}

// skipEmptyLines is b without the empty lines that it begins with. Old clients end the body of a
// POST with one too many, and a server should ignore them in front of a request (RFC 9112 2.2).
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

// refusal is why a request is answered 400 before a tracker sees it.
type refusal string

func (r refusal) Error() string { return string(r) }

// headEnd is where the head that b begins with ends, with the empty line; 0 where it does not yet.
// from is how far b is known to have no end.
func headEnd(b []byte, from int) int {
	for i := max(from-3, 0); ; {
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

// parse reads a head (RFC 9112). It is as strict as net/http or stricter: where two readers of
// the same bytes could disagree about where a request ends, it refuses. The error is what is wrong
// first. The fields are then what the other lines say, as far as they can be read: they decide how
// the refusal is written.
func (h *head) parse(b []byte) error {
	*h = head{}
	var bad error
	refuse := func(why string) {
		if bad == nil {
			bad = refusal(why)
		}
	}
	line, rest := cutLine(b)
	method, line, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(line, []byte(" "))
	if !ok1 || !ok2 || !isToken(method) || len(target) == 0 || !printable(target) {
		refuse("request line: METHOD TARGET HTTP/1.1, with one space between")
		version = []byte("HTTP/1.1")
		if !isToken(method) {
			method, target = nil, nil
		}
	} else if len(version) != 8 || string(version[:7]) != "HTTP/1." || version[7] < '0' || version[7] > '9' {
		refuse("HTTP version: 1.0 or 1.1")
		version = []byte("HTTP/1.1")
	} else if target[0] != '/' && string(target) != "*" && !bytes.Contains(target, []byte("://")) {
		refuse("request target: a path, such as /ntrk/KEY")
	}
	h.method, h.target, h.minor = methodName(method), target, int(version[7]-'0')
	h.keepAlive = h.minor > 0
	hosts, lengths, closing := 0, 0, false
	for {
		if line, rest = cutLine(rest); len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			refuse("header: lines of NAME: VALUE, none folded")
			continue
		}
		value = bytes.Trim(value, " \t")
		if !validValue(value) {
			refuse("header " + string(name) + ": control characters")
			continue
		}
		switch f := known(name); f {
		case fieldAccept:
			join(&h.accept, value)
		case fieldAuthorization:
			join(&h.authorization, value)
		case fieldForwardedFor:
			join(&h.forwardedFor, value)
		case fieldFetchMode:
			join(&h.fetchMode, value)
		case fieldOrigin:
			h.origin = true
		case fieldPage:
			h.page = true
		case fieldHost:
			if hosts++; hosts > 1 || !validHost(value) {
				refuse("header Host: one, and a host's name")
			}
		case fieldConnection:
			for v := value; len(v) > 0; {
				var token []byte
				token, v, _ = bytes.Cut(v, []byte(","))
				token = bytes.Trim(token, " \t")
				closing = closing || equalFold(token, "close")
				h.keepAlive = h.keepAlive || equalFold(token, "keep-alive")
			}
		case fieldLength:
			n, ok := length(value)
			if lengths++; !ok || lengths > 1 && n != h.length {
				refuse("header Content-Length: one number")
			}
			h.length = n
		case fieldTransferEncoding:
			if h.chunked || !equalFold(value, "chunked") || h.minor == 0 {
				refuse("header Transfer-Encoding: chunked, once, in HTTP/1.1")
			}
			h.chunked = true
		case fieldExpect:
			if !equalFold(value, "100-continue") {
				refuse("header Expect: 100-continue or nothing")
			}
			h.expect = h.minor > 0
		}
	}
	if hosts == 0 && h.minor > 0 {
		refuse("header Host is missing, which HTTP/1.1 demands")
	}
	if h.chunked && lengths > 0 { // two readers could take either (RFC 9112 6.3)
		refuse("headers Transfer-Encoding and Content-Length: one of them")
	}
	h.keepAlive = h.keepAlive && !closing
	return bad
}

// cutLine takes the first line off b; its end is CRLF or LF.
func cutLine(b []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(b, []byte("\n"))
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, rest
}

// methodName is the method as a string, without allocating for those that mean something.
func methodName(b []byte) string {
	for _, m := range [...]string{"GET", "HEAD", "POST", "DELETE", "OPTIONS"} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// The fields that matter.
const (
	fieldUnknown = iota
	fieldAccept
	fieldAuthorization
	fieldConnection
	fieldLength
	fieldExpect
	fieldHost
	fieldOrigin
	fieldPage
	fieldFetchMode
	fieldTransferEncoding
	fieldForwardedFor
)

// known looks at the length first: most fields that clients send are of no interest.
func known(name []byte) int {
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
		return is("purpose", fieldPage) + is("referer", fieldPage)
	case 10:
		return is("connection", fieldConnection)
	case 11:
		return is("sec-purpose", fieldPage)
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

// equalFold compares with s, which is in lower case, ASCII only.
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

// join adds the value of a repeated field, as RFC 9110 section 5.3 has it.
func join(to *[]byte, value []byte) {
	if *to == nil {
		*to = value
		return
	}
	*to = append(append(bytes.Clone(*to), ','), value...)
}

func length(v []byte) (n int64, ok bool) {
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

// isToken is RFC 9110 section 5.6.2.
func isToken(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') &&
			bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func validValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validHost takes the bytes that RFC 3986 allows in a host and a port. An empty one is for targets
// that name none.
func validHost(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') &&
			bytes.IndexByte([]byte("!$%&'()*+,-.:;=[]_~"), c) < 0 {
			return false
		}
	}
	return true
}
