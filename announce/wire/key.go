package wire

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKey is the length of the longest key, in bytes. The shortest is 1.
const MaxKey = 255

// A Key names a track: 1 to [MaxKey] opaque bytes, compared byte for byte. Make one with
// [ParseKey] from what a person wrote or with [KeyOf] from raw bytes; the zero Key is no key and
// every request with it is refused.
type Key struct {
	raw []byte
	// torrent says that raw is a torrent's info_hash and goes to a classic tracker as it is; any
	// other key goes there hashed. Length alone cannot tell: a text may have 20 bytes too.
	torrent bool
}

// ParseKey reads a key as a person writes it. urn:btih: followed by 40 hex digits or 32 base32
// digits names a torrent, and so does a magnet link with such an xt: its key is the 20 bytes of the
// info_hash. urn:btmh: followed by 1220 and 64 hex digits names a torrent of version 2, whose key is
// the first 20 bytes of the hash (BEP 52). Everything else is the key itself, byte for byte.
func ParseKey(s string) (Key, error) {
	name := strings.TrimSpace(s)
	switch query, magnet := cutMagnet(name); {
	case magnet:
		return parseMagnet(s, query)
	case isURN(name):
		return infoHash(name)
	}
	k := KeyOf([]byte(s))
	k.torrent = false
	return k, k.Check()
}

// KeyOf makes a Key of raw bytes, which it keeps and does not copy. 20 bytes that are not UTF-8
// are taken for an info_hash.
func KeyOf(raw []byte) Key {
	return Key{raw: raw, torrent: len(raw) == sha1.Size && !utf8.Valid(raw)}
}

// cutMagnet returns the query of a magnet link.
func cutMagnet(s string) (query string, ok bool) {
	if !hasPrefix(s, "magnet:") {
		return "", false
	}
	return strings.CutPrefix(strings.TrimLeft(s[len("magnet:"):], "/"), "?")
}

// parseMagnet reads the query of a magnet link s (BEP 9). Links in the wild are broken in many ways
// that BitTorrent clients do not mind, so only the hash has to be right. Parameters may be numbered,
// as in xt.1, and separated by &amp;. Of several hashes the last counts, as in other clients, but
// version 1 before version 2: that is where the peers of a hybrid torrent are.
func parseMagnet(s, query string) (k Key, err error) {
	v2 := ""
	for field := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(field, "=")
		name, ordinal, _ := strings.Cut(name[strings.LastIndexByte(name, ';')+1:], ".")
		if _, isNumber := number([]byte(ordinal), 1); !strings.EqualFold(name, "xt") || ordinal != "" && !isNumber {
			continue
		}
		value, _, _ = strings.Cut(value, "#")
		value, _, _ = strings.Cut(value, ";")
		if plain, ok := unescape([]byte(value)); ok {
			value = string(plain)
		}
		switch value = strings.Trim(value, "+ \t\r\n"); {
		case hasPrefix(value, btih):
			if k, err = infoHash(value); err != nil {
				return Key{}, err
			}
		case hasPrefix(value, btmh):
			v2 = value
		}
	}
	switch {
	case k.raw != nil:
		return k, nil
	case v2 != "":
		return infoHash(v2)
	}
	return Key{}, fmt.Errorf("key %s: a magnet link needs xt=%s or xt=%s and an info_hash", Quote(s), btih, btmh)
}

// How the hash of a torrent of version 1 (BEP 9) and 2 (BEP 52) begins.
const (
	btih = "urn:btih:"
	btmh = "urn:btmh:"
)

func isURN(s string) bool { return hasPrefix(s, btih) || hasPrefix(s, btmh) }

func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// infoHash reads a hash as it is in a magnet link. That of version 2 is a multihash: 12 says SHA-256,
// and 20 that it has 32 bytes, of which trackers know the first 20.
func infoHash(urn string) (Key, error) {
	digits := urn[len(btih):]
	raw, err := hex.DecodeString(digits)
	if hasPrefix(urn, btmh) {
		if err != nil || len(raw) != 2+sha256.Size || raw[0] != 0x12 || raw[1] != sha256.Size {
			return Key{}, fmt.Errorf("key %s: the info_hash of version 2 is 1220 and 64 hex digits", Quote(urn))
		}
		return Key{raw: slices.Clip(raw[2 : 2+sha1.Size]), torrent: true}, nil
	}
	if len(digits) == 32 {
		raw, err = base32.StdEncoding.DecodeString(strings.ToUpper(digits))
	}
	if err != nil || len(raw) != sha1.Size {
		return Key{}, fmt.Errorf("key %s: an info_hash is 40 hex digits or 32 base32 digits", Quote(urn))
	}
	return Key{raw: raw, torrent: true}, nil
}

// Check returns an error unless the key has 1 to [MaxKey] bytes.
func (k Key) Check() error {
	switch n := len(k.raw); {
	case n == 0:
		return fmt.Errorf("the key is empty: a key has 1 to %d bytes", MaxKey)
	case n > MaxKey:
		return fmt.Errorf("key of %d bytes: a key has 1 to %d", n, MaxKey)
	}
	return nil
}

// Bytes are the key as trackers see it. They are shared, not copied.
func (k Key) Bytes() []byte { return k.raw }

// InfoHash is what stands for the key on a classic tracker, where keys are 20 bytes: a torrent's
// info_hash itself, or else the SHA-1 of "ntrack:" and the key, which no real torrent has.
func (k Key) InfoHash() [sha1.Size]byte {
	if k.torrent && len(k.raw) == sha1.Size {
		return [sha1.Size]byte(k.raw)
	}
	return sha1.Sum(append([]byte("ntrack:"), k.raw...))
}

// String is the key in a form that is safe to print. [ParseKey] reads it back where it is the text
// itself, which has to be printable UTF-8, or urn:btih: and hex, for an info_hash. Every other key
// comes percent-encoded, which is for reading only.
func (k Key) String() string {
	text := strings.TrimSpace(string(k.raw))
	_, magnet := cutMagnet(text)
	switch {
	case k.torrent:
		return btih + hex.EncodeToString(k.raw)
	case printable(k.raw) && !isURN(text) && !magnet:
		return string(k.raw)
	}
	return string(AppendEscaped(nil, k.raw))
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

// AppendEscaped appends b percent-encoded: everything but the unreserved characters of RFC 3986
// section 2.3, a slash included.
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

// unescape decodes percent-encoding once, in place. It returns nil and false at a malformed escape.
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

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// Quote shows a value inside an error: printable, and short even when the value is not.
func Quote[T string | []byte](v T) string {
	const most = 40
	if len(v) > most {
		return fmt.Sprintf("%q...", v[:most])
	}
	return fmt.Sprintf("%q", v)
}

// Clean makes text from the network fit for a terminal and a log: one line, at most 300 bytes,
// what is not printable replaced by '?'.
func Clean(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
