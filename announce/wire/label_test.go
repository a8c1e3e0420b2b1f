package wire

import (
	"net/netip"
	"strings"
	"testing"
)

// ParseLabel refuses what a tracker or a client would not show as it is.
func TestParseLabel(t *testing.T) {
	for s, want := range map[string]string{
		"dm6 3/8 eu":                "",
		"exactly twenty bytes":      "",
		"r\u00e9seau \u2603":        "",
		strings.Repeat("\u2603", 6): "",
		"?":                         "",
		"":                          "it is empty",
		"this is twenty-one by":     "it has 21 bytes",
		strings.Repeat("\u2603", 7): "it has 21 bytes",
		"\xff":                      "it is not UTF-8",
		"a\xc3":                     "it is not UTF-8",
		" a":                        "it begins or ends with a space",
		"a ":                        "it begins or ends with a space",
		" ":                         "it begins or ends with a space",
		"a\n":                       "it begins or ends with a space",
		"a\nb":                      "it has a character that is not printable",
		"\x00":                      "it has a character that is not printable",
		"a\x1b[2J":                  "it has a character that is not printable",
		"a\u202eb":                  "it has a character that is not printable",
		"a\u00a0b":                  "it has a character that is not printable",
		"\ufffd":                    "it has a character that is not printable",
	} {
		id, err := ParseLabel(s)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want || err == nil && (id.Label() != s || Clean(id.Label()) != s) || err != nil && id != (ID{}) {
			t.Errorf("%q: %q, %v, want %s", s, id.Label(), err, want)
		}
	}
}

// A label crosses the wire as it is, with '?' in place of what is not printable.
func FuzzLabel(f *testing.F) {
	for _, s := range []string{"", "dm6 3/8 eu", "-qB4520-abcdefghijkl", "-lt0D80-\xff", "a\x1b[2Jb", "a\u2028\u202eb", "\"\\", "   ", "\xff", "A2-1-36-0-\xff", "\x00a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var id ID
		copy(id[:], s)
		req := Request{Verb: VerbLook, Labels: true}
		e := netip.MustParseAddrPort("192.0.2.1:5000")
		peers := []Peer{{Endpoint: netip.MustParseAddrPort("192.0.2.2:5000")}, {Endpoint: e, ID: id}}
		body := req.AppendReply(nil, FormatJSON, &Reply{Key: KeyOf([]byte("k"))}, peers)
		got, err := req.DecodeReply(body, netip.AddrPort{})
		if err != nil || got.Labels[e] != Clean(id.Label()) || len(got.Labels) > 1 || len(got.Peers) != 2 {
			t.Fatalf("%q is read as %+v, %v", body, got, err)
		}
		if parsed, err := ParseLabel(s); err == nil && (parsed != id || got.Labels[e] != s) {
			t.Fatalf("the label %q is read as %q", s, got.Labels[e])
		}
		for _, r := range got.Labels[e] {
			if escapedInJSON(r) {
				t.Fatalf("%q has a control character", got.Labels[e])
			}
		}
	})
}

// An id is a label as a whole, or begins with a BitTorrent client, or is none.
func TestIDLabel(t *testing.T) {
	for text, want := range map[string]string{
		"dm6":                  "dm6",
		"-qB4520-\xff":         "-qB4520-",
		"M7-10-5-\xff":         "M7-10-5-",
		"-qB45201\xff":         "", // no hyphen in the last place
		"-qB45_0-\xff":         "",
		"-qB4520-\x01":         "-qB4520-",
		"a\x00b":               "",
		"\xff":                 "",
		"":                     "",
		"-qB4520-abcdefghijkl": "-qB4520-abcdefghijkl",
	} {
		var id ID
		copy(id[:], text)
		if got := id.Label(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A list of labels that is not parallel to the peers has none. An IPv4 peer in IPv6 form is the same peer.
func TestReadLabels(t *testing.T) {
	req := Request{Verb: VerbLook, Labels: true}
	for body, want := range map[string]string{
		`{"peers":["[::ffff:192.0.2.1]:1"],"labels":["a"]}`:      "a",
		`{"peers":["192.0.2.1:1"],"labels":["a","b"]}`:           "",
		`{"peers":["192.0.2.1:1","192.0.2.2:2"],"labels":["a"]}`: "",
		`{"peers":["192.0.2.1:1"],"labels":"a"}`:                 "",
		`{"peers":["192.0.2.1:1"],"labels":[1]}`:                 "",
	} {
		r, err := req.DecodeReply([]byte(body), netip.AddrPort{})
		if err != nil || r.Labels[netip.MustParseAddrPort("192.0.2.1:1")] != want {
			t.Errorf("%s: %+v, %v, want the label %q", body, r, err, want)
		}
	}
}

// Of two replies, the first one that has a label for a peer decides.
func TestMergeLabels(t *testing.T) {
	req := Request{Verb: VerbLook, Labels: true}
	read := func(body string) *Reply {
		t.Helper()
		r, err := req.DecodeReply([]byte(body), netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := read(`{"peers":["192.0.2.1:1"]}`)
	r.Merge(read(`{"peers":["192.0.2.1:1","192.0.2.2:2","192.0.2.3:3"],"labels":["a",null,"c"]}`), 0)
	r.Merge(read(`{"peers":["192.0.2.1:1","192.0.2.2:2","192.0.2.3:3","192.0.2.3:3"],"labels":["x","b","x","y"]}`), 0)
	want := map[string]string{"192.0.2.1:1": "a", "192.0.2.2:2": "b", "192.0.2.3:3": "c"}
	for e, label := range want {
		if got := r.Labels[netip.MustParseAddrPort(e)]; got != label {
			t.Errorf("%s: %q, want %q", e, got, label)
		}
	}
	if len(r.Labels) != len(want) || len(r.Peers) != len(want) {
		t.Errorf("%v, %v", r.Peers, r.Labels)
	}
}
