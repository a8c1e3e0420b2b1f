package wire

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

const hash40 = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a"

const hash64 = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a0123456789abcdef01234567"

func TestParseKey(t *testing.T) {
	raw, _ := hex.DecodeString(hash40)
	for _, tt := range []struct {
		in, raw, show string
		torrent       bool
	}{
		{"lobby", "lobby", "lobby", false},
		{"a", "a", "a", false},
		{"Grüße/1 +%2f", "Grüße/1 +%2f", "Grüße/1 +%2f", false},
		{strings.Repeat("x", 20), strings.Repeat("x", 20), strings.Repeat("x", 20), false},
		{strings.Repeat("x", 255), strings.Repeat("x", 255), strings.Repeat("x", 255), false},
		{"urn:btih:" + hash40, string(raw), "urn:btih:" + hash40, true},
		{"URN:BTIH:" + strings.ToUpper(hash40), string(raw), "urn:btih:" + hash40, true},
		{"urn:btih:YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK", string(raw), "urn:btih:" + hash40, true},
		{"magnet:?dn=x&xt=urn:btmh:1220aa&xt=urn:btih:" + hash40 + "&tr=http%3A%2F%2Fx", string(raw), "urn:btih:" + hash40, true},
		{"a\x1b[31mb", "a\x1b[31mb", "a%1b%5b31mb", false},
		{"a\u202eb", "a\u202eb", "a%e2%80%aeb", false},
	} {
		k, err := ParseKey(tt.in)
		if err != nil {
			t.Errorf("ParseKey(%q): %v", tt.in, err)
			continue
		}
		if got := string(k.Bytes()); got != tt.raw {
			t.Errorf("ParseKey(%q).Bytes() = %q, want %q", tt.in, got, tt.raw)
		}
		if got := k.String(); got != tt.show {
			t.Errorf("ParseKey(%q).String() = %q, want %q", tt.in, got, tt.show)
		}
		if torrent := k.InfoHash() == [20]byte(raw); torrent != tt.torrent {
			t.Errorf("ParseKey(%q) is the torrent: %v, want %v", tt.in, torrent, tt.torrent)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 256), "urn:btih:", "urn:btih:zz", "urn:btih:" + hash40 + "0",
		"urn:btih:" + hash40 + "00", "urn:btih:" + hash40 + "z", "urn:btmh:1220" + hash64 + "z",
		"urn:btmh:", "urn:btmh:1220", "urn:btmh:1220" + hash64[1:], "urn:btmh:1220" + hash64 + "00", "urn:btmh:1114" + hash40, "urn:btmh:1320" + hash64,
		"urn:btmh:1221" + hash64, "urn:btmh:" + hash64, "urn:btmh:1220" + "z" + hash64[1:], "magnet:?", "magnet:?dn=x", "magnet:?xt=", "magnet:?xt=%zz",
		"magnet:?xt=urn:btih:12", "magnet:?xt=urn:btih:", "magnet:?xt=urn:btih:" + hash40[1:], "magnet:?xt=urn:btih:" + hash40 + "0",
		"magnet:?xt=urn:btih:z" + hash40[1:], "magnet:?xt=urn:btih:1EX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK", "magnet:?xt=urn:btih:YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKE=",
		"magnet:?xt=urn:btih:" + hash40 + "%", "magnet:?xt=urn:btih:12&xt=urn:btih:" + hash40, "magnet:?xt=urn:btih:" + hash40 + "&xt=urn:btih:12",
		"magnet:?xt=urn:btih:12&xt=urn:btmh:1220" + hash64, "magnet:?xt=urn:btmh:1220" + hash40, "magnet:?xt=" + hash40, "magnet:?xt=urn:sha1:" + hash40,
		"magnet:?xt.a=urn:btih:" + hash40, "magnet:?xt.1a=urn:btih:" + hash40, "magnet:?xts=urn:btih:" + hash40, "magnet:?dn=urn:btih:" + hash40} {
		if k, err := ParseKey(bad); err == nil || k.Check() == nil {
			t.Errorf("ParseKey(%q) = %v, want an error", bad, k)
		}
	}
}

// The info_hash of a text key is the output of: printf ntrack:lobby | sha1sum
func TestInfoHashOfText(t *testing.T) {
	k, _ := ParseKey("lobby")
	h := k.InfoHash()
	if got := hex.EncodeToString(h[:]); got != "38cc88b25516f5c224f676641f5667c7424159d2" {
		t.Errorf("InfoHash = %s", got)
	}
}

