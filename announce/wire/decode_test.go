package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// decode decodes the reply to a look.
func decode(body []byte) (*Reply, error) {
	return (&Request{Verb: VerbLook}).DecodeReply(body, netip.AddrPort{})
}

// content returns a reply as text: INTERVAL/TTL ENTRIES of COUNT YOU[PEERS].
func content(r *Reply) string {
	var s []string
	for _, p := range r.Peers {
		s = append(s, p.String())
	}
	you := ""
	if r.You.IsValid() {
		you = r.You.String()
	}
	return fmt.Sprintf("%v/%v %d of %d %s[%s]", r.Interval, r.TTL, r.entries, r.Count, you, strings.Join(s, " "))
}

// A client accepts the replies of existing trackers, and of trackers that somebody might write from
// the specification.
func TestDecodeLenient(t *testing.T) {
	for body, want := range map[string]string{
		// Numbers. RFC 8259 allows fractions and exponents.
		`{"interval":15.0,"ttl":38.0,"count":2.0,"peers":["192.0.2.1:5"]}`: "15s/38s 1 of 2 [192.0.2.1:5]",
		`{"interval":1e1,"ttl":2.5E1,"count":1e0,"peers":[]}`:              "10s/25s 0 of 1 []",
		`{"interval":1.5e+1,"ttl":375e-1,"count":10E-1,"peers":[]}`:        "15s/37.5s 0 of 1 []",
		`{"interval":"15","ttl":"38","count":"2","peers":[]}`:              "15s/38s 0 of 2 []",
		`{"interval":0.5,"peers":[]}`:                                      "1s/0s 0 of -1 []",
		`{"interval":0,"ttl":0,"count":0,"peers":[]}`:                      "30m0s/0s 0 of 0 []",
		`{"interval":-1,"ttl":-1.5,"count":-1e9,"peers":[]}`:               "30m0s/0s 0 of 0 []",
		`{"interval":1e999,"ttl":1e999,"count":1e999,"peers":[]}`:          "1h0m0s/298261h37m4s 0 of 1073741824 []",
		`{"interval":-1e999,"ttl":-1e999,"count":-1e999,"peers":[]}`:       "30m0s/0s 0 of 0 []",
		`{"interval":99999999999999999999,"peers":[]}`:                     "1h0m0s/0s 0 of -1 []",
		`{"interval":"99999999999999999999","peers":[]}`:                   "1h0m0s/0s 0 of -1 []",
		`{"interval":null,"ttl":null,"count":null,"you":null,"peers":[]}`:  "30m0s/0s 0 of -1 []",
		`{"interval":[15],"ttl":{},"count":true,"you":5,"peers":[]}`:       "30m0s/0s 0 of -1 []",
		`{"interval":"0x15","ttl":"NaN","count":"-5","peers":[]}`:          "30m0s/0s 0 of -1 []",
		`{"interval":"Inf","ttl":"1e3","count":"","peers":[]}`:             "30m0s/0s 0 of -1 []",

		// Entries that are not peers, among peers. They count as entries; otherwise the reply would look
		// like a sample.
		`{"peers":["x","192.0.2.1:5","example.com:5"]}`:                               "30m0s/0s 3 of -1 [192.0.2.1:5]",
		`{"peers":[5,null,true,[],{},"","192.0.2.1:5"]}`:                              "30m0s/0s 7 of -1 [192.0.2.1:5]",
		`{"peers":["192.0.2.1","192.0.2.1:65536","192.0.2.1:-1","192.0.2.1:5"]}`:      "30m0s/0s 4 of -1 [192.0.2.1:5]",
		`{"peers":["2001:db8::1:5","[2001:db8::1]:5","\u001b[2J:5","192.0.2.300:5"]}`: "30m0s/0s 4 of -1 [[2001:db8::1]:5]",
		`{"peers":["192.0.2.1:0","192.0.2.1:1","0.0.0.0:5","[::]:5","224.0.0.1:5"]}`:  "30m0s/0s 5 of -1 [192.0.2.1:1]",
		`{"peers":["[::ffff:192.0.2.1]:5","[fe80::1%eth0]:5"]}`:                       "30m0s/0s 2 of -1 [192.0.2.1:5 [fe80::1]:5]",
		`{"peers":["example.com:5"]}`:                                                 "30m0s/0s 1 of -1 []",
		`{"peers":[{"ip":"192.0.2.1","port":5},{"ip":"192.0.2.2","port":"6"}]}`:       "30m0s/0s 2 of -1 [192.0.2.1:5 192.0.2.2:6]",
		`{"peers":[{"ip":"192.0.2.1","port":5.5},{"ip":5,"port":5},{"port":5}]}`:      "30m0s/0s 3 of -1 []",

		// Go writes null for a nil list. Lua and PHP may write a dictionary for a list.
		`{"peers":null}`:                "30m0s/0s 0 of -1 []",
		`{"peers":{}}`:                  "30m0s/0s 0 of -1 []",
		`{"peers":{"1":"192.0.2.1:5"}}`: "30m0s/0s 1 of -1 [192.0.2.1:5]",

		// The client's own endpoint.
		`{"you":"192.0.2.1:5","peers":[]}`:          "30m0s/0s 0 of -1 192.0.2.1:5[]",
		`{"you":"[::ffff:192.0.2.1]:5","peers":[]}`: "30m0s/0s 0 of -1 192.0.2.1:5[]",
		`{"you":"","peers":[]}`:                     "30m0s/0s 0 of -1 []",
		`{"you":"example.com:5","peers":[]}`:        "30m0s/0s 0 of -1 []",
		`{"you":"0.0.0.0:5","peers":[]}`:            "30m0s/0s 0 of -1 []",

		// White space wherever JSON allows it, a byte order mark, and unknown members.
		"\ufeff {\"peers\" : [ ] }\r\n":                                "30m0s/0s 0 of -1 []",
		"\r\n\t {\"interval\":15,\"peers\":[]}":                        "15s/0s 0 of -1 []",
		`{"key":5,"key_escaped":"%zz","error":null,"peers":[]}`:        "30m0s/0s 0 of -1 []",
		`{"error":"","warning":[{"a":[1,2]}],"peers":["192.0.2.1:5"]}`: "30m0s/0s 1 of -1 [192.0.2.1:5]",

		// Bencode.
		"d8:interval2:605:peers0:e":                                            "1m0s/0s 0 of -1 []",
		"d8:intervalle12:min intervalde5:peers0:e":                             "30m0s/0s 0 of -1 []",
		"d8:completele10:incomplete1:35:peers0:e":                              "30m0s/0s 0 of 3 []",
		"d8:completei2e5:peers0:e":                                             "30m0s/0s 0 of 2 []",
		"d8:completei-5e10:incompletei2e5:peers0:e":                            "30m0s/0s 0 of 2 []",
		"d8:completei9223372036854775807e10:incompletei2e5:peers0:e":           "30m0s/0s 0 of 1073741824 []",
		"d12:min intervali9223372036854775807e5:peers0:e":                      "1h0m0s/0s 0 of -1 []",
		"d12:min intervali-1e5:peers0:e":                                       "30m0s/0s 0 of -1 []",
		"d5:peersde6:peers6lee":                                                "30m0s/0s 0 of -1 []",
		"d5:peersli5e1:x0:led2:ip9:192.0.2.14:porti5eeee":                      "30m0s/0s 5 of -1 [192.0.2.1:5]",
		"d5:peersl11:192.0.2.1:5e6:peers6l17:[2001:db8::1]:655ee":              "30m0s/0s 2 of -1 [192.0.2.1:5 [2001:db8::1]:655]",
		"d5:peersld2:ip9:192.0.2.14:port1:5eee":                                "30m0s/0s 1 of -1 [192.0.2.1:5]",
		"d5:peersld2:ip9:192.0.2.14:porti-1eed2:ip9:192.0.2.14:porti65536eeee": "30m0s/0s 2 of -1 []",
		"d5:peersld2:ip9:192.0.2.14:porti1eed2:ip9:192.0.2.14:porti65535eeee":  "30m0s/0s 2 of -1 [192.0.2.1:65535]",
		"d5:peersld2:ip9:192.0.2.14:porti65541eeee":                            "30m0s/0s 1 of -1 []", // 65536 + 5
		"d5:peersld2:ip9:192.0.2.1ed4:porti5eed2:ipi5e4:porti5eeee":            "30m0s/0s 3 of -1 []",
		"d5:peersld2:ip11:example.com4:porti5eeee":                             "30m0s/0s 1 of -1 []",
		"d5:peersd1:0d2:ip9:192.0.2.14:porti5eeee":                             "30m0s/0s 1 of -1 [192.0.2.1:5]",
		"d5:peersld2:ip9:192.0.2.17:peer id3:abc4:porti5eeee":                  "30m0s/0s 1 of -1 [192.0.2.1:5]",
		"d11:external ip4:\x00\x00\x00\x005:peers0:e":                          "30m0s/0s 0 of -1 []",
		"d11:external ip4:\xe0\x00\x00\x015:peers0:e":                          "30m0s/0s 0 of -1 []",
		"d11:external ip5:abcde5:peers0:e":                                     "30m0s/0s 0 of -1 []",
		"d11:external ip4:\xc0\x00\x02\x015:peers0:e":                          "30m0s/0s 0 of -1 192.0.2.1:0[]",
		"\ufeff\nd8:intervali60ee \t\n":                                        "1m0s/0s 0 of -1 []",

		// Text.
		"\ufeff192.0.2.1:5\r\n\r\n [2001:db8::1]:5 \nexample.com:5\n\n192.0.2.1:1\n192.0.2.1:0": "30m0s/0s 5 of -1 [192.0.2.1:5 [2001:db8::1]:5 192.0.2.1:1]",
	} {
		r, err := decode([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
		} else if got := content(r); got != want {
			t.Errorf("%s: %s\nwant %s", body, got, want)
		}
	}
}

func TestDecodeForeign(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		want Reply
	}{
		"interval missing":          {"d5:peers0:e", Reply{Interval: 30 * time.Minute, Count: -1}},
		"interval huge":             {"d8:intervali9223372036854775807e5:peers0:e", Reply{Interval: time.Hour, Count: -1}},
		"interval tiny":             {"d8:intervali1e5:peers0:e", Reply{Interval: 10 * time.Second, Count: -1}},
		"interval negative":         {"d8:intervali-5e5:peers0:e", Reply{Interval: 30 * time.Minute, Count: -1}},
		"min interval counts":       {"d8:intervali60e12:min intervali900e5:peers0:e", Reply{Interval: 15 * time.Minute, Count: -1}},
		"counts add up":             {"d8:completei2e10:incompletei3e5:peers0:e", Reply{Interval: 30 * time.Minute, Count: 5, Sample: true}},
		"huge counts are clamped":   {"d8:completei9999999999e10:incompletei9999999999e5:peers0:e", Reply{Interval: 30 * time.Minute, Count: 1 << 30, Sample: true}},
		"ports 0 and 1 are dropped": {"d5:peers18:\x01\x02\x03\x04\x00\x00\x01\x02\x03\x04\x00\x01\x01\x02\x03\x04\x00\x02e", Reply{Interval: 30 * time.Minute, Count: -1, Peers: endpointsOf("1.2.3.4:2")}},
		"host names are dropped":    {"d5:peersld2:ip9:localhost4:porti80eed2:ip7:1.2.3.44:porti80eeee", Reply{Interval: 30 * time.Minute, Count: -1, Peers: endpointsOf("1.2.3.4:80")}},
		"keys that are not sorted, and a newline at the end": {"d5:peers0:8:intervali60ee\r\n", Reply{Interval: time.Minute, Count: -1}},
		"warning is cleaned":           {"d5:peers0:15:warning message5:a\x1b\nbce", Reply{Interval: 30 * time.Minute, Count: -1, Warning: "a??bc"}},
		"an IPv4 address in IPv6 form": {"d6:peers618:\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x01\x02\x03\x04\x00\x50e", Reply{Interval: 30 * time.Minute, Count: -1, Peers: endpointsOf("1.2.3.4:80")}},
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

// A client refuses bodies that are not replies, and bodies that could do harm.
func TestDecodeRefuses(t *testing.T) {
	for body, want := range map[string]string{
		"":                                       "it is empty",
		"\ufeff \r\n":                            "it is empty",
		"<html>":                                 `"<html>"`,
		"192.0.2.1:5\n<html>":                    `"<html>"`,
		"192.0.2.1:5\n<a href=\"x:80\">:80\n":    "not a tracker's reply",
		"192.0.2.1\n":                            "not a tracker's reply",
		"Refused by\n192.0.2.1:5\n":              "not a tracker's reply",
		":80\n":                                  "not a tracker's reply",
		"host:http\n":                            "not a tracker's reply",
		"\x1b[2J:80\n":                           "not a tracker's reply",
		"user@host:80\n":                         "not a tracker's reply",
		"{":                                      "not a tracker's reply",
		"{}":                                     "no peers",
		`{"interval":15}`:                        "no peers",
		`{"peers":[]} x`:                         "more than one value",
		`{"peers":[]}{"peers":[]}`:               "more than one value",
		`{"peers":5}`:                            "neither a string nor a list",
		`{"peers":"192.0.2.1:5"}`:                "neither a string nor a list",
		`{"peers":["x"]}`:                        "none of 1 entries",
		`{"peers":[5,"enode://ab@192.0.2.1:5"]}`: "none of 2 entries",
		`{"peers":["\u001b[2Jowned:4000"]}`:      "none of 1 entries",
		`{"you":"\u001b[2Jowned:1","peers":[]}`:  "not an endpoint",
		`{"interval":01,"peers":[]}`:             "not a tracker's reply",
		`{"interval":NaN,"peers":[]}`:            "not a tracker's reply",
		"d8:completei1ee":                        "neither interval nor peers",
		"d5:peersi5ee":                           "neither a string nor a list",
		"d5:peersli5eee":                         "none of 1 entries",
		"d5:peers5:abcdee":                       "not a multiple of 6",
		"d5:peers7:1234567e":                     "not a multiple of 6",
		"d5:peers0:6:peers66:abcdefe":            "not a multiple of 18",
		"d5:peers0:6:peers6i5ee":                 "peers6 is neither",
		`{"peers":[` + strings.Repeat(`[`, 1<<20):              "more than 262144 values",
		`{"peers":[` + strings.Repeat(`{},`, 1e5) + `0]}`:      "", // 200,000 values, which are not too many
		`{"peers":[` + strings.Repeat(`0,`, maxValues) + `0]}`: "more than 262144 values",
		`{"x":[` + strings.Repeat(`{},`, maxValues) + `0]}`:    "more than 262144 values",
	} {
		r, err := decode([]byte(body))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", Quote(body), err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %+v, %v, want an error with %q", Quote(body), r, err, want)
		}
	}
}

