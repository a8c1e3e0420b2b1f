package tracker_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"ntrack/tracker"
)

// These are what browsers and other programs send in Accept.
const (
	chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
	firefox  = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	w3m      = "text/html, text/*;q=0.5, image/*, application/*, audio/*"
	java     = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
)

func pageFiles() fstest.MapFS {
	return fstest.MapFS{
		"index.html": {Data: []byte(`<script src=".ntrack/page.js"></script>`)},
		"page.js":    {Data: []byte(`".ntrack/"`)}, "page.css": {}, "icon.svg": {}, "a/b.txt": {},
	}
}

// Who visits a key with a browser gets the page, and every other request gets what it got without it.
func TestPage(t *testing.T) {
	visit := tracker.Call{Method: "GET", Accept: []byte(firefox)}
	for _, tt := range []struct {
		name, target string
		call         tracker.Call
		want         string // the media type; that of the page is text/html
	}{
		{"the root", "/", visit, "text/html"},
		{"the index", "/ntrk/", visit, "text/html"},
		{"a key", "/ntrk/k", visit, "text/html"},
		{"a query", "/ntrk/k?port=4000", visit, "text/html"},
		{"a parameter like format", "/ntrk/k?xformat=json", visit, "text/html"},
		{"another parameter like format", "/ntrk/k?x&xformat=json", visit, "text/html"},
		{"a key that is refused", "/ntrk/%", visit, "text/html"},
		{"HEAD", "/ntrk/k", tracker.Call{Method: "HEAD", Accept: []byte(firefox)}, "text/html"},
		{"Chromium over https", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte(chromium), FetchMode: []byte("navigate")}, "text/html"},
		{"a link of another page", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte(firefox), HasBrowserField: true}, "text/html"},
		{"w3m", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte(w3m)}, "text/html"},
		{"a part", "/.ntrack/page.js", tracker.Call{Method: "GET", Accept: []byte("*/*"), FetchMode: []byte("cors")}, "text/javascript"},
		{"a style", "/.ntrack/page.css?x", tracker.Call{Method: "GET", Accept: []byte("text/css,*/*;q=0.1"), FetchMode: []byte("no-cors")}, "text/css"},
		{"an icon", "/.ntrack/icon.svg", tracker.Call{Method: "HEAD", Accept: []byte("image/avif,*/*")}, "image/svg+xml"},

		{"curl", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte("*/*")}, "application/x-bencode"},
		{"nothing to accept", "/ntrk/k", tracker.Call{Method: "GET"}, "application/x-bencode"},
		{"Java", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte(java)}, "application/x-bencode"},
		{"HTML excluded", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte("text/html;q=0, */*")}, "application/x-bencode"},
		{"an image", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte("image/png,*/*")}, "application/x-bencode"},
		{"fetch", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte(firefox), FetchMode: []byte("cors")}, "application/x-bencode"},
		{"fetch of another site", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte(firefox), HasOrigin: true}, "application/x-bencode"},
		{"JSON preferred", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte("application/json, text/html")}, "application/json"},
		{"Lynx", "/ntrk/k", tracker.Call{Method: "GET", Accept: []byte("text/html, text/plain, text/sgml, */*;q=0.01")}, "text/plain"},
		{"a format", "/ntrk/k?port=0&format=json", visit, "application/json"},
		{"a format first", "/ntrk/k?format=text", visit, "text/plain"},
		{"a wrong format", "/ntrk/k?format=x", visit, "text/plain"},
		{"POST", "/ntrk/k?port=1", tracker.Call{Method: "POST", Accept: []byte(firefox)}, "application/x-bencode"},
		{"DELETE", "/ntrk/k", tracker.Call{Method: "DELETE", Accept: []byte(firefox)}, ""},
		{"the classic interface", "/announce?info_hash=k", visit, "text/plain"},
		{"another path", "/favicon.ico", visit, "text/plain"},
		{"a long target", "/ntrk/" + strings.Repeat("k", 8192), visit, "text/plain"},
		{"the root without HTML", "/", tracker.Call{Method: "GET"}, "text/plain"},
		{"POST to the root", "/", tracker.Call{Method: "POST", Accept: []byte(firefox)}, "text/plain"},
		{"no such part", "/.ntrack/x", visit, "text/plain"},
		{"the page as a part", "/.ntrack/index.html", visit, "text/plain"},
		{"a directory", "/.ntrack/a", visit, "text/plain"},
		{"all parts", "/.ntrack/", visit, "text/plain"},
		{"a way out", "/.ntrack/../page.js", visit, "text/plain"},
		{"POST to a part", "/.ntrack/page.js", tracker.Call{Method: "POST"}, "text/plain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			with := tracker.Tracker{Page: pageFiles()}
			var without tracker.Tracker
			call := tt.call
			call.Target, call.Remote = []byte(tt.target), netip.MustParseAddrPort("192.0.2.1:1001")
			resp, body := with.Answer(t.Context(), &call, nil)
			if media, _, _ := strings.Cut(resp.Type, ";"); media != tt.want {
				t.Errorf("%s %s is %q %q; want %s", call.Method, tt.target, resp.Type, body, tt.want)
			}
			isPage := tt.want != "text/plain" && (tt.want == "image/svg+xml" || strings.HasPrefix(tt.want, "text/"))
			if header := string(resp.AppendHeader(nil, time.Unix(0, 0))); strings.Contains(header, "Content-Security-Policy: default-src 'self';") != isPage || !strings.Contains(header, "Cache-Control: no-store\r\n") {
				t.Errorf("header %q", header)
			}
			for _, field := range []string{"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'\r\n",
				"Cross-Origin-Resource-Policy: same-origin\r\n", "Referrer-Policy: same-origin\r\n", "X-Content-Type-Options: nosniff\r\n"} {
				if header := string(resp.AppendHeader(nil, time.Unix(0, 0))); isPage && !strings.Contains(header, field) {
					t.Errorf("%q lacks %q", header, field)
				}
			}
			if isPage && (resp.Status != 200 || len(resp.Type) == 0) {
				t.Errorf("status %d", resp.Status)
			}
			call = tt.call
			call.Target, call.Remote = []byte(tt.target), netip.MustParseAddrPort("192.0.2.1:1001")
			was, wasBody := without.Answer(t.Context(), &call, nil)
			if !isPage && (resp != was || string(body) != string(wasBody)) {
				t.Errorf("got %+v %q; a tracker without a page replies %+v %q", resp, body, was, wasBody)
			}
			if n := with.Stats().Served["announce"] + uint64(with.Stats().Store.Peers); isPage && n > 0 {
				t.Error("a visit has listed a peer")
			}
		})
	}
}