// Magnet links that BitTorrent clients accept, broken ones included. Each of them means hash40.
func TestMagnet(t *testing.T) {
	const v1, v2, base32 = "urn:btih:" + hash40, "urn:btmh:1220" + hash64, "YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK"
	const other = "urn:btih:0123456789012345678901234567890123456789"
	for _, link := range []string{
		v2, strings.ToUpper(v2), " " + v1 + "\n", " " + v2 + " ",
		"magnet:?xt=" + v1,
		"MAGNET:?XT=" + strings.ToUpper(v1),
		"magnet:?xt=urn:btih:" + base32,
		"magnet:?xt=urn:btih:" + strings.ToLower(base32),
		"\t magnet:?xt=" + v1 + " \r\n",
		"magnet:/?xt=" + v1,
		"magnet://?xt=" + v1,

		// Everything but the hash may be missing, broken or unknown.
		"magnet:?xt=" + v1 + "&dn=100% legal",
		"magnet:?dn=100% legal%zz&xt=" + v1 + "&tr=%",
		"magnet:?xt=" + v1 + "&dn=a;b&dn=c=d&dn&=&&",
		"magnet:?&xt=" + v1 + "&tr=udp%3A%2F%2Ftracker.example%3A80&tr.2=http://x/?a=b&ws=&x.pe=[::1]:1&so=0-3&xl=10",
		"magnet:?dn=\xff\x00\x1b[2J&xt=" + v1,
		"magnet:?dn=#1 of 2&xt=" + v1,
		"magnet:?xt=" + v1 + "#fragment",
		"magnet:?xt=" + v1 + ";dn=x",
		"magnet:?xt=" + v1 + "&dn=" + strings.Repeat("x", 1<<16),

		// Percent-encoding, and escapes of HTML.
		"magnet:?xt=urn%3Abtih%3A" + hash40,
		"magnet:?xt=urn%3abtih:%63" + hash40[1:],
		"magnet:?xt=" + v1 + "%20",
		"magnet:?xt=+" + v1,
		"magnet:?dn=x&amp;xt=" + v1 + "&amp;tr=x",
		"magnet:?dn=x&#38;xt=" + v1 + "&#x26;tr=x",

		// Several hashes.
		"magnet:?xt.1=" + v1,
		"magnet:?xt.1=urn:ed2k:a0a9277894123b27945224fbac8366c9&xt.23=" + v1,
		"magnet:?xt=urn:ed2k:a0a9277894123b27945224fbac8366c9&xt=" + v1 + "&xt=urn:sha1:" + base32,
		"magnet:?xt=" + other + "&xt=" + v1,
		"magnet:?xt=&xt=" + v1 + "&xt=%zz&xt",

		// Version 2, and both.
		"magnet:?xt=" + v2,
		"magnet:?dn=x%&xt.1=urn%3Abtmh%3A1220" + strings.ToUpper(hash64),
		"magnet:?xt=urn:btmh:1220" + strings.Repeat("0", 64) + "&xt=" + v2,
		"magnet:?xt=urn:btmh:1220" + strings.Repeat("0", 64) + "&xt=" + v1,
		"magnet:?xt=" + v1 + "&xt=urn:btmh:1220" + strings.Repeat("0", 64),
		"magnet:?xt=" + v1 + "&xt=urn:btmh:1114" + hash40,
	} {
		k, err := ParseKey(link)
		if err != nil || k.String() != v1 {
			t.Errorf("ParseKey(%s) = %v, %v", Quote(link), k, err)
			continue
		}
		if h := k.InfoHash(); hex.EncodeToString(h[:]) != hash40 || string(h[:]) != string(k.Bytes()) {
			t.Errorf("ParseKey(%s): info_hash %x, key %x", Quote(link), h, k.Bytes())
		}
	}
	// A text that only resembles a torrent is a key like any other text.
	for _, text := range []string{"magnet", "magnet:", "magnet:x", "magnet:x?xt=" + v1, "magnets:?xt=" + v1, "xmagnet:?xt=" + v1, "urn:btih", "urn:sha1:x", hash40, base32} {
		if k, err := ParseKey(text); err != nil || string(k.Bytes()) != text || k.String() != text {
			t.Errorf("ParseKey(%q) = %v, %v", text, k, err)
		}
	}
	// A raw key that looks like a torrent is printed percent-encoded, because ParseKey would read its
	// text as another key.
	for _, text := range []string{v1, v2, " " + v1, "magnet:?xt=" + v1, " magnet:/?x"} {
		if got := KeyOf([]byte(text)).String(); got != string(AppendEscaped(nil, []byte(text))) {
			t.Errorf("KeyOf(%q).String() = %q", text, got)
		}
	}
}

// FuzzParseKey: a key that is printed without escapes is the same key when it is read back.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"lobby", "magnet:?xt=urn:btih:" + hash40, "magnet:?xt.1=urn%3abtmh:1220" + hash64 + "&amp;dn=%", " magnet:/?x=;y", "urn:btih:", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			if Clean(err.Error()) != err.Error() {
				t.Fatalf("the error is not safe to print: %q", err)
			}
			return
		}
		if n := len(k.Bytes()); n == 0 || n > MaxKey {
			t.Fatalf("a key of %d bytes", n)
		}
		text := k.String()
		if text == string(AppendEscaped(nil, k.Bytes())) {
			return
		}
		again, err := ParseKey(text)
		if err != nil || !bytes.Equal(again.Bytes(), k.Bytes()) || again.InfoHash() != k.InfoHash() {
			t.Fatalf("%q is printed as %q, which is %q, %v", k.Bytes(), text, again.Bytes(), err)
		}
	})
}
