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

// MaxKey is the length of the longest key, in bytes. The shortest has 1.
const MaxKey = 255

// A Key names a track. It is 1 to [MaxKey] opaque bytes, compared byte for byte. Make one with
// [ParseKey] from text or with [KeyOf] from raw bytes. The zero Key is none, and every request with
// it is an error.
type Key struct {
	raw []byte
	// torrent means that raw is the info_hash of a torrent. A classic tracker gets that unchanged and
	// any other key hashed. The length does not tell them apart: a text may have 20 bytes too.
	torrent bool
}

// ParseKey reads a key as a person writes it. These name a torrent, and the key is its info_hash:
//
//   - urn:btih: and 40 hex digits or 32 base32 digits;
//   - urn:btmh:1220 and 64 hex digits, for a torrent of version 2: the key is the first 20 bytes of
//     the hash (BEP 52);
//   - a magnet link with one of these as its xt.
//
// Any other text is the key itself, byte for byte. With an error the Key is the zero one.
func ParseKey(s string) (Key, error) {
	name := strings.TrimSpace(s)
	if query, ok := cutMagnet(name); ok {
		return parseMagnet(s, query)
	}
	if isURN(name) {
		return infoHash(name)
	}
	k := Key{raw: []byte(s)}
	if err := k.Check(); err != nil {
		return Key{}, err
	}
	return k, nil
}

// KeyOf makes a Key of raw bytes. It keeps raw and does not copy it. It takes 20 bytes that are not
// UTF-8 for an info_hash.
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

// parseMagnet reads the query of the magnet link s (BEP 9). Many links are broken in ways that
// BitTorrent clients accept, so only the hash has to be right. Parameters may be numbered, as in
// xt.1, and &amp; may separate them. Of several hashes the last one counts, as in other clients, but
// version 1 goes before version 2: it has the peers of a hybrid torrent.
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

// The prefixes of a torrent's hash, in version 1 (BEP 9) and version 2 (BEP 52).
const (
	btih = "urn:btih:"
	btmh = "urn:btmh:"
)

func isURN(s string) bool { return hasPrefix(s, btih) || hasPrefix(s, btmh) }

func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// infoHash reads a hash with its prefix. In version 2 it is a multihash: 12 stands for SHA-256 and 20
// for its 32 bytes. Trackers know the first 20 of them.
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

// Bytes returns the key as trackers see it. The bytes are shared with k and must not be changed.
func (k Key) Bytes() []byte { return k.raw }

// InfoHash returns the 20 bytes that stand for the key on a classic tracker. They are the info_hash
// of a torrent itself. For any other key they are the SHA-1 of "ntrack:" and the key, which no real
// torrent has.
func (k Key) InfoHash() [sha1.Size]byte {
	if k.torrent && len(k.raw) == sha1.Size {
		return [sha1.Size]byte(k.raw)
	}
	return sha1.Sum(append([]byte("ntrack:"), k.raw...))
}

// String returns the key in a form that is safe to print. An info_hash is urn:btih: and hex, and any
// other key is its text. [ParseKey] reads both back. A key is percent-encoded if its text is not
// printable or if ParseKey would read another key from it; then it is only for people to read.
func (k Key) String() string {
	if text, ok := k.text(); ok && printable(text) {
		return string(text)
	}
	return string(AppendEscaped(nil, k.raw))
}

// text returns the text from which ParseKey makes k. ok is false if there is none.
func (k Key) text() (text []byte, ok bool) {
	if k.torrent {
		return hex.AppendEncode([]byte(btih), k.raw), true
	}
	name := string(bytes.TrimSpace(k.raw))
	_, magnet := cutMagnet(name)
	return k.raw, utf8.Valid(k.raw) && !isURN(name) && !magnet
}

// MarshalText returns a text that [Key.UnmarshalText] reads back as the same key, and an error if
// there is none. Such a key is not UTF-8, or looks like a torrent or a magnet link without being one.
// The zero Key and one that is too long are errors too.
func (k Key) MarshalText() ([]byte, error) {
	if err := k.Check(); err != nil {
		return nil, err
	}
	text, ok := k.text()
	if !ok {
		return nil, fmt.Errorf("key %s: no text stands for these bytes", Quote(k.raw))
	}
	return bytes.Clone(text), nil
}

// UnmarshalText reads text as [ParseKey] does. After an error k has its old value.
func (k *Key) UnmarshalText(text []byte) error {
	parsed, err := ParseKey(string(text))
	if err == nil {
		*k = parsed
	}
	return err
}
