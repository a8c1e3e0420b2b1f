package wire

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Trackers and keys are read back from flags and JSON as they were written.
func TestMarshalText(t *testing.T) {
	type config struct {
		Tracker  Tracker
		Key      Key
		Fallback map[string]Tracker
		Keys     map[string]Key
		More     []Tracker
	}
	tracker := func(name string) Tracker {
		tr, err := ParseTracker(name)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	want := config{tracker(""), KeyOf([]byte("lobby")),
		map[string]Tracker{"a": tracker("u:p%2Cq@[fe80::1%25Eth0]"), "b": tracker("https://t.example/announce?passkey=1")},
		map[string]Key{"text": KeyOf([]byte("a\x1b\n<\u2028>\"")), "space": KeyOf([]byte(" a ")), "torrent": KeyOf([]byte("\xff234567890123456789\x00")),
			"20 bytes": KeyOf([]byte("12345678901234567890")), "torrent in UTF-8": {[]byte("12345678901234567890"), true}},
		[]Tracker{tracker("https://u:p@host:1")}}
	text, err := json.Marshal(want)
	var got config
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	same := cmp.Options{cmp.AllowUnexported(Key{}), cmp.Comparer(Tracker.Equal)}
	if d := cmp.Diff(want, got, same); d != "" || err != nil {
		t.Errorf("%s, %v: written (-) and read (+):\n%s", text, err, d)
	}
	if p, _ := got.More[0].url.User.Password(); p != "p" {
		t.Errorf("the password is %q", p)
	}

	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var at Tracker
	var key Key
	flags.TextVar(&at, "tracker", tracker("default"), "")
	flags.TextVar(&key, "key", Key{}, "")
	err = flags.Parse([]string{"-tracker", "host:1", "-key", "urn:btih:" + hash40})
	if err != nil || at.HostPort() != "host:1" || key.String() != "urn:btih:"+hash40 {
		t.Errorf("flags are %v, %v, %v", at, key, err)
	}
	for _, bad := range []struct{ option, value string }{
		{"-tracker", "a,b"}, {"-tracker", "udp://x"}, {"-tracker", "host:0"},
		{"-key", ""}, {"-key", "urn:btih:1"}, {"-key", "magnet:?"}, {"-key", strings.Repeat("x", MaxKey+1)},
	} {
		_, want := ParseTracker(bad.value)
		if bad.option == "-key" {
			_, want = ParseKey(bad.value)
		}
		if err := flags.Parse([]string{bad.option, bad.value}); err == nil || !strings.HasSuffix(err.Error(), want.Error()) {
			t.Errorf("%s %q: %v, want %v", bad.option, bad.value, err, want)
		}
	}
	if at.HostPort() != "host:1" || key.String() != "urn:btih:"+hash40 {
		t.Errorf("bad values change the flags to %v and %v", at, key)
	}
	for _, key := range []Key{{}, KeyOf([]byte("\xff")), KeyOf([]byte("urn:btih:" + hash40)), KeyOf([]byte(" magnet:?x")), KeyOf(make([]byte, MaxKey+1))} {
		if text, err := key.MarshalText(); err == nil {
			t.Errorf("the key %q is written as %q", key.Bytes(), text)
		}
	}
}

func TestEscape(t *testing.T) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	escaped := AppendEscaped(nil, all)
	if strings.ContainsAny(string(escaped), " /?#+&=") {
		t.Errorf("not everything is escaped: %s", escaped)
	}
	back, ok := unescape(escaped)
	if !ok || !bytes.Equal(back, all) {
		t.Errorf("unescape(escape(all bytes)) = %q, %v", back, ok)
	}
	for _, bad := range []string{"%", "a%2", "%zz", "%2g"} {
		if got, ok := unescape([]byte(bad)); ok {
			t.Errorf("unescape(%q) = %q", bad, got)
		}
	}
}

func TestClean(t *testing.T) {
	if got := Clean(" \x1b]0;boo\x07\xff é\n\r "); got != "?]0;boo?? é" {
		t.Errorf("Clean = %q", got)
	}
	if got := Clean(strings.Repeat("x", 1000)); len(got) > 310 {
		t.Errorf("Clean leaves %d bytes", len(got))
	}
	// Clean text stays as it is, also if what is not printable had several bytes.
	once := Clean("\u009b" + strings.Repeat("x", 1000))
	if twice := Clean(once); twice != once {
		t.Errorf("%q is cleaned to %q", once, twice)
	}
}
