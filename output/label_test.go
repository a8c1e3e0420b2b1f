package output

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// The peer id of a BitTorrent client shows as the client and its version. Any other label shows as it is.
func TestLabelText(t *testing.T) {
	for label, want := range map[string]string{
		"-qB4520-abcdefghijkl": "qBittorrent 4.5.2",
		"-qB4520-":             "qBittorrent 4.5.2",
		"-qB4191-x~!()*.-_abc": "qBittorrent 4.1.9.1",
		"-qB5000-":             "qBittorrent 5.0.0",
		"-TR2940-k8hj0wgej6ch": "Transmission 2.94",
		"-TR3000-k8hj0wgej6ch": "Transmission 3.00",
		"-TR111Z-k8hj0wgej6ch": "Transmission 1.11",
		"-TR4050-k8hj0wgej6ch": "Transmission 4.0.5",
		"-TR410B-k8hj0wgej6ch": "Transmission 4.1.0",
		"-DE13F0-":             "Deluge 1.3.15",
		"-DE211s-":             "Deluge 2.1.1",
		"-UT3530-":             "\u00b5Torrent 3.5.3",
		"-UT355W-":             "\u00b5Torrent 3.5.5",
		"-BT7a5S-":             "BitTorrent 7.10.5",
		"-lt0D80-":             "rTorrent 0.13.8",
		"-LT2080-":             "libtorrent 2.0.8",
		"-WW0201-abcdefghijkl": "WebTorrent 2.1",
		"-BI3510-abcdefghijkl": "BiglyBT 3.5.1",
		"-AZ5770-abcdefghijkl": "Vuze 5.7.7",
		"-KT5130-abcdefghijkl": "KTorrent 5.1.3",
		"-NT0100-abcdefghijkl": "ntrack 0.1.0",
		"TIX0333-abcdefghijkl": "Tixati 3.33",
		"A2-1-36-":             "aria2 1.36",
		"A2-1-36-0-abcdefghij": "aria2 1.36.0",
		"M7-10-5-":             "BitTorrent 7.10.5",
		"M4-3-6--abcdefghijkl": "BitTorrent 4.3.6",

		"-XX1234-abcdefghijkl": "XX 1.2.3.4",
		"-ABCDEF-":             "AB 12.13.14",
		"-TRZ000-":             "Transmission 35.0.0",
		"-WWabcd-":             "WebTorrent 10.11.12",

		"":                      "",
		"dm6 3/8 eu":            "dm6 3/8 eu",
		"exactly twenty bytes":  "exactly twenty bytes",
		"-qB4520":               "-qB4520",
		"-qB4520-mine":          "-qB4520-mine",
		"-qB.520-":              "-qB.520-",
		"-q\u00e952--":          "-q\u00e952--",
		"-------- ------------": "-------- ------------",
		"TIX03a3-":              "TIX03a3-",
		"A2-north":              "A2-north",
		"A2------":              "A2------",
		"Mercury-":              "Mercury-",
		"M4-rack-":              "M4-rack-",
		"a\x1b[2Jb":             "a?[2Jb",
		"\u202e8765432":         "?8765432",
		"a\xffb":                "a?b",
	} {
		if got := labelText(label); got != want {
			t.Errorf("%q: %q, want %q", label, got, want)
		}
	}
}

// Whatever a stranger sends as its peer id, its label is text that is safe to print.
func FuzzLabelText(f *testing.F) {
	for _, s := range []string{"-qB4520-abcdefghijkl", "-lt0D80-\xff", "TIX0333-\xff", "A2-1-36-0-\xff", "M7-10-5-\xff", "\u00e9\u00e9\u00e9\u00e9", "a\x1b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var id wire.ID
		copy(id[:], s)
		for _, label := range []string{id.Label(), s} {
			if got := labelText(label); got != wire.Clean(got) || !utf8.ValidString(got) {
				t.Errorf("%q shows as %q", label, got)
			}
		}
	})
}

// Labels have a column, and a list in JSON, if a peer has one.
func TestWriteReplyLabels(t *testing.T) {
	at, err := announce.ParseTracker("")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := netip.MustParseAddrPort
	r := &announce.Reply{You: endpoint("192.0.2.1:1"), Endpoints: []netip.AddrPort{endpoint("192.0.2.1:1")}, Count: -1,
		Peers: []netip.AddrPort{endpoint("192.0.2.3:3"), endpoint("192.0.2.2:2")}}
	for _, tt := range []struct{ label, table, list string }{
		{"", "PEER          SCOPE    NOTE\n192.0.2.1:1   public   you\n192.0.2.2:2   public\n192.0.2.3:3   public\n", `"peers":["192.0.2.2:2","192.0.2.3:3"]}` + "\n"},
		{"-qB4520-", "PEER          SCOPE    NOTE   LABEL\n192.0.2.1:1   public   you\n192.0.2.2:2   public\n192.0.2.3:3   public          qBittorrent 4.5.2\n",
			`"peers":["192.0.2.2:2","192.0.2.3:3"],"labels":[null,"-qB4520-"]}` + "\n"},
	} {
		r.Labels = map[netip.AddrPort]string{r.Peers[0]: tt.label, endpoint("192.0.2.9:9"): "another"}
		var table, list bytes.Buffer
		if err := errors.Join(WriteReply(&table, Table, []announce.Tracker{at}, r), WriteReply(&list, JSON, []announce.Tracker{at}, r)); err != nil {
			t.Fatal(err)
		}
		if table.String() != tt.table || !strings.HasSuffix(list.String(), tt.list) {
			t.Errorf("label %q:\n%s%s", tt.label, &table, &list)
		}
	}
}
