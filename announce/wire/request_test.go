package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A tracker reads back the request that a client writes.
func TestRequestRoundTrip(t *testing.T) {
	tracker := func(name string) Tracker {
		tr, err := ParseTracker(name)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	id := ID([]byte("-NT0100-abc\x00\xff&=+% xyz")[:20])
	for _, want := range []Request{
		{Key: KeyOf([]byte("lobby"))},
		{Key: KeyOf([]byte("lobby")), Port: 4000, Want: 7, ID: id},
		{Verb: VerbLook, Key: KeyOf([]byte("a/b?c#d%2f+\x00\xff")), Want: 1000},
		{Verb: VerbLeave, Key: KeyOf([]byte("..")), Port: 65535},
		{Key: KeyOf([]byte("k")), Want: NoPeers},
	} {
		method := "GET"
		if want.Verb == VerbLeave {
			method = "DELETE"
		}
		u, err := want.URL(tracker("t.example"), "", 0)
		if err != nil || u.Host != "t.example:80" {
			t.Fatal(u, err)
		}
		target := u.RequestURI()
		var got Request
		if err := got.Parse(method, []byte(target)); err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		got.Keys = nil
		if d := cmp.Diff(want, got, cmp.AllowUnexported(Key{})); d != "" {
			t.Errorf("%s: written (-) and read (+):\n%s", target, d)
		}
	}
	classic := Request{Key: KeyOf([]byte("\xff234567890123456789\x00")), Port: 6881, ID: id}
	u, err := classic.URL(tracker("http://t.example/announce?passkey=1"), "started", 0xabcdef)
	if err != nil {
		t.Fatal(err)
	}
	target := u.RequestURI()
	if !strings.HasPrefix(target, "/announce?passkey=1&info_hash=") || !strings.HasSuffix(target, "&key=00abcdef&event=started") {
		t.Errorf("the target is %s", target)
	}
	var got Request
	if err := got.Parse("GET", []byte(target)); err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	got.Keys = nil
	want := Request{Key: classic.Key, Port: 6881, Want: DefaultWant, ID: id, Classic: true, Compact: true}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(Key{})); d != "" {
		t.Errorf("%s: written (-) and read (+):\n%s", target, d)
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	r := Request{Keys: make([]Key, 0, maxScrape)}
	buf := make([]byte, 0, MaxTarget)
	for _, target := range []string{
		"/ntrk/chat%2Froom%201?port=4000&numwant=50&peer_id=396747a010eff799e3a82ce1b351ac25bce23fce&format=json",
		"/announce?info_hash=%00%ff%80%25%26%2b%3d%3f%0a%0d%20%7f%c3%28%fe%41%2f%23%01%9c&peer_id=-TR2940-k8hj0wgej6ch&port=51413&uploaded=0&downloaded=0&left=0&numwant=80&key=1a2b3c4d&compact=1&supportcrypto=1&event=started&a_name_longer_than_thirty_two_bytes=1",
		"/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=bbbbbbbbbbbbbbbbbbbb",
	} {
		n := testing.AllocsPerRun(100, func() {
			if err := r.Parse("GET", append(buf, target...)); err != nil {
				t.Error(err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations to parse %s", n, target)
		}
	}
}

// FuzzParse: no input makes Parse panic, and no request that it returns breaks the rules of Request.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"/ntrk/lobby", "/ntrk/%zz", "/ntrk/a//b?port=0&numwant=99999999999999999999", "http://h/announce?info_hash=%ff&port=1&event=stopped",
		"/scrape?info_hash=a&info_hash=b", "/ntrk/?format=text", "/announce?info_hash&port", "*", "", "/tracker?info_hash=a&peer_id=396747a010eff799e3a82ce1b351ac25bce23fce&compact=1"} {
		f.Add("GET", []byte(s))
		f.Add("DELETE", []byte(s))
	}
	f.Fuzz(func(t *testing.T, method string, target []byte) {
		var r Request
		err := r.Parse(method, bytes.Clone(target))
		if err != nil {
			if _, ok := errors.AsType[*RefusalError](err); !ok {
				t.Fatalf("%T is not a *RefusalError: %v", err, err)
			}
			if got := Clean(err.Error()); got != err.Error() {
				t.Fatalf("the reason is not safe to print: %q", err)
			}
			return
		}
		if n := len(r.Key.raw); r.Verb != VerbScrape && (n == 0 || n > MaxKey) || len(r.Keys) > maxScrape {
			t.Fatalf("accepted %q as %+v", target, r)
		}
		if r.Want < NoPeers || r.Verb == VerbLeave && method == "HEAD" {
			t.Fatalf("accepted %q as %+v", target, r)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	const target = "/announce?info_hash=%00%ff%80%25%26%2b%3d%3f%0a%0d%20%7f%c3%28%fe%41%2f%23%01%9c&peer_id=-TR2940-k8hj0wgej6ch&port=51413&uploaded=0&downloaded=0&left=0&numwant=80&key=1a2b3c4d&compact=1&event=started"
	var r Request
	buf := make([]byte, 0, MaxTarget)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Parse("GET", append(buf, target...)); err != nil {
			b.Fatal(err)
		}
	}
}
