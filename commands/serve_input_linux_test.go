package commands

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// A wrongValue is a value that an option of serve refuses, and a regular expression for what the
// message says after the option and the value: what is allowed, or what to do.
type wrongValue struct{ value, remedy string }

// wrongValues has wrong values for an option of serve. %DIR in a value is a directory, which holds the
// files that TestWrongValues writes.
func wrongValues(f cli.Flag) []wrongValue {
	name := f.Names()[0]
	var wrong []wrongValue
	switch f := f.(type) {
	case *cli.IntFlag:
		for _, v := range []string{"", "x", "1.5", "1e3", "NaN", "0x10", "1_000", "1k", "+1", "\x1b[2J", "\u202e1"} {
			wrong = append(wrong, wrongValue{v, `^: a number is wanted$`})
		}
		wrong = append(wrong, wrongValue{"99999999999999999999", `^: the number is too large$`}, wrongValue{"-1", `^: 0 or more$`})
	case *cli.DurationFlag:
		for _, v := range []string{"", "x", "NaN", "1d", "1h30", "+1s", "1e9s", "\x1b[2J", "\u202e1s"} {
			wrong = append(wrong, wrongValue{v, `^: a duration such as 10s or 5m is wanted$`})
		}
		wrong = append(wrong, wrongValue{"90", `^: a duration such as 90s is wanted$`},
			wrongValue{"5min", `^: a duration such as 5m is wanted$`},
			wrongValue{"9999999999h", `^: the duration is too long$`}, wrongValue{"-1s", `: .*1s`})
	case *cli.BoolFlag:
		for _, v := range []string{"maybe", "2", "yes", "\x1b[2J"} {
			wrong = append(wrong, wrongValue{v, `^: true(, false or no value| or false) is wanted$`})
		}
	case *cli.StringFlag:
		if f.TakesFile {
			wrong = append(wrong, wrongValue{"", `^: the name of a file is wanted$`})
		}
	}
	const network = `^: a network such as 10\.0\.0\.0/8 or an address$`
	const exempt = `^: a network such as 10\.0\.0\.0/8, an address, or none$`
	const size = `^: a size such as 512M or 2G is wanted$`
	const listen = `^: \[HOST\]:PORT, such as :6969 or 127\.0\.0\.1:0$`
	const listenTLS = `^: \[HOST\]:PORT, such as :443 or 127\.0\.0\.1:0$`
	const admin = `^: \[HOST\]:PORT, such as 127\.0\.0\.1:9696 or 127\.0\.0\.1:0$`
	const names = `^: \[HOST\]:PORT, such as 192\.0\.2\.1:53 or 127\.0\.0\.1:0$`
	const zone = `^: a domain of letters, digits and hyphens, such as peers\.example\.org, of at most 128 bytes$`
	const noHost = `^: the name of a host in lower case, such as tracker\.example\.org$`
	const noName = `^: this name has no address; use an address of this machine, or :\d+ for all of them$`
	return append(wrong, map[string][]wrongValue{
		"listen": {
			{"", listen}, {"x", listen}, {"127.0.0.1", listen}, {"::1:80", listen}, {"[::1", listen}, {":-1", listen}, {":65536", listen},
			{":http", listen}, {"http://127.0.0.1:80", listen}, {"a\x1b[2Jb:80", listen},
			{"192.0.2.1:80", `not an address of this machine; use one, or :80 for all of them$`},
			{"no name:80", noName}, {"\u202ename:80", noName}, {"*:80", noName},
			{"unix:", `^: unix:PATH, such as unix:/run/ntrack\.sock$`}, {"unix:%DIR/empty", `a file that is not a socket has this path; remove it`},
			{"unix:%DIR/none/socket", `there is no such directory; make it first$`},
			{"[fe80::1]:80", `a link-local address needs a network interface`}, {"[fe80::1%none]:80", `a link-local address needs a network interface`},
		},
		"listen-tls": {
			{"", listenTLS}, {"x", listenTLS}, {":65536", listenTLS}, {"unix:/x", listenTLS}, {"a\x1b[2Jb:80", listenTLS},
			{"127.0.0.1:0", `needs a certificate: --tls-cert FILE --tls-key FILE, or --acme NAME$`},
		},
		"acme": {{"", noHost}, {"x", noHost}, {"127.0.0.1", noHost}, {"*.example.org", noHost}, {"https://example.org", noHost},
			{"example.org:443", noHost}, {"a\x1b[2J.example", noHost}, {"Example.org", noHost}},
		"acme-cache":     {{"%DIR/none", `is for --acme NAME, which is missing$`}},
		"acme-directory": {{"x", `is for --acme NAME, which is missing$`}, {"https://x", `is for --acme NAME, which is missing$`}},
		"tls-cert":       {{"%DIR/none", `needs its private key: --tls-key FILE$`}},
		"tls-key":        {{"%DIR/none", `needs its certificate: --tls-cert FILE$`}},
		"addr-file":      {{"%DIR/none/file", `^: no such file or directory$`}, {"%DIR", `^: is a directory$`}},
		"interval":       {{"0s", `^: whole seconds from 1s to 1h$`}, {"1.5s", `^: whole seconds`}, {"1h1m0s", `^: whole seconds`}},
		"max-memory": {
			{"", size}, {"x", size}, {"1.5G", size}, {"1k", size}, {"1KB", size}, {"-1", size}, {"0x10", size}, {"\x1b[2J", size},
			{"\u202e64M", size}, {"64 M", size}, {"99999999999999999999", `^: the size is too large$`}, {"9999999999T", `^: the size is too large$`},
			{"0", `^: 32M or more$`}, {"32767K", `^: 32M or more$`},
		},
		"max-per-addr": {{"65536", `^: 65535 at most, or 0 for no limit$`}},
		"token-file": {
			{"%DIR/none", `: no such file or directory; make the file, or name another$`}, {"%DIR", ` is a directory: name a file in it$`}, {"%DIR/empty", ` has no token: put one on a line$`},
			{"%DIR/binary", ` it holds a NUL byte$`}, {"%DIR/large", ` holds more than \d+ bytes$`}, {"%DIR/space", `visible ASCII without spaces`},
		},
		"deny": {
			{"%DIR/none", `: no such file or directory; make the file, or name another$`}, {"%DIR", ` is a directory: name a file in it$`}, {"-", `^: name a file; standard input cannot`},
			{"%DIR/space", `: line 1: "a": a line is "net CIDR", "key KEY"`},
		},
		"store": {
			{"", `a URL such as valkey://127\.0\.0\.1:6379 is wanted`}, {"localhost", `a URL such as`}, {"http://localhost", `begins with valkey:// or redis://`},
			{"valkey://", `names no host`}, {"valkey://h:0", `the port "0"`}, {"valkey://h?addr=x", `addr=x: HOST:PORT is wanted`}, {"valkey://h\x1b[2J", `this is no URL`},
			{"valkey://h?password=x", `the parameter "password" is unknown`}, {"valkey://u:p#x@h", `# as %23`}, {"unix://x", `three slashes`},
		},
		"store-file": {
			{"%DIR/none", `: no such file or directory; make the file, or name another$`}, {"%DIR", ` is a directory: name a file in it$`}, {"-", `: name a file;`},
			{"%DIR/empty", ` is empty: it has to hold one line$`}, {"%DIR/binary", ` it holds a NUL byte$`}, {"%DIR/large", ` holds more than \d+ bytes$`}, {"%DIR/space", `a URL such as`},
		},
		"store-prefix":    {{"x", `is for --store URL, which is missing$`}, {"x y", `is for --store URL, which is missing$`}},
		"request-timeout": {{"999ms", `^: 1s or more$`}},
		"drain":           {{"999ms", `^: 1s to 1h, or 0s to end at once$`}, {"1h0m1s", `^: 1s to 1h`}},
		"idle-timeout":    {{"0s", `^: 1s or more$`}},
		"proxy": {
			{"", network}, {"x", network}, {"10.0.0.0/33", network}, {"300.0.0.1", network}, {"::/129", network},
			{"localhost", network}, {"\x1b[2J", network},
		},
		"exempt": {
			{"", exempt}, {"x", exempt}, {"10.0.0.0/33", exempt}, {"::ffff:10.0.0.0/95", exempt}, {"300.0.0.1", exempt}, {"NONE", exempt}, {"\x1b[2J", exempt},
		},
		"admin": {
			{"", admin}, {"x", admin}, {"127.0.0.1", admin}, {":65536", admin}, {"unix:/run/admin", admin}, {"a\x1b[2Jb:80", admin},
		},
		"dns": {
			{"", names}, {"x", names}, {"53", names}, {":65536", names}, {"unix:/x", names}, {"a\x1b[2Jb:53", names},
			{"127.0.0.1:0", `: needs the domain whose names it answers: --dns-zone ZONE`},
		},
		"dns-zone": {
			{"", zone}, {".", zone}, {"a b", zone}, {"-a.example", zone}, {"a..example", zone}, {"a_b.example", zone}, {"a\x1b[2J.example", zone},
			{"\u202ea.example", zone}, {strings.Repeat("a.", 70) + "example", zone}, {strings.Repeat("a", 64), zone},
			{"peers.example", `: is for --dns ADDR, which is missing$`},
		},
		"proxy-protocol": {{"true", `^also name the proxies that send it, by `}},
		"log-format":     {{"", `^: notes, text or json$`}, {"xml", `^: notes, text or json$`}, {"\x1b[2J", `^: notes, text or json$`}},
		"log-level":      {{"", `^: debug, info, warn or error$`}, {"INFO", `^: debug,`}, {"\u202einfo", `^: debug,`}},
	}[name]...)
}

