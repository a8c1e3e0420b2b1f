package wire

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestParseTracker(t *testing.T) {
	for _, tt := range []struct {
		in, url, dial string
		classic       bool
	}{
		{"", "http://localhost:6969/ntrk/", "localhost:6969", false},
		{"localhost", "http://localhost:6969/ntrk/", "localhost:6969", false},
		{"127.0.0.2", "http://127.0.0.2:6969/ntrk/", "127.0.0.2:6969", false},
		{"::1", "http://[::1]:6969/ntrk/", "[::1]:6969", false},
		{"[::1]:80", "http://[::1]:80/ntrk/", "[::1]:80", false},
		{"tracker.example", "http://tracker.example:80/ntrk/", "tracker.example:80", false},
		{"tracker.example:6969", "http://tracker.example:6969/ntrk/", "tracker.example:6969", false},
		{"2001:db8::1", "http://[2001:db8::1]:80/ntrk/", "[2001:db8::1]:80", false},
		{"https://tracker.example", "https://tracker.example:443/ntrk/", "tracker.example:443", false},
		{"https://localhost/ntrk", "https://localhost:443/ntrk/", "localhost:443", false},
		{"http://tracker.example:1/ntrk/", "http://tracker.example:1/ntrk/", "tracker.example:1", false},
		{"http://tracker.example/announce", "http://tracker.example:80/announce", "tracker.example:80", true},
		{"http://t.example:1/foo/ntrk/announce", "http://t.example:1/xxxxx/ntrk/announce", "t.example:1", true},
		{"http://t.example:1/foontrk/x", "http://t.example:1/xxxxx/xxxxx", "t.example:1", true},
		{"fe80::1%eth0", "http://[fe80::1%25eth0]:80/ntrk/", "[fe80::1%eth0]:80", false},
		{"FE80::1%Eth0.100", "http://[fe80::1%25Eth0.100]:80/ntrk/", "[fe80::1%Eth0.100]:80", false},
		{"[fe80::1%eth0]:7000", "http://[fe80::1%25eth0]:7000/ntrk/", "[fe80::1%eth0]:7000", false},
		{"[fe80::1%25eth0]:7000", "http://[fe80::1%25eth0]:7000/ntrk/", "[fe80::1%eth0]:7000", false},
		{"fe80::1%25eth0", "http://[fe80::1%25eth0]:80/ntrk/", "[fe80::1%eth0]:80", false},
		{"http://[fe80::1%eth0]:7000/announce", "http://[fe80::1%25eth0]:7000/announce", "[fe80::1%eth0]:7000", true},
		{"https://[fe80::1%25eth0]", "https://[fe80::1%25eth0]:443/ntrk/", "[fe80::1%eth0]:443", false},
		{"[fe80::1%3]", "http://[fe80::1%253]:80/ntrk/", "[fe80::1%3]:80", false},
		{"[fe80::1%25]", "http://[fe80::1%2525]:80/ntrk/", "[fe80::1%25]:80", false},
		{"[fe80::1%2525]", "http://[fe80::1%2525]:80/ntrk/", "[fe80::1%25]:80", false},
		{"[::1%lo]", "http://[::1%25lo]:6969/ntrk/", "[::1%lo]:6969", false},
		{"u:p@[fe80::1%eth0]:7000", "http://u:xxxxx@[fe80::1%25eth0]:7000/ntrk/", "[fe80::1%eth0]:7000", false},
		{"x.LocalHost", "http://x.localhost:6969/ntrk/", "x.localhost:6969", false},
		{"notlocalhost", "http://notlocalhost:80/ntrk/", "notlocalhost:80", false},
		{"http://tracker.example:1/announce?mail=a@b.example", "http://tracker.example:1/announce?mail=xxxxx", "tracker.example:1", true},
		{"http://[::1]:80/a@b", "http://[::1]:80/xxxxx", "[::1]:80", true},
		{"http://tracker.example/a@b/announce", "http://tracker.example:80/xxxxx/announce", "tracker.example:80", true},
		{"https://u:secret@tracker.example/x/announce.php?passkey=1#f", "https://u:xxxxx@tracker.example:443/xxxxx/announce.php?passkey=xxxxx", "tracker.example:443", true},
	} {
		got, err := ParseTracker(tt.in)
		if err != nil {
			t.Errorf("ParseTracker(%q): %v", tt.in, err)
			continue
		}
		if got.String() != tt.url || got.HostPort() != tt.dial || got.Classic() != tt.classic {
			t.Errorf("ParseTracker(%q) = %s at %s, classic %v; want %s at %s, %v",
				tt.in, got, got.HostPort(), got.Classic(), tt.url, tt.dial, tt.classic)
		}
	}
	for in, says := range map[string]string{
		"http://host/foo/ntrk/": "before /ntrk/", "https://host/foo/ntrk": "before /ntrk/", "http://host//ntrk/KEY": "before /ntrk/",
		"http://host/foo/ntrk/announce/KEY": "before /ntrk/", "http://host/x/scrape.php?a=b": "ends in /announce",
		"udp://tracker.example:80/announce": "UDP", "ws://x": "scheme", "http://": "no host", "://host": "no host", "u:p@host:x": `invalid port ":x"`, "http://u:%zz@host": "percent-encoded", "@host@": "", "host:0": "port", "host:65536": "port",
		"[fe80::1%]": "zone", "[fe80::1%e th0]": "zone", "[fe80::1%eth0/]": "", "[fe80::1%\x1b]": "zone", "::%0]\xcf": "zone", "[fe80::1%a]b]:80": "zone", "[fe80::1%eth0]]": "", "127.0.0.1%lo": "", "127.0.0.1%25lo": "host",
		"tracker.example%eth0": "", "[127.0.0.1]": "host", "[127.0.0.1%eth0]": "host", "[x]": "host", "fe80::1%eth0:7000": "", "[fe80::1%eth0": "",
		"host:": "port", "host:x": "port", "http://host/ntrk/KEY": "separate argument", "http://host/?a=b": "query", "a b": "host", "%zz": "",
		"a,b": "comma", "host,": "comma", ",": "comma", "http://u:p,q@host": "%2C", "http://host/a,b/announce": "%2C",
	} {
		got, err := ParseTracker(in)
		if err == nil || !strings.Contains(err.Error(), says) || got.Check() == nil {
			t.Errorf("ParseTracker(%q) = %v, %v; want an error that says %q", in, got, err, says)
		}
	}
}

