package valkey

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

// A URL that is accepted leads where it says, and rueidis accepts it, too.
func TestURL(t *testing.T) {
	for text, shown := range map[string]string{
		"valkey://127.0.0.1":                                "valkey://127.0.0.1",
		"redis://127.0.0.1:6379":                            "redis://127.0.0.1:6379",
		"valkeys://u:secret@db.example:1/3":                 "valkeys://db.example:1/3",
		"rediss://:secret@[::1]:6380?skip_verify=true":      "rediss://[::1]:6380",
		"valkey://u:sec%2Fret@a:1?addr=b:2&addr=[::1]:3":    "valkey://a:1,b:2,[::1]:3",
		"valkey://secret@a:1?addr=b:2&master_set=lobby":     "valkey://a:1,b:2 (lobby)",
		"unix:///run/valkey.sock?db=1":                      "unix:///run/valkey.sock",
		"unix://u:secret@/run/valkey.sock":                  "unix:///run/valkey.sock",
		"valkey://a:1?dial_timeout=1s&write_timeout=1500ms": "valkey://a:1",
	} {
		if err := CheckURL(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := Shown(text); got != shown {
			t.Errorf("%s is shown as %s, want %s", text, got, shown)
		}
		if has := strings.Contains(text, ":s") || strings.Contains(text, ":sec"); HasPassword(text) != has {
			t.Errorf("%s: HasPassword is %v", text, !has)
		}
		opt, err := rueidis.ParseURL(text)
		if err != nil {
			t.Errorf("%s: rueidis: %v", text, err)
			continue
		}
		for _, at := range opt.InitAddress {
			if !strings.Contains(text, strings.TrimSuffix(at, ":6379")) {
				t.Errorf("%s: rueidis connects to %s", text, at)
			}
		}
	}
}

// A wrong URL is refused with a word about what is wrong, and without what may be a password.
func TestWrongURL(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "a URL such as",
		"secret":                             "a URL such as",
		"secret:6379":                        "a URL such as",
		"http://secret":                      "begins with valkey://",
		"VALKEY://secret":                    "begins with valkey://",
		"://secret":                          "begins with valkey://",
		"valkey://":                          "no host",
		"valkey://:6379":                     "no host",
		"valkey://u:secret@":                 "no host",
		"valkey://u:secret@:6379":            "no host",
		"valkey://u:sec/secret@host:1":       "write / as %2F",
		"valkey://u:sec#secret@host:1":       "# as %23",
		"valkey://u:sec%zzsecret@host:1":     "% as %25",
		"valkey://u:secret@host:port":        "",
		"valkey://u:secret@host:":            `the port ""`,
		"valkey://u:secret@host:0":           `the port "0"`,
		"valkey://u:secret@host:65536":       `the port "65536"`,
		"valkey://host:6379:secret":          "",
		"valkey://u:secret@host/":            "slash at the end",
		"valkey://u:secret@host/x":           "the database",
		"valkey://u:secret@host/1/secret":    "the database",
		"valkey://u:secret@host?db=-1":       "the database",
		"valkey://host?password=secret":      `"password" is unknown`,
		"valkey://host?db=1&db=2":            "twice",
		"valkey://u:secret@host?addr=b":      "addr=b: HOST:PORT",
		"valkey://u:secret@host?addr=:1":     "HOST:PORT",
		"valkey://u:secret@a:1,b:2":          "?addr=HOST:PORT",
		"valkey://u:secret@host?addr=b:0":    "HOST:PORT",
		"valkey://host?master_set=":          "master_set= needs",
		"valkey://host?skip_verify=1":        "skip_verify is for",
		"valkeys://host?skip_verify=x":       "true or false",
		"valkey://host?dial_timeout=1":       "100ms to 1m",
		"valkey://host?write_timeout=0s":     "100ms to 1m",
		"valkey://u:secret@host?a=%zz":       "NAME=VALUE",
		"unix://run/valkey.sock":             "three slashes",
		"unix://":                            "three slashes",
		"unix:///run/valkey.sock?addr=a:1":   "not for unix",
		"unix:///a?master_set=x":             "not for unix",
		"valkey://u:secret@a b:1":            "no URL",
		"valkey://u:secret@\x1b[2J":          "no URL",
		"valkey://u:secret@host?addr=b%00:1": "",
	} {
		err := CheckURL(text)
		if err == nil {
			t.Errorf("%q is accepted", text)
			continue
		}
		if shown := Shown(text) + " " + err.Error(); !strings.Contains(shown, want) || strings.Contains(shown, "secret") {
			t.Errorf("%q: %s; want %q", text, shown, want)
		}
	}
}

func TestPrefix(t *testing.T) {
	for _, good := range []string{"ntrk", "a", "A.b_c-9", strings.Repeat("x", 32)} {
		if err := CheckPrefix(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a b", "{a}", "ä", "a:b", "a\n", strings.Repeat("x", 33)} {
		if err := CheckPrefix(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
