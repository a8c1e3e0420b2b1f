package tracker

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"ntrack/announce/wire"
)

var (
	fuzzProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	fuzzProxy   = netip.MustParseAddrPort("10.0.0.1:1234")
	fuzzClient  = netip.MustParseAddrPort("198.51.100.7:1234")
	headerLines = regexp.MustCompile(`^([A-Za-z-]+: [ -~]+\r\n)*$`)
)

// FuzzAnswer: every call gets a reply that a client understands, with a header of whole lines. Without
// the token nobody gets more than a refusal.
func FuzzAnswer(f *testing.F) {
	for i, target := range []string{
		"/ntrk/k", "/ntrk/k?port=1&format=json", "/ntrk/k?port=0&format=text", "/ntrk/k?port=7&peer_id=-lt0D80-%ff%1b%22aaaaaaaaa&format=json&labels=1", "/ntrk/%ff%0d%0a?format=json", "/ntrk/", "/ntrk/?format=text", "*",
		"/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&port=1&compact=1", "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&port=1&event=stopped", "/scrape?info_hash=k",
		"/secret/announce?info_hash=k&port=2", "/s%65cret/scrape", "http://t/ntrk/k?numwant=9999999999&port=3", "/", "/.ntrack/page.js", "/.ntrack/../index.html", "/ntrk/k?numwant=%32&port=4", "/announce?info_hash=k&port=0&numwant=-1&no_peer_id=1",
	} {
		for j, method := range []string{"GET", "DELETE", "HEAD", "POST", "OPTIONS", "X"} {
			f.Add(method, []byte(target), "", "", "", uint8(i+j))
		}
		f.Add("GET", []byte(target), "application/json;q=0.5,text/plain", "192.0.2.1, 10.0.0.9", "Bearer secret", uint8(3+i))
		f.Add("GET", []byte(target), "text/html, */*", "", "", uint8(32+i%8))
		f.Add("GET", []byte(target), "text/event-stream", "[2001:db8::1]:5", "Basic eDpzZWNyZXQ=", uint8(7+i))
	}
	f.Fuzz(func(t *testing.T, method string, target []byte, accept, forwarded, authorization string, flags uint8) {
		tr := &Tracker{Interval: time.Minute, Proxies: fuzzProxies, Index: flags&1 > 0}
		if flags&2 > 0 {
			tr.Tokens = []string{"secret"}
		}
		if flags&32 > 0 {
			tr.Page = fstest.MapFS{"index.html": {Data: []byte("page")}, "page.js": {Data: []byte("page")}}
		}
		call := func() *Call {
			c := &Call{Method: method, Target: bytes.Clone(target), Remote: fuzzClient, Accept: []byte(accept), Authorization: []byte(authorization),
				ForwardedFor: []byte(forwarded), HasOrigin: flags&4 > 0, HasBrowserField: flags&8 > 0}
			if flags&16 > 0 {
				c.Remote = fuzzProxy
			}
			return c
		}
		for range 2 { // the second one finds what the first one left
			c := call()
			large, atOnce := tr.Large(c), tr.AtOnce(c)
			if !bytes.Equal(c.Target, target) || tr.Large(c) != large || tr.AtOnce(c) != atOnce {
				t.Fatalf("%s %q: changed to %q before the answer", method, target, c.Target)
			}
			resp, body := tr.Answer(context.Background(), c, nil)
			if resp.Stream != nil {
				resp.Stream.Close()
			}
			if header := resp.AppendHeader(nil, time.Now()); !headerLines.Match(header) {
				t.Fatalf("%s %q: header %q", method, target, header)
			}
			if resp.page {
				if string(body) != "page" || resp.Status != 200 || tr.Stats().Store.Peers > 0 {
					t.Fatalf("%s %q: a page %d %q, with %d peers", method, target, resp.Status, body, tr.Stats().Store.Peers)
				}
				continue
			}
			if len(tr.Tokens) > 0 && resp.Status/100 == 2 && method != "OPTIONS" && !hasSecret(target, authorization) && !bytes.HasPrefix(body, []byte("d14:failure reason")) {
				t.Fatalf("%s %q: %d %q without the token, with %q", method, target, resp.Status, body, authorization)
			}
			switch {
			case resp.Status == 204 || resp.Stream != nil:
			case resp.Status != 200:
				if refusal := wire.DecodeRefusal(body); !slices.Contains([]int{400, 401, 404}, resp.Status) || refusal == nil && resp.Type != "text/plain; charset=utf-8" {
					t.Fatalf("%s %q: %d %s %q", method, target, resp.Status, resp.Type, body)
				}
			case len(body) > 0:
				checkBody(t, call(), body)
			}
		}
	})
}