// Each option of serve refuses a wrong value with one line, which names the option and the value and
// says what is allowed. If the value comes from the environment, the line names the variable.
func TestWrongValues(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "binary": "a\x00b\n", "large": strings.Repeat("x", 1<<20), "space": "a b\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range serveCommand(Streams{}).Flags {
		name := f.Names()[0]
		t.Run(name, func(t *testing.T) {
			cases := wrongValues(f)
			// If serve accepted a value, it would end by this address, which this machine does not have.
			rest := []string{"--listen", "192.0.2.1:1"}
			switch name {
			case "listen":
				rest = nil
			case "addr-file": // is written once the tracker listens
				rest = []string{"--listen", "127.0.0.1:0"}
			}
			if len(cases) < 2 { // a file has one already
				t.Errorf("add wrong values of --%s to the table", name)
			}
			for _, c := range cases {
				c.value = strings.ReplaceAll(c.value, "%DIR", dir)
				checkWrong(t, "--"+name, c, append(rest, "--"+name+"="+c.value)...)
				if c.value == "" {
					continue // an empty variable counts as unset
				}
				t.Setenv(variableOf(name), c.value)
				checkWrong(t, "$"+variableOf(name), c, rest...)
				t.Setenv(variableOf(name), "")
			}
		})
	}
}

// checkWrong runs serve, and checks the line about the option that is spelled like this.
func checkWrong(t *testing.T, spelling string, c wrongValue, args ...string) {
	t.Helper()
	var out, errs bytes.Buffer
	code := Main(t.Context(), append([]string{"ntrack", "serve"}, args...), Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	line := strings.TrimSuffix(errs.String(), "\n")
	value := regexp.QuoteMeta(shown(c.value))
	begin := regexp.MustCompile(`^ntrack: ` + regexp.QuoteMeta(spelling) + `:? ("` + value + `"|` + value + `)?`)
	rest := strings.TrimSuffix(begin.ReplaceAllString(line, ""), "; see `ntrack serve --help`")
	if !slices.Contains([]int{1, 2}, code) || !begin.MatchString(line) || !regexp.MustCompile(c.remedy).MatchString(rest) || printable(line) != line || out.Len() > 0 {
		t.Errorf("%s %q: exit code %d\n%s\nwant the option, the value and %s", spelling, c.value, code, line, c.remedy)
	}
}
