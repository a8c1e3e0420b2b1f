package commands_test

import (
	"strings"
	"testing"
	"unicode"
)

// Names of files reach a terminal only as far as they are fit for it, whatever option has them.
func TestNamesArePrintable(t *testing.T) {
	const name = "no/such\x1b[31m\u202efile"
	for _, line := range []string{
		"list k --key-file " + name, "list k --token-file " + name, "list https://localhost:1 k --ca " + name,
		"serve --token-file " + name, "serve --listen 127.0.0.1:0 --addr-file " + name, "serve --" + name, name,
		"announce k --port 1 -- " + name,
	} {
		code, stdout, stderr := typed(t, line)
		if code == 0 || stdout != "" || !strings.HasPrefix(stderr, "ntrack: ") ||
			strings.ContainsFunc(strings.ReplaceAll(stderr, "\n", ""), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("ntrack %q: exit code %d\n%q%q", line, code, stdout, stderr)
		}
	}
}

// Options behind a -- are none. The remedy has them in front of it.
func TestOptionsFirst(t *testing.T) {
	for line, want := range map[string]string{
		"announce -- 4000 --port 4000":             "ntrack announce --port 4000 -- 4000",
		"announce -- my-service --port 4000":       "ntrack announce --port 4000 -- my-service",
		"announce -- lobby --port 4000 -- sleep 1": "ntrack announce --port 4000 lobby -- sleep ...",
		"watch -- localhost:7000 lobby --min 2 -q": "ntrack watch --min 2 -q -- localhost:7000 lobby",
		"list -q -- localhost:7000 lobby -o json":  "ntrack list -q -o json -- localhost:7000 lobby",
	} {
		if code, _, stderr := typed(t, line); code != 2 || !strings.Contains(stderr, "did you mean\nntrack:   "+want+"\n") {
			t.Errorf("ntrack %s: exit code %d\n%swant %s", line, code, stderr, want)
		}
	}
}