// The limit on the values in JSON is exact, whatever the strings contain.
func TestJSONValues(t *testing.T) {
	for _, fill := range []string{"0,", `"a,{[\"\\",`, `"\\",`} {
		full := `{"peers":[` + strings.Repeat(fill, maxValues-3) + `"192.0.2.1:5"]}`
		r, err := decode([]byte(full))
		if err != nil || len(r.Peers) != 1 {
			t.Errorf("%d values like %s: %v", maxValues, fill, err)
		}
		if _, err := decode([]byte(strings.Replace(full, "[", "[0,", 1))); err == nil {
			t.Errorf("%d values like %s are accepted", maxValues+1, fill)
		}
	}
}

// A client reads a refusal in each format, and how long it has to wait.
func TestDecodeRefusal(t *testing.T) {
	for body, want := range map[string]string{
		"d14:failure reason2:no8:retry ini5ee":                    "no 5m0s",
		"d14:failure reason2:no8:retry in1:5e":                    "no 5m0s",
		"d14:failure reason2:no8:retry in5:nevere":                "no 24h0m0s",
		"d14:failure reason2:no8:retry ini-5ee":                   "no 0s",
		"d14:failure reason2:no8:retry ini1440ee":                 "no 24h0m0s",
		"d14:failure reason2:no8:retry ini1441ee":                 "no 24h0m0s",
		"d14:failure reason2:no8:retry ini9223372036854775807ee":  "no 24h0m0s",
		"d14:failure reason2:no8:retry in19:9223372036854775807e": "no 24h0m0s",
		"d14:failure reason0:e":                                   "it gives no reason 0s",
		"d14:failure reason1:\x1be":                               "? 0s",
		"d14:failure reason2: \ne":                                "it gives no reason 0s",
		`{"error":" \t"}`:                                         "it gives no reason 0s",
		"\ufeffd14:failure reason2:noe\n":                         "no 0s",
		`{"error":"no\u001b"}`:                                    "no? 0s",
		"\n" + `{"error":"no","peers":[]}`:                        "no 0s",
	} {
		for _, decode := range []func() error{
			func() error { _, err := decode([]byte(body)); return err },
			func() error { _, err := DecodeTracks([]byte(body)); return err },
		} {
			err := decode()
			f, ok := errors.AsType[*RefusalError](err)
			if !ok || fmt.Sprint(f.Reason, " ", f.Retry) != want {
				t.Errorf("%q: %v, %+v, want %s", body, err, f, want)
			}
		}
	}
}

