package wire

import (
	stdcmp "cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var someReply = Reply{
	Key: KeyOf([]byte("lobby")), You: netip.MustParseAddrPort("1.2.3.4:4000"),
	Interval: time.Minute, TTL: 150 * time.Second, Count: 4,
}

var somePeers = []Peer{
	{Endpoint: netip.MustParseAddrPort("5.6.7.8:80"), ID: ID([]byte("-NT0100-abcdefghijkl"))},
	{Endpoint: netip.MustParseAddrPort("9.9.9.9:65535")},
	{Endpoint: netip.MustParseAddrPort("[2001:db8::1]:6881")},
}

var sameReply = cmp.Options{cmp.AllowUnexported(Key{}), cmpopts.IgnoreUnexported(Reply{}), cmpopts.EquateComparable(netip.AddrPort{})}

// A client reads back the reply of a tracker in each format, except fields that the format does not
// have.
func TestReplyRoundTrip(t *testing.T) {
	all := someReply
	all.Endpoints = []netip.AddrPort{all.You}
	for _, p := range somePeers {
		all.Peers = append(all.Peers, p.Endpoint)
	}
	bencode := all
	bencode.TTL = 0
	for name, tt := range map[string]struct {
		format Format
		req    Request
		want   Reply
	}{
		"json":       {FormatJSON, Request{}, all},
		"text":       {FormatText, Request{}, Reply{Key: all.Key, Interval: DefaultInterval, Count: -1, Peers: all.Peers}},
		"compact":    {FormatBencode, Request{Compact: true}, bencode},
		"dictionary": {FormatBencode, Request{}, bencode},
		"no peer id": {FormatBencode, Request{NoPeerID: true}, bencode},
	} {
		tt.req.Key, tt.req.Port = someReply.Key, someReply.You.Port()
		body := tt.req.AppendReply(nil, tt.format, &someReply, somePeers)
		got, err := tt.req.DecodeReply(body, someReply.You)
		if err != nil {
			t.Errorf("%s: %v\n%q", name, err, body)
			continue
		}
		if d := cmp.Diff(&tt.want, got, sameReply); d != "" {
			t.Errorf("%s: want (-), got (+):\n%s", name, d)
		}
		// Only dictionaries have peer ids, by which a client finds its own entry.
		for i, p := range somePeers {
			tt.req.ID = stdcmp.Or(p.ID, idOf(p.Endpoint))
			got, err := tt.req.DecodeReply(body, someReply.You)
			if err != nil || slices.Contains(got.Peers, p.Endpoint) == (name == "dictionary") {
				t.Errorf("%s, asked by peer %d: %v, %v", name, i, got, err)
			}
		}
	}
}

func TestRefusalError(t *testing.T) {
	f := RefusalError{Status: 503, Reason: `too "many"`, Retry: 90 * time.Second}
	for format, want := range map[Format]string{
		FormatText:    "too \"many\"\n",
		FormatJSON:    `{"error":"too \"many\""}` + "\n",
		FormatBencode: `d14:failure reason10:too "many"8:intervali60e8:retry ini2ee`,
	} {
		got := f.Append(nil, format, time.Minute)
		if string(got) != want {
			t.Errorf("as %v: %q, want %q", format, got, want)
		}
		if format == FormatText {
			continue
		}
		_, err := decode(got)
		if back, ok := errors.AsType[*RefusalError](err); !ok || back.Reason != f.Reason {
			t.Errorf("read back: %v", err)
		}
	}
}

func TestTracksRoundTrip(t *testing.T) {
	tracks := []Track{{KeyOf([]byte("b\x1b")), 2}, {KeyOf([]byte("a")), 1}, {KeyOf([]byte("a")), 1}, {KeyOf([]byte("\xff\x00")), 3}}
	for format, want := range map[Format]string{
		FormatText:    "a 1\nb%1b 2\n%ff%00 3\n",
		FormatJSON:    `{"tracks":[{"key":"a","count":1},{"key":"b\u001b","count":2},{"key_escaped":"%ff%00","count":3}]}` + "\n",
		FormatBencode: "d5:filesd1:ad8:completei0e10:downloadedi0e10:incompletei1ee2:b\x1bd8:completei0e10:downloadedi0e10:incompletei2ee2:\xff\x00d8:completei0e10:downloadedi0e10:incompletei3eeee",
	} {
		body := AppendTracks(nil, format, append([]Track(nil), tracks...))
		if string(body) != want {
			t.Errorf("as %v:\n%q, want\n%q", format, body, want)
		}
		if format == FormatText {
			continue
		}
		got, err := DecodeTracks(body)
		if s := fmt.Sprint(got); err != nil || s != "[{a 1} {b%1b 2} {%ff%00 3}]" {
			t.Errorf("as %v, read back: %v, %v", format, s, err)
		}
	}
}
