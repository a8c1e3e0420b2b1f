package announce

import (
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
		{"http://t.example:1/foo/ntrk/announce", "http://t.example:1/foo/ntrk/announce", "t.example:1", true},
		{"http://t.example:1/foontrk/x", "http://t.example:1/foontrk/x", "t.example:1", true},
		{"https://u:secret@tracker.example/x/announce.php?passkey=1#f", "https://u:xxxxx@tracker.example:443/x/announce.php?passkey=1", "tracker.example:443", true},
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
		"udp://tracker.example:80/announce": "UDP", "ws://x": "scheme", "http://": "no host", "host:0": "port", "host:65536": "port",
		"http://host/foo/ntrk/": "before /ntrk/", "https://host/foo/ntrk": "before /ntrk/", "http://host//ntrk/KEY": "before /ntrk/",
		"http://host/foo/ntrk/announce/KEY": "before /ntrk/", "http://host/x/scrape.php?a=b": "ends in /announce",
		"host:": "port", "host:x": "port", "http://host/ntrk/KEY": "argument of its own", "http://host/?a=b": "query", "a b": "host", "%zz": "",
	} {
		if got, err := ParseTracker(in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseTracker(%q) = %v, %v; want an error that says %q", in, got, err, says)
		}
	}
}

func TestScrapeURL(t *testing.T) {
	for in, want := range map[string]string{
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
		u, err := tr.scrape()
		if (err != nil) != (want == "") || err == nil && u.String() != want {
			t.Errorf("scrape of %s = %s, %v; want %q", in, u.String(), err, want)
		}
	}
}
