package commands

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzOption: an option of serve and its variable mean the same, whatever their value is, and cli reads
// what this program accepts. A message about a wrong value is one line.
func FuzzOption(f *testing.F) {
	flags := serveCommand(Streams{}).Flags
	for i := range flags {
		for _, value := range []string{"7", "007", "-1", "", "true", "1h2m3s", "99999999999999999999", "0x10", "10s ", "a,b", "\x1b[2J", "1K", "512M", "none", "10.0.0.0/8"} {
			f.Add(uint8(i), value)
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, value string) {
		flag := flags[int(i)%len(flags)]
		name := flag.Names()[0]
		if strings.ContainsAny(value, "\x00,") || value == "" || value != strings.TrimSpace(value) {
			return // a variable cannot have it, or has a list of values, or means something else
		}
		typed, message := optionsOf(t, "--"+name+"="+value)
		t.Setenv(variableOf(name), value)
		fromVariable, sameMessage := optionsOf(t)
		if len(typed) != len(fromVariable) || typed[name] != fromVariable[name] || (message == "") != (sameMessage == "") {
			t.Errorf("--%s %q: %v %s; from the variable: %v %s", name, value, typed, message, fromVariable, sameMessage)
		}
		if utf8.ValidString(value) && strings.ContainsAny(message+sameMessage, "\r\n\x1b") {
			t.Errorf("--%s %q: %q, %q", name, value, message, sameMessage)
		}
	})
}

// FuzzFiles: a file of tokens is refused, or each of its tokens fits into a header field and stands on a
// line of its own.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{"token\n", "# c\n\na\r\nb", "\xff\xfea\x00\n\x00", "\xfe\xff\x00a", "\xef\xbb\xbfa", "a b", "a\x00", "\n", "a\rb", "\xff\xfe\x00\xd8"} {
		f.Add([]byte(text))
	}
	file := filepath.Join(f.TempDir(), "tokens")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var notes bytes.Buffer
		tokens, err := readTokens(t.Context(), file, Streams{Err: &notes})
		line, lineErr := readLine(t.Context(), file, nil)
		if lineErr == nil && (line == "" || strings.ContainsAny(line, "\r\n\x00")) {
			t.Errorf("%q is the line %q", content, line)
		}
		if err != nil {
			if len(tokens) > 0 || strings.ContainsAny(err.Error(), "\r\n\x1b\x00") {
				t.Errorf("%q: %q, %q", content, tokens, err)
			}
			return
		}
		if len(tokens) == 0 || notes.Len() > 0 {
			t.Errorf("%q: %q, %s", content, tokens, notes.String())
		}
		text, ok := decodeText(content)
		lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
		for _, token := range tokens {
			if token == "" || token[0] == '#' || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) || !ok || !slices.Contains(lines, token) {
				t.Errorf("%q: token %q", content, token)
			}
		}
		if one, err := readToken(t.Context(), file, Streams{Err: &notes}); (err == nil) != (len(tokens) == 1) || err == nil && one != tokens[0] {
			t.Errorf("%q: %q, %v", content, one, err)
		}
	})
}

// FuzzSize: a size is refused in one line, or it is a number of bytes that is written and read as the
// same one, but for less than a tenth. The parts of --max-memory are never more than the whole.
func FuzzSize(f *testing.F) {
	for _, s := range []string{"0", "512M", "2GiB", "007K", "1T", "9223372036854775807", "4611686018427387904", "4194304T", "4194305T", "32M", "1.5G", "-1M", "1 G", "1m", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") || n != 0 {
				t.Errorf("%q: %d, %q", s, n, err)
			}
			return
		}
		again, err := parseSize(size(n))
		if err != nil || n < 0 || again > n || again < n-n/10 {
			t.Errorf("%q is %d, which is written as %s, which is %d, %v", s, n, size(n), again, err)
		}
		if m := splitMemory(max(n, leastMemory)); m.table <= 0 || m.connections <= 0 || programMemory+m.table+m.connections > m.all {
			t.Errorf("%q is split into %+v", s, m)
		}
	})
}
