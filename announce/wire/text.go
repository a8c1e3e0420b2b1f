package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Quote returns v in quotes for an error message. It escapes what is not printable, and cuts v after
// 40 bytes.
func Quote[T string | []byte](v T) string {
	if len(v) > 40 {
		return fmt.Sprintf("%q...", v[:40])
	}
	return fmt.Sprintf("%q", v)
}

// Clean makes text from the network safe for a terminal and a log. The result is one line of at most
// 303 bytes, cut after 300 if it is longer, with '?' in place of each character that is not printable.
func Clean(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 303 { // what is cut once stays as it is
		s = s[:300] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// Redact makes the name of a tracker safe to show. It replaces the user and the password by "...", and
// the parts of a classic path that may be a token or a passkey by "xxxxx". s may be any text:
// [ParseTracker] need not accept it.
func Redact(s string) string {
	_, rest := cutScheme(s)
	begin, end := len(s)-len(rest), strings.LastIndexByte(s, '@')
	if end >= begin && (begin > 0 || strings.Contains(s[:end], ":")) {
		s = s[:begin] + "..." + s[end:]
		rest = s[begin:]
	}
	i := strings.IndexByte(rest, '/')
	classic := begin > 0 || strings.Contains(rest, "/announce") || strings.Contains(rest, "/scrape")
	if i < 0 || !classic {
		return s
	}
	return s[:begin] + rest[:i] + redactPath(rest[i:])
}

// redactPath replaces what may be secret in the path and the query of a classic tracker: every
// element of the path but the names that all trackers use, and every value of the query.
// It keeps a native path, which has a key.
func redactPath(path string) string {
	native := ""
	if i := strings.Index(path, "/ntrk/"); i >= 0 && !strings.Contains(path[i:], "/announce") {
		path, native = path[:i], path[i:]
	}
	path, query, hasQuery := strings.Cut(path, "?")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		name, _, _ := strings.Cut(p, ".")
		switch {
		case p == "", p == "ntrk", (name == "announce" || name == "tracker" || name == "scrape") && len(p) <= len(name)+5:
		default:
			parts[i] = "xxxxx"
		}
	}
	path = strings.Join(parts, "/") + native
	if !hasQuery {
		return path
	}
	params := strings.Split(query, "&")
	for i, p := range params {
		name, _, ok := strings.Cut(p, "=")
		if params[i] = "xxxxx"; ok {
			params[i] = name + "=xxxxx"
		}
	}
	return path + "?" + strings.Join(params, "&")
}

// UnescapeZone replaces the %25 before the zone of an address by %. A zone is written as %25eth0 in URLs
// (RFC 6874) and as %eth0 elsewhere, and people use both forms. The zone 25 may be written as %25 or
// %2525.
func UnescapeZone(s string) string {
	before, zone, ok := strings.Cut(s, "%25")
	if !ok || zone == "" || zone[0] == ']' {
		return s
	}
	return before + "%" + zone
}

// AppendEscaped appends b percent-encoded. It encodes all bytes, also a slash, except the unreserved
// characters of RFC 3986 section 2.3.
func AppendEscaped(dst, b []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '.', c == '_', c == '~':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		}
	}
	return dst
}

// unescape decodes percent-encoding once, in place. It returns nil and false for a malformed escape.
func unescape(b []byte) ([]byte, bool) {
	n := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '%' {
			if i+2 >= len(b) {
				return nil, false
			}
			hi, lo := unhex(b[i+1]), unhex(b[i+2])
			if hi > 15 || lo > 15 {
				return nil, false
			}
			c = hi<<4 | lo
			i += 2
		}
		b[n] = c
		n++
	}
	return b[:n], true
}

// unhex returns the value of a hex digit, or 0xff if c is not one.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

func printable(b []byte) bool {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n < 2 || !unicode.IsPrint(r) {
			return false
		}
		i += n
	}
	return true
}
