package wire

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxKey is the length of the longest key, in bytes. The shortest key has 1 byte.
const MaxKey = 255

// A Key names a track, which is the set of peers that have announced the key. It is 1 to [MaxKey]
// opaque bytes, compared byte for byte. Make a Key with [ParseKey] from text or with [KeyOf] from raw
// bytes. The zero Key is not valid, and every request with it is an error.
type Key struct {
	raw []byte
	// torrent means that raw is the info_hash of a torrent. A classic tracker gets an info_hash
	// unchanged, and the hash of any other key. The length is not enough to distinguish them, because
	// the text of a key may have 20 bytes too.
	torrent bool
}

// ParseKey reads a key as a person writes it. For the following forms, which name a torrent, the key
// is the info_hash of the torrent:
//
//   - urn:btih: and 40 hex digits or 32 base32 digits;
//   - urn:btmh:1220 and 64 hex digits, for a torrent of version 2: the key is the first 20 bytes of
//     the hash (BEP 52);
//   - a magnet link whose parameter xt has one of these forms.
//
// Any other text is the key itself, byte for byte. If ParseKey returns an error, the Key is zero.
func ParseKey(s string) (Key, error) {
	name := strings.TrimSpace(s)
	if query, ok := cutMagnet(name); ok {
		return parseMagnet(s, query)
	}
	if isURN(name) {
		return parseURN(name)
	}
	k := Key{raw: []byte(s)}
	if err := k.Check(); err != nil {
		return Key{}, err
	}
	return k, nil
}

// KeyOf makes a Key of raw bytes. The Key shares the bytes with raw. If raw has 20 bytes and is not
// valid UTF-8, the Key is an info_hash.
func KeyOf(raw []byte) Key {
	return Key{raw: raw, torrent: len(raw) == sha1.Size && !utf8.Valid(raw)}
}

// cutMagnet returns the query of a magnet link. ok is false if s is not a magnet link.
func cutMagnet(s string) (query string, ok bool) {
	if !hasPrefix(s, "magnet:") {
		return "", false
	}
	return strings.CutPrefix(strings.TrimLeft(s[len("magnet:"):], "/"), "?")
}

// parseMagnet reads the query of the magnet link s (BEP 9). Many links are broken in ways that
// BitTorrent clients accept, so only the hash has to be right. Parameters may be numbered, as in
// xt.1, and &amp; may separate them. If there are several hashes, the last one counts, as in other
// clients. But a hash of version 1 is preferred: a torrent that has both versions has its peers
// under version 1.
func parseMagnet(s, query string) (k Key, err error) {
	v2 := ""
	for field := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(field, "=")
		name = name[strings.LastIndexByte(name, ';')+1:] // a cut at the & of &amp; leaves amp;xt
		name, ordinal, _ := strings.Cut(name, ".")
		if !strings.EqualFold(name, "xt") || ordinal != "" && !isNumber(ordinal) {
			continue
		}
		value, _, _ = strings.Cut(value, "#")
		value, _, _ = strings.Cut(value, ";")
		if plain, ok := unescape([]byte(value)); ok {
			value = string(plain)
		}
		switch value = strings.Trim(value, "+ \t\r\n"); {
		case hasPrefix(value, btih):
			if k, err = parseURN(value); err != nil {
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
		return parseURN(v2)
	}
	return Key{}, fmt.Errorf("key %s: a magnet link needs xt=%s or xt=%s and an info_hash", Quote(s), btih, btmh)
}

// The prefixes of an info_hash, in version 1 (BEP 9) and version 2 (BEP 52).
const (
	btih = "urn:btih:"
	btmh = "urn:btmh:"
)

func isURN(s string) bool { return hasPrefix(s, btih) || hasPrefix(s, btmh) }

// hasPrefix ignores the case of letters.
func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// parseURN reads an info_hash with its prefix.
func parseURN(urn string) (Key, error) {
	digits := urn[len(btih):]
	if hasPrefix(urn, btmh) {
		// A multihash: the byte 0x12 means SHA-256, and 0x20 is the length of the hash. Trackers use
		// the first 20 bytes of the hash.
		raw, err := hex.DecodeString(digits)
		if err != nil || len(raw) != 2+sha256.Size || raw[0] != 0x12 || raw[1] != sha256.Size {
			return Key{}, fmt.Errorf("key %s: an info_hash of version 2 must be 1220 and 64 hex digits", Quote(urn))
		}
		return Key{raw: slices.Clip(raw[2 : 2+sha1.Size]), torrent: true}, nil
	}
	decode := hex.DecodeString
	if len(digits) == 32 {
		decode = base32.StdEncoding.DecodeString
	}
	raw, err := decode(strings.ToUpper(digits))
	if err != nil || len(raw) != sha1.Size {
		return Key{}, fmt.Errorf("key %s: an info_hash must be 40 hex digits or 32 base32 digits", Quote(urn))
	}
	return Key{raw: raw, torrent: true}, nil
}

// Check returns an error unless the key has 1 to [MaxKey] bytes.
func (k Key) Check() error {
	switch n := len(k.raw); {
	case n == 0:
		return fmt.Errorf("the key is empty: must have 1 to %d bytes", MaxKey)
	case n > MaxKey:
		return fmt.Errorf("key of %d bytes: must have 1 to %d", n, MaxKey)
	}
	return nil
}

// Bytes returns the key as native trackers get it. Do not change the bytes: k has no copy of them.
func (k Key) Bytes() []byte { return k.raw }

// InfoHash returns the 20 bytes that a classic tracker gets as the key. For a torrent they are its
// info_hash. For any other key they are the SHA-1 of "ntrack:" and the key; no real torrent has that
// info_hash.
func (k Key) InfoHash() [sha1.Size]byte {
	if k.torrent && len(k.raw) == sha1.Size {
		return [sha1.Size]byte(k.raw)
	}
	return sha1.Sum(append([]byte("ntrack:"), k.raw...))
}

// String returns the key in a form that is safe to print: urn:btih: and hex digits for an info_hash,
// and the text of any other key. [ParseKey] reads both back as the same key.
//
// If the text is not printable, or if ParseKey would read it as another key, String returns the bytes
// percent-encoded. ParseKey does not read that form back.
func (k Key) String() string {
	if text, ok := k.text(); ok && printable(text) {
		return string(text)
	}
	return string(AppendEscaped(nil, k.raw))
}

// text returns the text that ParseKey reads as k. ok is false if there is no such text.
func (k Key) text() (text []byte, ok bool) {
	if k.torrent {
		return hex.AppendEncode([]byte(btih), k.raw), true
	}
	name := string(bytes.TrimSpace(k.raw))
	_, magnet := cutMagnet(name)
	return k.raw, utf8.Valid(k.raw) && !isURN(name) && !magnet
}

// MarshalText returns a text that [Key.UnmarshalText] reads back as the same key. It returns an error
// for a key that has no such text: its bytes are not UTF-8, or they look like one of the forms that
// name a torrent. A key of 0 bytes or more than [MaxKey] bytes is an error too.
func (k Key) MarshalText() ([]byte, error) {
	if err := k.Check(); err != nil {
		return nil, err
	}
	text, ok := k.text()
	if !ok {
		return nil, fmt.Errorf("key %s: these bytes cannot be written as text", Quote(k.raw))
	}
	return bytes.Clone(text), nil
}

// UnmarshalText reads text as [ParseKey] does. If it returns an error, k is unchanged.
func (k *Key) UnmarshalText(text []byte) error {
	parsed, err := ParseKey(string(text))
	if err == nil {
		*k = parsed
	}
	return err
}
