package announce

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

const hash40 = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a"

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
		if is := k.InfoHash() == [20]byte(bytes.Repeat(raw, 1)); is != tt.torrent {
			t.Errorf("ParseKey(%q) goes to a classic tracker as it is: %v, want %v", tt.in, is, tt.torrent)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 256), "urn:btih:", "urn:btih:zz", "urn:btih:" + hash40 + "0",
		"magnet:?dn=x", "magnet:?xt=urn:btih:12", "magnet:?xt=%zz"} {
		if k, err := ParseKey(bad); err == nil {
			t.Errorf("ParseKey(%q) = %v, want an error", bad, k)
		}
	}
}

// The hash that stands for a text key, worked out by sha1sum: printf ntrack:lobby | sha1sum.
func TestInfoHashOfText(t *testing.T) {
	k, _ := ParseKey("lobby")
	h := k.InfoHash()
	if got := hex.EncodeToString(h[:]); got != "38cc88b25516f5c224f676641f5667c7424159d2" {
		t.Errorf("InfoHash = %s", got)
	}
}

func TestEscape(t *testing.T) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	escaped := AppendEscaped(nil, all)
	if strings.ContainsAny(string(escaped), " /?#+&=") {
		t.Errorf("not everything is escaped: %s", escaped)
	}
	back, ok := unescape(escaped)
	if !ok || !bytes.Equal(back, all) {
		t.Errorf("unescape(escape(all bytes)) = %q, %v", back, ok)
	}
	for _, bad := range []string{"%", "a%2", "%zz", "%2g"} {
		if got, ok := unescape([]byte(bad)); ok {
			t.Errorf("unescape(%q) = %q", bad, got)
		}
	}
}

func TestClean(t *testing.T) {
	if got := Clean(" \x1b]0;boo\x07\xff é\n\r "); got != "?]0;boo?? é" {
		t.Errorf("Clean = %q", got)
	}
	if got := Clean(strings.Repeat("x", 1000)); len(got) > 310 {
		t.Errorf("Clean leaves %d bytes", len(got))
	}
}

// The proposal's example.
func TestIDOf(t *testing.T) {
	id := IDOf(netip.MustParseAddrPort("123.45.67.89:1234"))
	if got := hex.EncodeToString(id[:]); got != "396747a010eff799e3a82ce1b351ac25bce23fce" {
		t.Errorf("IDOf = %s", got)
	}
}

func TestScope(t *testing.T) {
	for a, want := range map[string]Scope{
		"127.0.0.1": Loopback, "127.255.255.254": Loopback, "::1": Loopback,
		"169.254.1.1": LinkLocal, "fe80::1": LinkLocal, "febf::1": LinkLocal,
		"10.0.0.1": Private, "172.16.0.1": Private, "172.31.255.255": Private, "192.168.0.1": Private,
		"100.64.0.1": Private, "100.127.255.255": Private, "fd00::1": Private, "fc00::1": Private,
		"172.32.0.1": Public, "100.63.0.1": Public, "100.128.0.1": Public, "8.8.8.8": Public,
		"2001:db8::1": Public, "2002::1": Public, "11.0.0.1": Public,
	} {
		if got := ScopeOf(netip.MustParseAddr(a)); got != want {
			t.Errorf("ScopeOf(%s) = %v, want %v", a, got, want)
		}
	}
	if !Loopback.Sees(Public) || !Private.Sees(Private) || Public.Sees(Private) || Private.Sees(Loopback) {
		t.Error("Sees: an asker gets its own scope and wider ones, and no narrower")
	}
}
