package wire

import (
	"bytes"
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

// Each form carries what it has a place for, and a client reads it back.
func TestReplyRoundTrip(t *testing.T) {
	all := someReply
	all.Endpoints = []netip.AddrPort{all.You}
	for _, p := range somePeers {
		all.Peers = append(all.Peers, p.Endpoint)
	}
	bencode := all
	bencode.TTL = 0
	for name, tt := range map[string]struct {
		form Format
		req  Request
		want Reply
	}{
		"json":       {FormatJSON, Request{}, all},
		"text":       {FormatText, Request{}, Reply{Key: all.Key, Interval: DefaultInterval, Count: -1, Peers: all.Peers}},
		"compact":    {FormatBencode, Request{Compact: true}, bencode},
		"dictionary": {FormatBencode, Request{}, bencode},
		"no peer id": {FormatBencode, Request{NoPeerID: true}, bencode},
	} {
		tt.req.Key, tt.req.Port = someReply.Key, someReply.You.Port()
		body := tt.req.AppendReply(nil, tt.form, &someReply, somePeers)
		got, err := tt.req.DecodeReply(body, someReply.You)
		if err != nil {
			t.Errorf("%s: %v\n%q", name, err, body)
			continue
		}
		if d := cmp.Diff(&tt.want, got, sameReply); d != "" {
			t.Errorf("%s: want (-), got (+):\n%s", name, d)
		}
		// A client knows itself by its peer id, which dictionaries alone carry.
		for i, p := range somePeers {
			tt.req.ID = stdcmp.Or(p.ID, idOf(p.Endpoint))
			got, err := tt.req.DecodeReply(body, someReply.You)
			if err != nil || slices.Contains(got.Peers, p.Endpoint) == (name == "dictionary") {
				t.Errorf("%s, asked by peer %d: %v, %v", name, i, got, err)
			}
		}
	}
}

func TestDecodeForeign(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		want Reply
	}{
		"interval missing":     {"d5:peers0:e", Reply{Interval: 30 * time.Minute, Count: -1}},
		"interval huge":        {"d8:intervali9223372036854775807e5:peers0:e", Reply{Interval: time.Hour, Count: -1}},
		"interval tiny":        {"d8:intervali1e5:peers0:e", Reply{Interval: 10 * time.Second, Count: -1}},
		"interval negative":    {"d8:intervali-5e5:peers0:e", Reply{Interval: 30 * time.Minute, Count: -1}},
		"min interval counts":  {"d8:intervali60e12:min intervali900e5:peers0:e", Reply{Interval: 15 * time.Minute, Count: -1}},
		"counts add up":        {"d8:completei2e10:incompletei3e5:peers0:e", Reply{Interval: 30 * time.Minute, Count: 5, Sample: true}},
		"huge counts, too":     {"d8:completei9999999999e10:incompletei9999999999e5:peers0:e", Reply{Interval: 30 * time.Minute, Count: 1 << 30, Sample: true}},
		"ports 0 and 1 drop":   {"d5:peers18:\x01\x02\x03\x04\x00\x00\x01\x02\x03\x04\x00\x01\x01\x02\x03\x04\x00\x02e", Reply{Interval: 30 * time.Minute, Count: -1, Peers: endpointsOf("1.2.3.4:2")}},
		"host names drop":      {"d5:peersld2:ip9:localhost4:porti80eed2:ip7:1.2.3.44:porti80eeee", Reply{Interval: 30 * time.Minute, Count: -1, Peers: endpointsOf("1.2.3.4:80")}},
		"unsorted, line's end": {"d5:peers0:8:intervali60ee\r\n", Reply{Interval: time.Minute, Count: -1}},
		"warning is cleaned":   {"d5:peers0:15:warning message5:a\x1b\nbce", Reply{Interval: 30 * time.Minute, Count: -1, Warning: "a??bc"}},
		"a mapped address":     {"d6:peers618:\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x01\x02\x03\x04\x00\x50e", Reply{Interval: 30 * time.Minute, Count: -1, Peers: endpointsOf("1.2.3.4:80")}},
	} {
		got, err := decode([]byte(tt.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := cmp.Diff(&tt.want, got, sameReply, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: want (-), got (+):\n%s", name, d)
		}
	}
	for _, bad := range []string{"d5:peers5:abcdee", "d5:peersi5ee", "d5:peersli5eee", "<html>", "{", `{"peers":["x"]}`, `{"you":"x"}`, "d", "nonsense\n"} {
		if got, err := decode([]byte(bad)); err == nil {
			t.Errorf("decode(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestRefusalError(t *testing.T) {
	f := RefusalError{Status: 503, Reason: `too "many"`, Retry: 90 * time.Second}
	for form, want := range map[Format]string{
		FormatText:    "too \"many\"\n",
		FormatJSON:    `{"error":"too \"many\""}` + "\n",
		FormatBencode: `d14:failure reason10:too "many"8:intervali60e8:retry ini2ee`,
	} {
		got := f.Append(nil, form, time.Minute)
		if string(got) != want {
			t.Errorf("as %v: %q, want %q", form, got, want)
		}
		if form == FormatText {
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
	for form, want := range map[Format]string{
		FormatText:    "a 1\nb%1b 2\n%ff%00 3\n",
		FormatJSON:    `{"tracks":[{"key":"a","count":1},{"key":"b\u001b","count":2},{"key_escaped":"%ff%00","count":3}]}` + "\n",
		FormatBencode: "d5:filesd1:ad8:completei0e10:downloadedi0e10:incompletei1ee2:b\x1bd8:completei0e10:downloadedi0e10:incompletei2ee2:\xff\x00d8:completei0e10:downloadedi0e10:incompletei3eeee",
	} {
		body := AppendTracks(nil, form, append([]Track(nil), tracks...))
		if string(body) != want {
			t.Errorf("as %v:\n%q, want\n%q", form, body, want)
		}
		if form == FormatText {
			continue
		}
		got, err := DecodeTracks(body)
		if s := fmt.Sprint(got); err != nil || s != "[{a 1} {b%1b 2} {%ff%00 3}]" {
			t.Errorf("as %v, read back: %v, %v", form, s, err)
		}
	}
}

// FuzzDecode: no reply makes a client panic or hands out what nobody can dial.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"d5:peers9223372036854775807:", "i5e", "d5:peersi5ee", "d8:intervali60e5:peers6:abcdefe", "d5:filesd1:ad10:incompletei1eeee",
		`{"key":"a","you":"1.2.3.4:5","interval":60,"ttl":150,"count":1,"peers":["1.2.3.4:5"]}`, `{"tracks":[{"key":"a","count":1}]}`, "1.2.3.4:5\n",
		"d14:failure reason3:no!8:retry ini9223372036854775807ee", "d14:failure reason4:n\x1bo!8:retry ini-1ee",
		"d5:peersld2:ip7:1.2.3.47:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti80eeee",
		"d8:intervali60e5:peers12:abcdef"} { // cut off inside the string
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		body = slices.Clip(bytes.Clone(body)) // to read beyond its end is to panic
		_, err := DecodeTracks(body)
		checkRefusal(t, err)
		r, err := decode(body)
		checkRefusal(t, err)
		if err != nil {
			return
		}
		if r.Interval < time.Second || r.Interval > MaxInterval || r.TTL < 0 || r.Count < -1 || r.Warning != Clean(r.Warning) {
			t.Fatalf("%+v", r)
		}
		for _, p := range r.Peers {
			if p.Port() < 1 || !p.IsValid() || p != Canonical(p) {
				t.Fatalf("peer %v", p)
			}
		}
	})
}

// checkRefusal checks what a client takes from a refusal.
func checkRefusal(t *testing.T, err error) {
	f, ok := errors.AsType[*RefusalError](err)
	if ok && (f.Retry < 0 || f.Retry > 24*time.Hour || f.Reason != Clean(f.Reason)) {
		t.Fatalf("refused with %+v", f)
	}
}

// A track of several indexes has as many peers as the one of them that has the most.
func TestMergeTracks(t *testing.T) {
	track := func(key string, n int) Track { return Track{KeyOf([]byte(key)), n} }
	got := MergeTracks([]Track{track("b", 2), track("c", 1)}, nil, []Track{track("a", 1), track("b", 3)}, []Track{track("b", 1)})
	if want := []Track{track("a", 1), track("b", 3), track("c", 1)}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