// The page refers to its parts from where it is, so that a proxy may put something in front of its path.
func TestPageParts(t *testing.T) {
	tr := tracker.Tracker{Page: pageFiles()}
	for target, want := range map[string]string{
		"/": ".ntrack/page.js", "/?x=/y": ".ntrack/page.js", "/ntrk/": "../.ntrack/page.js", "/ntrk/k": "../.ntrack/page.js", "/ntrk/a%2fb": "../.ntrack/page.js",
		"/ntrk/a/b": "../../.ntrack/page.js", "/ntrk//": "../../.ntrack/page.js",
	} {
		_, body := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte(target), Accept: []byte(firefox), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		if got := string(body); got != `<script src="`+want+`"></script>` {
			t.Errorf("%s: %s; want %s", target, got, want)
		}
	}
	_, body := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/.ntrack/page.js"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
	if string(body) != `".ntrack/"` {
		t.Errorf("a part has changed: %s", body)
	}
}

// The page holds nothing, so who has no token gets it. Its requests need the token as all others do.
func TestPageWithToken(t *testing.T) {
	tr := tracker.Tracker{Page: pageFiles(), Tokens: []string{"secret"}}
	for target, want := range map[string]int{"/": 200, "/ntrk/k": 200, "/.ntrack/page.js": 200, "/ntrk/k?port=0&format=json": 401} {
		resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte(target), Accept: []byte(firefox), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		if resp.Status != want {
			t.Errorf("%s: status %d; want %d", target, resp.Status, want)
		}
	}
}

// With PageLocal only browsers on this machine get the page, also through a proxy.
func TestPageLocal(t *testing.T) {
	tr := tracker.Tracker{Page: pageFiles(), PageLocal: true, Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32"), netip.MustParsePrefix("192.0.2.0/24")}}
	for _, tt := range []struct {
		remote, forwarded string
		unix, want        bool
	}{
		{"127.0.0.1:1", "", false, true},
		{"[::1]:1", "", false, true},
		{"[::ffff:127.0.0.1]:1", "", false, true},
		{"198.51.100.1:1", "", false, false},
		{"192.168.0.1:1", "", false, false},
		{"198.51.100.1:1", "127.0.0.1", false, false}, // not a proxy
		{"127.0.0.1:1", "198.51.100.1", false, false}, // a proxy that is not named
		{"127.0.0.9:1", "198.51.100.1", false, false},
		{"127.0.0.9:1", "127.0.0.1", false, true},
		{"192.0.2.1:1", "::1", false, true},
		{"127.0.0.9:1", "x", false, false},
		{"", "198.51.100.1", true, false},
		{"", "127.0.0.1", true, true},
	} {
		for _, target := range []string{"/ntrk/k", "/.ntrack/page.js"} {
			c := &tracker.Call{Method: "GET", Target: []byte(target), Accept: []byte(firefox), ForwardedFor: []byte(tt.forwarded), Unix: tt.unix}
			if tt.remote != "" {
				c.Remote = netip.MustParseAddrPort(tt.remote)
			}
			resp, _ := tr.Answer(t.Context(), c, nil)
			if got := strings.HasPrefix(resp.Type, "text/html") || strings.HasPrefix(resp.Type, "text/javascript"); got != tt.want {
				t.Errorf("%s from %s for %q: %s", target, tt.remote, tt.forwarded, resp.Type)
			}
		}
	}
}

// A visit counts as a look, so an address without end of requests gets 503.
func TestPageRate(t *testing.T) {
	tr := tracker.Tracker{Page: pageFiles()}
	ask := func() int {
		resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/.ntrack/page.js"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		return resp.Status
	}
	n, start := 0, time.Now()
	for ask() == 200 {
		n++
	}
	st := tr.Stats()
	// 1000 more for each second that this takes.
	if most := 10_000 + 1000*int(time.Since(start)/time.Second+1); n > most {
		t.Errorf("%d visits before a refusal; want at most %d", n, most)
	}
	if n < 10_000 || st.Served["page"] != uint64(n) || st.Refused["page"] != 1 || st.Reasons["rate_looks"] != 1 {
		t.Errorf("%d visits before a refusal; stats %v %v %v", n, st.Served, st.Refused, st.Reasons)
	}
}