func TestDecodeTracksLenient(t *testing.T) {
	long := strings.Repeat("k", MaxKey)
	for body, want := range map[string]string{
		`{"tracks":[{"key":"a","count":2.0},{"key":"b","count":1e1},{"key":"c","count":"3"}]}`: "[{a 2} {b 10} {c 3}]",
		`{"tracks":[{"key":"a"},{"key":"b","count":null},{"key":"c","count":-1}]}`:             "[{a 0} {b 0} {c 0}]",
		`{"tracks":[5,null,"x",[],{},{"key":5},{"key":""},{"key":"a","count":1}]}`:             "[{a 1}]",
		`{"tracks":[{"key_escaped":"%ff"},{"key_escaped":"%f"},{"key_escaped":5}]}`:            "[{%ff 0}]",
		`{"tracks":[{"key":"` + long + `"},{"key":"` + long + `k"}]}`:                          "[{" + long + " 0}]",
		`{"tracks":null}`: "[]",
		`{"tracks":{}}`:   "[]",
		"\ufeff\n" + `{"tracks":[],"next":null} `: "[]",
		`{"tracks":[{"key":"a","count":1e999}]}`:  "[{a 1073741824}]",
		"d5:filesdee":                             "[]",
		"d5:filesled5:flagsdeee":                  "error",
		"d5:fileslee":                             "[]",
		"d5:filesd1:ade1:bi5e1:cd8:complete1:210:incompletei3eeee":             "[{a 0} {c 5}]",
		"d5:filesd0:de1:ad8:completei-1e10:incompletei9223372036854775807eeee": "[{a 1073741824}]",
		"d5:filesd255:" + long + "de256:" + long + "kdeee":                     "[{" + long + " 0}]",
		"\ufeff\nd5:filesdee\n": "[]",
		"d5:filesi5ee":          "error",
		"d5:filesl1:aee":        "error",
		"de":                    "error",
		"{}":                    "error",
		`{"tracks":5}`:          "error",
		`{"tracks":"a"}`:        "error",
		`{"tracks":[]} x`:       "error",
		"":                      "error",
		"a 1\n":                 "error",
	} {
		tracks, err := DecodeTracks([]byte(body))
		got := fmt.Sprint(tracks)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, %v\nwant %s", body, got, err, want)
		}
	}
}

