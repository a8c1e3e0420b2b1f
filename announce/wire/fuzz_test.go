package wire

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// FuzzRoundTrip: a client reads what a tracker writes, in each form, whatever the numbers, the keys and
// the peers are.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("k"), []byte("\x01\x02\x03\x04\x00\x05"), uint32(60), uint32(150), uint32(3), uint8(0))
	f.Add([]byte("\xff\n\"\\"), []byte(strings.Repeat("\x20\x01\x0d\xb8\xff\xff", 9)), uint32(1), uint32(0), uint32(1<<31), uint8(0xff))
	f.Add([]byte(strings.Repeat("\u2028", 80)), []byte{}, uint32(1<<32-1), uint32(1<<32-1), uint32(0), uint8(5))
	f.Fuzz(func(t *testing.T, key, raw []byte, interval, ttl, count uint32, flags uint8) {
		req := Request{Key: KeyOf(key), Compact: flags&1 > 0, NoPeerID: flags&2 > 0}
		if req.Key.Check() != nil || len(raw) > 1<<12 {
			return
		}
		var peers []Peer
		var want []netip.AddrPort
		for b := range slices.Chunk(raw, 6) {
			if len(b) < 6 {
				break
			}
			a := netip.AddrFrom4([4]byte(b))
			if flags&4 > 0 && b[0]&1 > 0 {
				a = netip.AddrFrom16([16]byte{0x20, 1, 2, 3, 4: b[0], 15: b[3]})
			}
			e := netip.AddrPortFrom(a, max(2, binary.BigEndian.Uint16(b[4:])))
			if canDial(e, 2) && !slices.Contains(want, e) {
				peers, want = append(peers, Peer{Endpoint: e}), append(want, e)
			}
		}
		reply := Reply{Key: req.Key, You: netip.MustParseAddrPort("192.0.2.99:1"), Count: int(count >> 2), Interval: max(time.Second, time.Duration(interval)*time.Second), TTL: time.Duration(ttl) * time.Second}
		for _, format := range []Format{FormatJSON, FormatText, FormatBencode} {
			body := req.AppendReply(nil, format, &reply, peers)
			if len(body) == 0 {
				continue // text without peers
			}
			got, err := req.DecodeReply(body, netip.AddrPort{})
			if err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			slices.SortFunc(want, netip.AddrPort.Compare)
			slices.SortFunc(got.Peers, netip.AddrPort.Compare)
			if !slices.Equal(got.Peers, slices.DeleteFunc(slices.Clone(want), func(e netip.AddrPort) bool { return e == got.You })) {
				t.Fatalf("%q is read as %v, want %v", body, got.Peers, want)
			}
			if format == FormatText {
				continue
			}
			if n := min(max(reply.Interval, time.Second), MaxInterval); format == FormatJSON && got.Interval != n || got.Count != min(reply.Count, 1<<30) || got.You.Addr() != reply.You.Addr() {
				t.Fatalf("%q is read as %+v", body, got)
			}
		}
		tracks := []Track{{Key: req.Key, Count: int(count >> 2)}}
		for _, format := range []Format{FormatJSON, FormatBencode} {
			body := AppendTracks(nil, format, slices.Clone(tracks))
			got, err := DecodeTracks(body)
			if err != nil || len(got) != 1 || string(got[0].Key.Bytes()) != string(key) || got[0].Count != min(tracks[0].Count, 1<<30) {
				t.Fatalf("%q is read as %+v, %v", body, got, err)
			}
			if format == FormatJSON && strings.ContainsFunc(strings.TrimSuffix(string(body), "\n"), unicode.IsControl) {
				t.Fatalf("%q has a control character", body)
			}
		}
	})
}

// FuzzText: what is made safe for a terminal or an URL is safe, and escaping loses nothing.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a\x1b[2Jb", "\xff", strings.Repeat("é", 200), "%zz", "%25", "http://u:p@h/x/announce?passkey=1", "u:secret@h", "a\u202eb", "fe80::1%25eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		clean := Clean(s)
		if Clean(clean) != clean || len(clean) > 4*303 || strings.ContainsFunc(clean, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is cleaned to %q", s, clean)
		}
		if q := Quote(s); len(q) > 40*10+5 || strings.ContainsFunc(q, func(r rune) bool { return !unicode.IsPrint(r) }) || Quote([]byte(s)) != q {
			t.Errorf("%q is quoted as %s", s, q)
		}
		escaped := AppendEscaped(nil, []byte(s))
		if back, ok := unescape(slices.Clone(escaped)); !ok || string(back) != s {
			t.Errorf("%q is escaped as %s, and read as %q, %v", s, escaped, back, ok)
		}
		if strings.ContainsFunc(string(escaped), func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/?#&=+\"<>", r) }) {
			t.Errorf("%q is escaped as %s", s, escaped)
		}
		if raw, ok := unescape([]byte(s)); ok && len(raw) > len(s) {
			t.Errorf("%q is longer without escapes: %q", s, raw)
		}
		// A password does not survive, whatever is around it.
		if utf8.ValidString(s) && !strings.ContainsAny(s, "@/?#:") && s != "" {
			const secret = "pa55w0rd"
			for _, name := range []string{"http://u:" + secret + "@" + s + "/", "u:" + secret + "@" + s, s + ":" + secret + "@h"} {
				if shown := Redact(name); strings.Contains(shown, secret) {
					t.Errorf("%q is shown as %q", name, shown)
				}
			}
		}
	})
}