// hasSecret reports whether a request has the token anywhere.
func hasSecret(target []byte, authorization string) bool {
	path, _ := url.PathUnescape(string(target))
	_, given, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	basic, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(given))
	return strings.Contains(path, "secret/") || strings.Contains(string(target), "%") || strings.HasSuffix(strings.TrimSpace(authorization), " secret") || strings.HasSuffix(string(basic), ":secret")
}

// checkBody checks that a client reads the body of a reply with status 200.
func checkBody(t *testing.T, c *Call, body []byte) {
	t.Helper()
	var req wire.Request
	if err := req.Parse(c.Method, c.Target); err != nil {
		if wire.DecodeRefusal(body) == nil {
			t.Fatalf("%s %q is malformed, and gets %q", c.Method, c.Target, body)
		}
		return
	}
	var err error
	if req.Verb != wire.VerbScrape {
		_, err = req.DecodeReply(body, netip.AddrPort{})
	} else if body[0] == '{' || body[0] == 'd' {
		_, err = wire.DecodeTracks(body)
	}
	if _, refused := errors.AsType[*wire.RefusalError](err); err != nil && !refused {
		t.Fatalf("%s %q gets %q, and a client says: %v", c.Method, c.Target, body, err)
	}
}

// FuzzFields: a client's address is the last one in X-Forwarded-For that no trusted proxy has, and
// Accept chooses the same whatever its spelling is. Both agree with readings that are plainer and
// slower.
func FuzzFields(f *testing.F) {
	for _, forwarded := range []string{"", "192.0.2.1", "192.0.2.1:5, 10.0.0.9", "x, 192.0.2.1", "192.0.2.1,,10.0.0.9", "[2001:db8::1]:5", "[2001:db8::1], fd00::1", "::ffff:10.0.0.2", "0.0.0.0", "ff02::1", "fe80::1%eth0", "[192.0.2.1]", " 192.0.2.1\t,\t10.0.0.1 "} {
		f.Add("text/plain;q=0.5, application/json;q=.25,text/event-stream;Q=0", forwarded)
	}
	for _, accept := range []string{"*/*", "teXt/html", "text/html;q=0", "text/html, application/json;q=0.1", "text/event-stream, text/html", "text/plain;q=0, text/html;q=0.5, image/avif", "text/html, image/gif, image/jpeg, *; q=.2", "text/plain ; q=1.000", "text/plain;q=0.0001", "image/", "application/x-bencode;level=1;q=0.001;q=0.9", "text/plain, text/event-stream", "text/event-stream, application/json, text/plain", "text/plain;q=.5, application/json;q=.50, text/event-stream;q=0.5", ";q=1", "text/plain;q"} {
		f.Add(accept, "192.0.2.1")
	}
	f.Fuzz(func(t *testing.T, accept, forwarded string) {
		tr := &Tracker{Proxies: fuzzProxies}
		tr.once.Do(tr.init)
		got, err := tr.clientOf(&Call{Remote: fuzzProxy, ForwardedFor: []byte(forwarded)})
		want, wantErr := plainClient(tr, forwarded)
		if got != want && err == nil || (err == nil) != (wantErr == nil) {
			t.Errorf("X-Forwarded-For %q: %v, %v, want %v, %v", forwarded, got, err, want, wantErr)
		}
		if refusal, ok := err.(*wire.RefusalError); err != nil && (!ok || refusal.Status != 400 || refusal.Reason != wire.Clean(refusal.Reason)) {
			t.Errorf("X-Forwarded-For %q: %v", forwarded, err)
		}
		if a := got.Addr(); err == nil && (!a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6()) {
			t.Errorf("X-Forwarded-For %q: %v", forwarded, got)
		}
		// Only a trusted proxy can name the address of its client.
		if direct, err := tr.clientOf(&Call{Remote: fuzzClient, ForwardedFor: []byte(forwarded)}); direct != fuzzClient || err != nil {
			t.Errorf("X-Forwarded-For %q from a stranger: %v, %v", forwarded, direct, err)
		}
		// What a client sends in front of the address that the proxy appends has no effect.
		if after, err := tr.clientOf(&Call{Remote: fuzzProxy, ForwardedFor: []byte(forwarded + ", 192.0.2.77")}); after != netip.MustParseAddrPort("192.0.2.77:0") || err != nil {
			t.Errorf("X-Forwarded-For %q before an address: %v, %v", forwarded, after, err)
		}

		a := *(&Call{Accept: []byte(accept)}).parseAccept()
		if want := plainAccept(accept); a != want {
			t.Errorf("Accept %q: %+v, want %+v", accept, a, want)
		}
		azureus := strings.HasPrefix(accept, "text/html, image/gif")
		for _, same := range []string{accept + ",", accept + ", x/y", "," + accept, strings.ToUpper(accept)} {
			if b := *(&Call{Accept: []byte(same)}).parseAccept(); b != a && !azureus && ascii(accept) {
				t.Errorf("Accept %q: %+v, and %q: %+v", accept, a, same, b)
			}
		}
	})
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// plainClient is clientOf for a request from a trusted proxy.
func plainClient(tr *Tracker, forwarded string) (netip.AddrPort, error) {
	client := fuzzProxy
	if strings.TrimSpace(forwarded) == "" {
		return client, nil
	}
	entries := strings.Split(strings.TrimSpace(forwarded), ",")
	for _, entry := range slices.Backward(entries) {
		if !tr.Trusts(client.Addr()) {
			break
		}
		var err error
		if client, err = parseForwarded(strings.TrimSpace(entry)); err != nil {
			return client, err
		}
	}
	return client, nil
}

// plainAccept is parseAccept.
func plainAccept(accept string) accepted {
	a := accepted{parsed: true}
	formats := map[string]wire.Format{"text/plain": wire.FormatText, "application/json": wire.FormatJSON, "application/x-bencode": wire.FormatBencode}
	number := regexp.MustCompile(`^(0|0?\.[0-9]{1,3}|0\.)$`)
	best, bestFormat := 0.0, 0.0
	for entry := range strings.SplitSeq(accept, ",") {
		params := strings.Split(entry, ";")
		media := strings.ToLower(strings.TrimSpace(params[0]))
		q := 1.0
		for _, p := range params[1:] {
			name, value, _ := strings.Cut(p, "=")
			if strings.EqualFold(strings.TrimSpace(name), "q") {
				q = 1
				if v := strings.TrimSpace(value); number.MatchString(v) {
					q = 0
					digits := strings.TrimPrefix(strings.TrimPrefix(v, "0"), ".")
					for i, d := range digits {
						q += float64(d-'0') / []float64{10, 100, 1000}[i]
					}
				}
			}
		}
		format, known := formats[media]
		stream := media == "text/event-stream"
		if (known || stream) && q > best+1e-9 {
			a.stream, best = stream, q
		}
		if known && q > bestFormat+1e-9 {
			a.format, bestFormat = format, q
		}
		a.html = a.html || media == "text/html" || strings.HasPrefix(media, "image/") && media != "image/"
		a.page = a.page || media == "text/html" && q > 0
	}
	a.page = a.page && best == 0
	if strings.HasPrefix(accept, "text/html, image/gif, image/jpeg, *") {
		a.html, a.page = false, false
	}
	return a
}