// DecodeTracks skips a track of an index if its key is too long or badly escaped.
func TestDecodeKey(t *testing.T) {
	long := strings.Repeat("k", MaxKey)
	for member, want := range map[string]string{
		`"key":"a"`: "a", `"key":"` + long + `"`: long, `"key":"` + long + `k"`: "", `"key":""`: "",
		`"key_escaped":"%ff%00"`: "\xff\x00", `"key_escaped":"%"`: "", `"key":null,"key_escaped":"b"`: "b",
	} {
		var got string
		tracks, err := DecodeTracks([]byte(`{"tracks":[{` + member + "}]}"))
		for _, t := range tracks {
			got = string(t.Key.Bytes())
		}
		if err != nil || got != want {
			t.Errorf("%s: key %q, %v", member, got, err)
		}
	}
}

// A client finds its own entry by its peer id. It ignores a peer id that does not have 20 bytes.
func TestDecodePeerIDs(t *testing.T) {
	const id = "aaaaaaaaaaaaaaaaaaaa"
	for _, asker := range []ID{{}, ID([]byte(id)), ID([]byte(id[:19] + "\x00"))} {
		for given, mine := range map[string]bool{"20:" + id: asker == ID([]byte(id)), "19:" + id[1:]: false, "21:" + id + "a": false, "i5e": false} {
			body := "d5:peersld2:ip9:192.0.2.17:peer id" + given + "4:porti5eeee"
			r, err := (&Request{ID: asker}).DecodeReply([]byte(body), netip.AddrPort{})
			if err != nil || len(r.Peers) != 1 && !mine || len(r.Peers) != 0 && mine {
				t.Errorf("peer id %s: %+v, %v", given, r, err)
			}
		}
	}
}

