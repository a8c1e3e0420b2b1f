package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ntrack/tracker/server"
)

// vectorRequests returns the requests of the vectors, each once.
func vectorRequests(f *testing.F) (requests [][]byte) {
	files, err := filepath.Glob("../../testdata/vectors/tracker/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors: %v", err)
	}
	seen := make(map[string]bool)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var v struct{ Steps []struct{ Send string } }
		if err := json.Unmarshal(data, &v); err != nil {
			f.Fatal(err)
		}
		for _, step := range v.Steps {
			if step.Send == "" || seen[step.Send] {
				continue
			}
			seen[step.Send] = true
			var b []byte
			for _, r := range step.Send { // a character is a byte
				b = append(b, byte(r))
			}
			requests = append(requests, b)
		}
	}
	return requests
}

// FuzzHead: this server reads a head as net/http does, or refuses it. It finds the end of the head
// wherever the bytes are split.
func FuzzHead(f *testing.F) {
	for _, in := range corpus {
		f.Add([]byte(in))
	}
	for _, field := range []string{"Accept: a\r\naccept:\r\nACCEPT: b", "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: , 192.0.2.2", "Connection: close, , keep-alive", "Connection: foo close", "Connection: a/b", "Sec-Purpose: prefetch\r\nOrigin:", "Authorization: a\r\nAuthorization: b", "Purpose:\r\nReferer: x", "Sec-Fetch-Mode: cors"} {
		f.Add([]byte("GET /ntrk/k HTTP/1.1\r\nHost: t\r\n" + field + "\r\n\r\n"))
	}
	for _, in := range vectorRequests(f) {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		in = bytes.TrimLeft(in, "\r\n")
		got, n, err := server.ParseHead(bytes.Clone(in))
		for i := range min(n, 300) {
			if end := server.HeadEnd(in[:i], 0); end != 0 {
				t.Fatalf("%q: the head ends at %d, or at %d if %d bytes have come", in, n, end, i)
			}
			if end := server.HeadEnd(in, i); end != n {
				t.Fatalf("%q: the head ends at %d, or at %d if %d bytes came first", in, n, end, i)
			}
		}
		if err != nil && (len(err.Error()) > len(in)+200 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f })) {
			t.Fatalf("%q: the reason is %q", in, err)
		}
		if n == 0 || err != nil {
			return
		}
		if got.Target[0] != '/' {
			return // net/http parses other targets and compares their hosts
		}
		std, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(in[:n]), len(in)+16))
		if _, ok := errors.AsType[*url.Error](err); ok {
			return // the tracker checks the target
		}
		if err != nil {
			t.Fatalf("%q: this server accepts it, net/http: %v", in, err)
		}
		joined := func(name string) string {
			var values []string
			for _, v := range std.Header.Values(name) {
				if v = textproto.TrimString(v); v != "" {
					values = append(values, v)
				}
			}
			return strings.Join(values, ",")
		}
		has := func(name string) bool { return len(std.Header.Values(name)) > 0 }
		want := server.Head{
			Method: std.Method, Target: std.RequestURI, Minor: std.ProtoMinor,
			Accept: joined("Accept"), Authorization: joined("Authorization"), ForwardedFor: joined("X-Forwarded-For"), FetchMode: joined("Sec-Fetch-Mode"),
			HasOrigin: has("Origin"), HasBrowserField: has("Referer") || has("Sec-Purpose") || has("Purpose"),
			KeepAlive: !std.Close, Expect: has("Expect") && std.ProtoMinor > 0, Chunked: len(std.TransferEncoding) > 0, ContentLength: max(std.ContentLength, 0),
		}
		if got.KeepAlive != want.KeepAlive && (std.ProtoMinor == 0 || badOption.Match(in)) {
			want.KeepAlive = got.KeepAlive // net/http leaves it to its server
		}
		if got != want {
			t.Fatalf("%q:\nthis server %+v\nnet/http    %+v", in, got, want)
		}
	})
}

// FuzzBody: whatever the body of a request is, this server finds the next request where net/http finds
// it, and wherever the bytes are split.
func FuzzBody(f *testing.F) {
	for _, in := range corpus {
		if _, body, ok := strings.Cut(in, "\r\n\r\n"); ok && strings.Contains(in, "chunked") {
			f.Add([]byte(body), uint16(3), true)
		}
	}
	f.Add([]byte("5;a=\"b\r\n\"\r\nhello\r\n0\r\n\r\n"+hello), uint16(1), true)
	f.Add([]byte("000005\r\nhello\r\n000\r\nX: y\r\n\r\n"+hello), uint16(9), true)
	f.Add([]byte("7fffffffffffffff\r\n"), uint16(9), true)
	f.Add([]byte("1\r\na\r\n1\r\nb\r\n0\r\nContent-Length: 9\r\n\r\n"+hello), uint16(20), true)
	f.Add([]byte("12345"+hello), uint16(3), false)
	f.Fuzz(func(t *testing.T, body []byte, cut uint16, chunked bool) {
		if bytes.Contains(body, []byte("HEAD ")) {
			return // readReplies cannot always separate the replies to HEAD
		}
		head := "POST /ntrk/k?port=5 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n"
		if chunked {
			head = "POST /ntrk/k?port=5 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
		}
		in := append([]byte(head), body...)
		compare(t, in)
		i := len(head) + int(cut)%(len(body)+1)
		if whole, split := viaGoroutine(t, in), viaGoroutine(t, in[:i], in[i:]); !same(whole, split) {
			t.Errorf("%q split at %d:\n%v\nwhole:\n%v", in, i, split, whole)
		}
	})
}

// A repeated field is copied a few times, and not once for each repetition: that would take a hundred
// times as long as to parse another head of this size.
func TestRepeatedFieldAllocates(t *testing.T) {
	in := []byte("GET / HTTP/1.1\r\nHost: t\r\n" + strings.Repeat("Accept: a\r\n", 1400) + "\r\n")
	var got server.Head
	n := testing.AllocsPerRun(10, func() {
		var err error
		if got, _, err = server.ParseHead(in); err != nil {
			t.Fatal(err)
		}
	})
	if n > 30 {
		t.Errorf("%v allocations", n)
	}
	if want := strings.Repeat("a,", 1399) + "a"; got.Accept != want {
		t.Errorf("%q", got.Accept)
	}
	if bytes.Contains(in, []byte("a,")) {
		t.Errorf("the head has changed: %q", in)
	}
}