func TestParseTrackers(t *testing.T) {
	for in, want := range map[string]string{
		"":                  "[http://localhost:6969/ntrk/]",
		" ":                 "[http://localhost:6969/ntrk/]",
		"a":                 "[http://a:80/ntrk/]",
		"a, http://b/x ,c":  "[http://a:80/ntrk/ http://b:80/xxxxx http://c:80/ntrk/]",
		"a,A:80,b,http://a": "[http://a:80/ntrk/ http://b:80/ntrk/]",
		"u:p%2Cq@a,b":       "[http://u:xxxxx@a:80/ntrk/ http://b:80/ntrk/]",
	} {
		if got, err := ParseTrackers(in); err != nil || fmt.Sprint(got) != want {
			t.Errorf("ParseTrackers(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for in, says := range map[string]string{
		"a,,b": "2 of 3 is empty", "a,": "2 of 2 is empty", ",a": "1 of 2 is empty", " , ": "1 of 2 is empty", "a,b:x": "port", "u:p@a,b:x": "port",
		"a,http://u:secret,secret@b": "%2C", "u:secret,secret@b": "%2C", "http://u:12,secret@b,,": "", "secret,secret@b:0": "",
	} {
		if got, err := ParseTrackers(in); err == nil || got != nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret,") {
			t.Errorf("ParseTrackers(%q) = %v, %v; want an error that says %q", in, got, err, says)
		}
	}
}

func TestIndexURL(t *testing.T) {
	for in, want := range map[string]string{
		"t.example":                             "http://t.example:80/ntrk/",
		"http://u:p@t.example":                  "http://t.example:80/ntrk/",
		"http://u:p@t.example/announce":         "http://t.example:80/scrape",
		"http://t.example/announce":             "http://t.example:80/scrape",
		"http://t.example/x/announce.php?k=v":   "http://t.example:80/x/scrape.php?k=v",
		"http://t.example/announce/x":           "",
		"http://t.example/a":                    "",
		"http://t.example/announce%2fx/annound": "",
	} {
		tr, err := ParseTracker(in)
		if err != nil {
			t.Fatal(err)
		}
		u, err := tr.IndexURL()
		if (err != nil) != (want == "") || err == nil && u.String() != want {
			t.Errorf("index of %s = %s, %v; want %q", in, u, err, want)
		}
	}
}

// No error and no text of a tracker shows any part of a password, even if the password contains a
// delimiter that is not escaped.
func TestPasswordNotShown(t *testing.T) {
	accepted := 0
	for _, password := range []string{
		"secret", "secret:secret", "secret@secret", "secret/secret", "secret@secret/%zzsecret", "secret@secret/secret", "secret@[secret/secret", "secret@secret?secret", "secret@secret#secret", "secret?secret", "secret#secret", "secret%zzsecret", "%secret", "secret%",
		"secret secret", "secret[secret]", "secret]", "sec\x1bret", "/secret", "//secret", "?secret", "#secret", ":secret", "@secret", "://secret", "secret://secret",
	} {
		for _, name := range []string{
			"u:P@127.0.0.1", "u:P@127.0.0.1:99999", "u:P@host:0", "u:P@host:", "u:P@:6969", "u:P@host:x", "u:P@", "http://u:P@host:99999/announce",
			"http://u:P@host/ntrk/key", "http://u:P@host/?q=1", "udp://u:P@host:1/announce", "ftp://u:P@host/", "http://u:P@ho st/", "http://u:P@ho%st/", "http://u:P@host/%zz",
			"https://u:P@host/announce", "u:P@[fe80::1%eth0]:7000", "u:P@[fe80::1%]:7000", "u:P@[::1", "http://:P@host:99999", "http://u:P@host:1:2/",
		} {
			s := strings.ReplaceAll(name, "P", password)
			tr, err := ParseTracker(s)
			shown := tr.String() + " " + tr.HostPort()
			if err != nil {
				shown = err.Error()
			} else {
				accepted++
			}
			if strings.Contains(shown, "secr") || strings.Contains(shown, "ret") || strings.Contains(shown, "zz") && !strings.Contains(name, "zz") {
				t.Errorf("ParseTracker(%q) shows %s", s, shown)
			}
			if shown := Redact(s); strings.Contains(shown, "secret") {
				t.Errorf("Redact(%q) = %s", s, shown)
			}
		}
	}
	if accepted == 0 {
		t.Error("every name is refused")
	}
	for _, name := range []string{"http://u:12345/67890@host/announce", "u:12345/67890@host", "http://u:12345?67890@host/announce", "http://u:12345#67890@host/"} {
		if tr, err := ParseTracker(name); err == nil || strings.Contains(err.Error(), "12345") {
			t.Errorf("ParseTracker(%q): %v, %v", name, tr, err)
		}
	}
	if _, err := ParseTracker("http://secret@host:99999"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a token in place of a user: %v", err)
	}
	for in, want := range map[string]string{
		"lobby": "lobby", "me@home": "me@home", "host:80": "host:80", "http://h/x": "http://h/xxxxx", "h:99999/TOK/announce?k=TOK&TOK": "h:99999/xxxxx/announce?k=xxxxx&xxxxx", "/etc/x": "/etc/x", "http://h/ntrk/k?port=1": "http://h/ntrk/k?port=1", "http://h/TOK/ntrk/k": "http://h/xxxxx/ntrk/k", "http://h/TOK/ntrk/announce?a=b": "http://h/xxxxx/ntrk/announce?a=xxxxx", "udp://h/x": "udp://h/xxxxx", "me@home:80": "me@home:80",
		"a:b@c": "...@c", "http://a:b@c/d": "http://...@c/xxxxx", "http://token@c/d": "http://...@c/xxxxx", "": "", "@": "@", "://": "://", "@://": "@://",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

// A log does not show the password of a tracker.
func TestLogTracker(t *testing.T) {
	tr, err := ParseTracker("http://u:secret@host")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "tracker", tr)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "tracker", tr)
	if s := log.String(); strings.Contains(s, "secret") || strings.Count(s, "http://u:xxxxx@host") != 2 {
		t.Error(s)
	}
}

func TestTrackerEqual(t *testing.T) {
	same := [][]string{
		{"", "localhost", "LOCALHOST:6969", "http://localhost:6969/ntrk/", "http://localhost:6969#x"},
		{"http://a:b@host/announce", "http://a:b@host:80/announce"},
		{"http://a:c@host/announce"},
		{"http://b:b@host/announce"},
		{"http://host/announce"},
		{"https://host/announce"},
		{"http://host/announce?k=1"},
		{"host"},
		{"[fe80::1%a]", "[fe80::1%25a]"},
		{"[fe80::1%b]"},
	}
	for i, names := range same {
		for _, a := range names {
			for j, others := range same {
				for _, b := range others {
					ta, err1 := ParseTracker(a)
					tb, err2 := ParseTracker(b)
					if err1 != nil || err2 != nil || ta.Equal(tb) != (i == j) {
						t.Errorf("%q equals %q: %v, %v, %v", a, b, ta.Equal(tb), err1, err2)
					}
				}
			}
		}
	}
}

// The zero Tracker names no tracker, and its URLs are errors.
func TestZeroTracker(t *testing.T) {
	var zero Tracker
	_, err1 := zero.IndexURL()
	_, err2 := (&Request{Key: KeyOf([]byte("k"))}).URL(zero, "", 0)
	_, err3 := zero.MarshalText()
	for _, err := range []error{zero.Check(), err1, err2, err3} {
		if err == nil || !strings.Contains(err.Error(), "no tracker is named") {
			t.Error(err)
		}
	}
	if zero.String() != "" || zero.Loopback() {
		t.Errorf("it is shown as %q, loopback %v", zero, zero.Loopback())
	}
}

// FuzzTracker: each name is refused, or its text is read back as the same tracker.
func FuzzTracker(f *testing.F) {
	for _, s := range []string{"", "localhost", "::1", "a:1", "https://u:p%2Cq@[fe80::1%25Eth0]:7/", "http://u@t.example/x/announce.php?k=%2C#f", "http://t.example/a%2fb/announce", "h/@0", "h/%2C ", "a,b", "u:p@h:0", "::%0]\xcf", "[::%0]]", "[fe80::1%a]b]:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tr, err := ParseTracker(s)
		if err != nil {
			if !printable([]byte(err.Error())) || tr.Check() == nil {
				t.Fatalf("%q is %v, %q", s, tr, err)
			}
			return
		}
		text, err := tr.MarshalText()
		var back Tracker
		if err == nil {
			err = back.UnmarshalText(text)
		}
		if err != nil || !back.Equal(tr) || back.Classic() != tr.Classic() || back.HostPort() != tr.HostPort() {
			t.Fatalf("%q is written as %q and read as %v, %v", s, text, back, err)
		}
		u, err := (&Request{Key: KeyOf([]byte("k"))}).URL(tr, "", 0)
		if err != nil || u.User != nil || u.Host != tr.HostPort() {
			t.Fatalf("%q has the request URL %v, %v", s, u, err)
		}
	})
}