// The interval is clamped. JSON has a lower limit of its own.
func TestDecodeInterval(t *testing.T) {
	for body, want := range map[string]time.Duration{
		"d8:intervali9e5:peers0:e": 10 * time.Second, "d8:intervali10e5:peers0:e": 10 * time.Second, "d8:intervali11e5:peers0:e": 11 * time.Second,
		"d8:intervali3599e5:peers0:e": 3599 * time.Second, "d8:intervali3600e5:peers0:e": time.Hour, "d8:intervali3601e5:peers0:e": time.Hour,
		`{"interval":1,"peers":[]}`: time.Second, `{"interval":2,"peers":[]}`: 2 * time.Second, `{"interval":3601,"peers":[]}`: time.Hour,
	} {
		if r, err := decode([]byte(body)); err != nil || r.Interval != want {
			t.Errorf("%s: %+v, %v, want %v", body, r, err, want)
		}
	}
}

// FuzzDecode: no reply makes a client panic, and no reply gives it a peer that cannot be dialled.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"d5:peers9223372036854775807:", "i5e", "d5:peersi5ee", "d8:intervali60e5:peers6:abcdefe", "d5:filesd1:ad10:incompletei1eeee",
		`{"key":"a","you":"1.2.3.4:5","interval":60,"ttl":150,"count":1,"peers":["1.2.3.4:5"]}`, `{"tracks":[{"key":"a","count":1}]}`, "1.2.3.4:5\n",
		"d14:failure reason3:no!8:retry ini9223372036854775807ee", "d14:failure reason4:n\x1bo!8:retry ini-1ee",
		"d5:peersld2:ip7:1.2.3.47:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti80eeee",
		"d8:intervali60e5:peers12:abcdef"} { // cut off inside the string
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		body = slices.Clip(bytes.Clone(body)) // so that reading beyond its end panics
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

// checkRefusal checks the limits of a refusal, if err is one.
func checkRefusal(t *testing.T, err error) {
	f, ok := errors.AsType[*RefusalError](err)
	if ok && (f.Retry < 0 || f.Retry > 24*time.Hour || f.Reason != Clean(f.Reason)) {
		t.Fatalf("refused with %+v", f)
	}
}
