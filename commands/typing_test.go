package commands_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
	"unicode"

	"ntrack/commands"
)

// runLine runs a command line. A · stands for a space inside a word. A pair of
// single quotes stands for an empty word.
func runLine(t *testing.T, line string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("NTRACK_TRACKER", "localhost:1") // nothing listens there
	args := []string{"ntrack"}
	for word := range strings.SplitSeq(line, " ") {
		if word = strings.ReplaceAll(word, "·", " "); word == "''" {
			word = ""
		}
		args = append(args, word)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // for a command that should end and does not
	defer cancel()
	var out, errs bytes.Buffer
	code = commands.Main(ctx, args, commands.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	return code, out.String(), errs.String()
}

// refuses checks that ntrack refuses a command line with exactly these notes and the exit code 2.
func refuses(t *testing.T, line string, notes ...string) {
	t.Helper()
	code, stdout, stderr := runLine(t, line)
	want := "ntrack: " + strings.Join(notes, "\nntrack: ") + "\n"
	if code != 2 || stdout != "" || stderr != want {
		t.Errorf("ntrack %s\nexit code %d\n%s%swant\n%s", line, code, stdout, stderr, want)
	}
}

// Numbers are decimal. ntrack refuses other notations, and never reads one as a wrong number.
func TestNumbers(t *testing.T) {
	const see = "; see `ntrack "
	for _, tt := range []struct{ line, note string }{
		{"announce k --port 0x10", `--port "0x10": a number is wanted`},
		{"announce k --port=0X10", `--port "0X10": a number is wanted`},
		{"announce k -port 0b1", `-port "0b1": a number is wanted`},
		{"announce k --port 0o17", `--port "0o17": a number is wanted`},
		{"announce k --port 1_000", `--port "1_000": a number is wanted`},
		{"announce k --port 1,000", `--port "1,000": a number is wanted`},
		{"announce k --port +5", `--port "+5": a number is wanted`},
		{"announce k --port ·5", `--port "5": a number is wanted`},
		{"announce k --port 5·", `--port "5": a number is wanted`},
		{"announce k --port 4e3", `--port "4e3": a number is wanted`},
		{"announce k --port 4000.0", `--port "4000.0": a number is wanted`},
		{"announce k --port ٤", `--port "٤": a number is wanted`},
		{"announce k --port --5", `--port "--5": a number is wanted`},
		{"announce k --port=", `--port "": a number is wanted`},
		{"announce k --port ''", `--port "": a number is wanted`},
		{"announce k --port 065536",
			"--port 65536: 1 to 65535 (to look without joining use `ntrack list`)"},
		{"announce k --port -010",
			"--port -10: 1 to 65535 (to look without joining use `ntrack list`)"},
		{"announce k --port 99999999999999999999",
			"--port 99999999999999999999: the number is too large"},

		{"announce k --port 127.0.0.1:4000", `--port "127.0.0.1:4000": a number is wanted; give only the port: --port 4000`},

		{"announce k --port :04000", `--port ":04000": a number is wanted; give only the port: --port 4000`},

		{"announce k --port [::1]:4000", `--port "[::1]:4000": a number is wanted; give only the port: --port 4000`},

		{"announce k --port 4000/tcp", `--port "4000/tcp": a number is wanted; give only the port: --port 4000`},

		{"announce k --port 8000:4000/udp", `--port "8000:4000/udp": a number is wanted; give only the port: --port 4000`},
		{"announce k --numwant 0x10", `--numwant "0x10": a number is wanted`},
		{"announce k --numwant 0x10:5", `--numwant "0x10:5": a number is wanted`},
		{"announce k --from 0x10", `--from "0x10": [IP:]PORT, such as :4000 or [2001:db8::1]:4000`},
		{"announce k --from +16", `--from "+16": [IP:]PORT, such as :4000 or [2001:db8::1]:4000`},

		{"announce k --from 127.0.0.1:1_0", `--from "127.0.0.1:1_0": [IP:]PORT, such as :4000 or [2001:db8::1]:4000`},
		{"announce k --timeout 10", `--timeout "10": a duration such as 10s is wanted`},
		{"announce k --timeout 5min", `--timeout "5min": a duration such as 5m is wanted`},

		{"announce k --timeout 90·seconds", `--timeout "90 seconds": a duration such as 90s is wanted`},
		{"announce k --timeout +5s", `--timeout "+5s": a duration such as 10s or 5m is wanted`},
		{"announce k --timeout 0x10s", `--timeout "0x10s": a duration such as 10s or 5m is wanted`},
		{"announce k --timeout 1_0s", `--timeout "1_0s": a duration such as 10s or 5m is wanted`},
		{"announce k --timeout 1d", `--timeout "1d": a duration such as 10s or 5m is wanted`},

		{"announce k --port 1 --ready 0x1s -- true", `--ready "0x1s": a duration such as 30s, udp or none`},

		{"announce k --port 1 --ready +1s -- true", `--ready "+1s": a duration such as 30s, udp or none`},
		{"announce k --stay=yes", `--stay "yes": true, false or no value is wanted`},
		{"watch k --min 0x2", `--min "0x2": a number is wanted`},
		{"watch k --min 02_0", `--min "02_0": a number is wanted`},
		{"watch k --min 1 --for 60", `--for "60": a duration such as 60s is wanted`},
		{"watch k --every +1s", `--every "+1s": a duration such as 10s or 5m is wanted`},
		{"serve --max-rate 0x10", `--max-rate "0x10": a number is wanted`},
		{"serve --max-memory 1e9", `--max-memory "1e9": a size such as 512M or 2G is wanted`},
		{"serve --max-per-addr 0200000", "--max-per-addr 200000: 65535 at most, or 0 for no limit"},
		{"serve --max-conns 0o7", `--max-conns "0o7": a number is wanted`},

		{"serve --listen 127.0.0.1:0x10", `--listen "127.0.0.1:0x10": [HOST]:PORT, such as :6969 or 127.0.0.1:0`},
		{"serve --listen :+5", `--listen ":+5": [HOST]:PORT, such as :6969 or 127.0.0.1:0`},
		{"serve --listen :http", `--listen ":http": [HOST]:PORT, such as :6969 or 127.0.0.1:0`},
		{"serve --listen :70000", `--listen ":70000": [HOST]:PORT, such as :6969 or 127.0.0.1:0`},
		{"serve --interval 60", `--interval "60": a duration such as 60s is wanted`},

		{"serve --idle-timeout +2m", `--idle-timeout "+2m": a duration such as 10s or 5m is wanted`},
		{"serve --request-timeout 5", `--request-timeout "5": a duration such as 5s is wanted`},
	} {
		command, _, _ := strings.Cut(tt.line, " ")
		refuses(t, tt.line, tt.note+see+command+" --help`")
	}
}

// Each option with a number or a duration refuses a value that is not decimal.
func TestNumbersOfEveryOption(t *testing.T) {
	for command, options := range map[string][]string{
		"announce": {"port", "numwant", "timeout", "wait"},
		"list":     {"timeout", "wait"},
		"watch":    {"port", "settle", "min", "for", "every", "timeout", "wait"},
		"serve": {"max-rate", "interval", "max-per-addr", "max-conns",
			"max-conns-per-addr", "request-timeout", "idle-timeout", "drain"},
	} {
		_, help, _ := runLine(t, command+" --help")
		numbers := 0
		for line := range strings.Lines(help) {
			f := strings.Fields(line)
			if len(f) == 2 && strings.HasPrefix(f[0], "--") && (f[1] == "N" || f[1] == "D" || f[1] == "PORT") {
				numbers++
			}
		}
		if command == "announce" {
			numbers-- // --ready also takes words
		}
		if numbers != len(options) {
			t.Errorf("ntrack %s --help shows %d options with numbers, %d are tested", command, numbers, len(options))
		}
		for _, name := range options {
			if code, _, stderr := runLine(t, command+" --"+name+"=0x1"); code != 2 || !strings.Contains(stderr, `"0x1"`) {
				t.Errorf("ntrack %s --%s=0x1: exit code %d, %s", command, name, code, stderr)
			}
		}
	}
}

// An option with one value must not be given twice, even under two of its names.
func TestOptionTwice(t *testing.T) {
	for line, note := range map[string]string{
		"announce k --port 4000 --port 4001":      "--port is given twice, and takes one value; see `ntrack announce --help`",
		"announce --port=4000 k -port=4000":       "-port is given twice, and takes one value; see `ntrack announce --help`",
		"list k -o json --output text":            "--output is given twice, and takes one value; see `ntrack list --help`",
		"watch k --key-file a --key-file b":       "--key-file is given twice, and takes one value; see `ntrack watch --help`",
		"serve --interval 5s --interval 6s":       "--interval is given twice, and takes one value; see `ntrack serve --help`",
		"announce k --port --stay":                "--port needs a value; see `ntrack announce --help`",
		"announce k --key-file --port 4000":       "--key-file needs a value; see `ntrack announce --help`",
		"announce k --port -- true":               "--port needs a value; see `ntrack announce --help`",
		"announce k --stay -t":                    "-t needs a value; see `ntrack announce --help`",
		"announce k --port 4000 --ready -- sleep": "--ready needs a value; see `ntrack announce --help`",
	} {
		refuses(t, line, note)
	}
	// An option without a value may be given twice. An option with several values may be given under
	// each of its names.
	for _, line := range []string{"list k -q -q", "list k -t localhost:1 --tracker localhost:1"} {
		if code, _, stderr := runLine(t, line); code != 3 {
			t.Errorf("ntrack %s: exit code %d, %s", line, code, stderr)
		}
	}
}

// A request for help prints the help even if the line has mistakes.
func TestHelpInSpiteOfMistakes(t *testing.T) {
	for _, line := range []string{"announce --prot 1 --help", "list -h --port", "watch k --min --help", "help list more"} {
		if code, stdout, stderr := runLine(t, line); code != 0 || !strings.Contains(stdout, "Usage: ntrack ") || stderr != "" {
			t.Errorf("ntrack %s: exit code %d\n%s%s", line, code, stdout, stderr)
		}
	}
}

// ntrack refuses a single argument that is probably not a KEY, and shows the line that the user
// probably meant.
func TestForgottenKey(t *testing.T) {
	for _, tt := range []struct{ line, looks, meant, literal string }{
		// These look like a tracker.
		{"announce localhost:6969 --port 4000", "localhost:6969 looks like a tracker",
			"announce localhost:6969 KEY --port 4000", "announce --port 4000 -- localhost:6969"},
		{"announce localhost",
			"localhost looks like a tracker", "announce localhost KEY", "announce -- localhost"},
		{"announce LocalHost --stay",
			"LocalHost looks like a tracker", "announce LocalHost KEY --stay", "announce --stay -- LocalHost"},
		{"announce 127.0.0.1 --port 1",
			"127.0.0.1 looks like a tracker", "announce 127.0.0.1 KEY --port 1", "announce --port 1 -- 127.0.0.1"},
		{"watch x.localhost", "x.localhost looks like a tracker", "watch x.localhost KEY", "watch -- x.localhost"},
		{"watch ::1", "::1 looks like a tracker", "watch ::1 KEY", "watch -- ::1"},
		{"watch [::1]:6969",
			"'[::1]:6969' looks like a tracker", "watch '[::1]:6969' KEY", "watch -- '[::1]:6969'"},
		{"list [fe80::1%25eth0]:7000", "'[fe80::1%25eth0]:7000' looks like a tracker",
			"list '[fe80::1%25eth0]:7000' KEY, or ntrack list -t '[fe80::1%25eth0]:7000'", "list -- '[fe80::1%25eth0]:7000'"},
		{"watch http://[fe80::1%eth0]:7000/ntrk/lobby",
			"'http://[fe80::1%eth0]:7000/ntrk/lobby' looks like the URL of a KEY",
			"watch '[fe80::1%eth0]:7000' lobby", "watch -- 'http://[fe80::1%eth0]:7000/ntrk/lobby'"},
		{"watch tracker.example:80 --min 2", "tracker.example:80 looks like a tracker",
			"watch tracker.example:80 KEY --min 2", "watch --min 2 -- tracker.example:80"},
		{"announce tracker:6969",
			"tracker:6969 looks like a tracker", "announce tracker:6969 KEY", "announce -- tracker:6969"},
		{"announce lobby:4000 --port 4000", "lobby:4000 looks like a tracker",
			"announce lobby:4000 KEY --port 4000", "announce --port 4000 -- lobby:4000"},
		{"announce a:1,b:2 --leave --port 04000", "a:1,b:2 looks like a tracker",
			"announce a:1,b:2 KEY --leave --port 4000", "announce --leave --port 4000 -- a:1,b:2"},
		{"list localhost:6969", "localhost:6969 looks like a tracker",
			"list localhost:6969 KEY, or ntrack list -t localhost:6969", "list -- localhost:6969"},
		{"list lobby:4000 -q",
			"lobby:4000 looks like a tracker", "list lobby:4000 KEY -q, or ntrack list -t lobby:4000", "list -q -- lobby:4000"},
		{"list http://T:8000/announce", "http://T:8000/announce looks like a tracker",
			"list http://T:8000/announce KEY, or ntrack list -t http://T:8000/announce", "list -- http://T:8000/announce"},
		{"announce http://T/x/announce.php?passkey=1 --port=1",
			"'http://T/xxxxx/announce.php?passkey=xxxxx' looks like a tracker",
			"announce 'http://T/xxxxx/announce.php?passkey=xxxxx' KEY --port 1", "announce --port 1 -- 'http://T/xxxxx/announce.php?passkey=xxxxx'"},
		{"watch https://T/",
			"https://T/ looks like a tracker", "watch https://T KEY", "watch -- https://T/"},
		{"watch http://localhost:6969/ntrk/", "http://localhost:6969/ntrk/ looks like a tracker",
			"watch localhost:6969 KEY", "watch -- http://localhost:6969/ntrk/"},
		{"list udp://T:1/announce", "udp://T:1/announce looks like a tracker",
			"list udp://T:1/announce KEY, or ntrack list -t udp://T:1/announce", "list -- udp://T:1/announce"},

		// The message does not contain the password.
		{"watch http://u:secret@T:8000/announce", "http://...@T:8000/announce looks like a tracker",
			"watch http://...@T:8000/announce KEY", "watch -- http://...@T:8000/announce"},
		{"watch u:sec/ret@T:8000",
			"...@T:8000 looks like a tracker", "watch http://...@T:8000 KEY", "watch -- ...@T:8000"},
		{"watch http://u:secret@T:8000/ntrk/lobby",
			"http://...@T:8000/ntrk/lobby looks like the URL of a KEY",
			"watch http://...@T:8000 lobby", "watch -- http://...@T:8000/ntrk/lobby"},

		// These look like the URL of a key.
		{"announce http://localhost:6969/ntrk/lobby",
			"http://localhost:6969/ntrk/lobby looks like the URL of a KEY",
			"announce localhost:6969 lobby", "announce -- http://localhost:6969/ntrk/lobby"},
		{"announce localhost:6969/ntrk/lobby --stay",
			"localhost:6969/ntrk/lobby looks like the URL of a KEY",
			"announce localhost:6969 lobby --stay", "announce --stay -- localhost:6969/ntrk/lobby"},
		{"list localhost/lobby",
			"localhost/lobby looks like the URL of a KEY", "list localhost lobby", "list -- localhost/lobby"},
		{"list http:/T/ntrk/lobby",
			"http:/T/ntrk/lobby looks like the URL of a KEY", "list T lobby", "list -- http:/T/ntrk/lobby"},
		{"list HTTPS://T/foo/ntrk/lobby", "HTTPS://T/xxxxx/ntrk/lobby looks like the URL of a KEY",
			"list https://T lobby", "list -- HTTPS://T/xxxxx/ntrk/lobby"},

		{"list http://T/ntrk/it's%2Fa%20room", `'http://T/ntrk/it'\''s%2Fa%20room' looks like the URL of a KEY`,
			`list T 'it'\''s/a room'`, `list -- 'http://T/ntrk/it'\''s%2Fa%20room'`},
		{"announce http://T:1/ntrk/chat?port=4000&format=json",
			"'http://T:1/ntrk/chat?port=4000&format=json' looks like the URL of a KEY",
			"announce T:1 chat --port 4000", "announce -- 'http://T:1/ntrk/chat?port=4000&format=json'"},
		{"announce http://T:1/ntrk/chat?port=4000 --port 1",
			"'http://T:1/ntrk/chat?port=4000' looks like the URL of a KEY",
			"announce T:1 chat --port 1", "announce --port 1 -- 'http://T:1/ntrk/chat?port=4000'"},

		// These look like a port.
		{"announce 4000", "4000 looks like a port", "announce KEY --port 4000", "announce -- 4000"},
		{"announce 65535 --stay -q",
			"65535 looks like a port", "announce KEY --stay -q --port 65535", "announce --stay -q -- 65535"},
		{"announce :4000", ":4000 looks like a port", "announce KEY --port 4000", "announce -- :4000"},
		{"watch 4000", "4000 looks like a port", "watch KEY --port 4000", "watch -- 4000"},
		{"list 4000", "4000 looks like a port", "list KEY", "list -- 4000"},
		{"announce lobby:4000",
			"lobby:4000 looks like a KEY and a port", "announce lobby --port 4000", "announce -- lobby:4000"},
		{"watch lobby:4000 -o json",
			"lobby:4000 looks like a KEY and a port", "watch lobby -o json --port 4000", "watch -o json -- lobby:4000"},

		// The message contains the COMMAND without its arguments.
		{"announce localhost:1 --port 4000 -- server --password x",
			"localhost:1 looks like a tracker",
			"announce localhost:1 KEY --port 4000 -- server ...", "announce --port 4000 -- localhost:1 -- server ..."},
		{"announce --port 1 localhost:1 -- my·server", "localhost:1 looks like a tracker",
			"announce localhost:1 KEY --port 1 -- 'my server'", "announce --port 1 -- localhost:1 -- 'my server'"},
		{"watch help", "help looks like a question", "watch --help", "watch -- help"},
	} {
		refuses(t, tt.line, "one argument is the KEY, and "+tt.looks+"; try", "  ntrack "+tt.meant, "or, if it is the KEY: ntrack "+tt.literal)
	}

	// ntrack accepts these as KEYs. The commands fail only because nothing listens.
	for _, line := range []string{
		"announce -- localhost:1", "announce --port 1 -- 4000", "announce 4000 --port 4000", "announce 4000 --from :4000",
		"announce -t localhost:1 localhost:6969", "announce localhost:1 4000", "watch -t localhost:1 4000",
		"watch 65536", "watch 0", "watch lobby:0", "watch a:b", "watch chat/room·1", "watch chat/1:2", "watch com.example:x", "watch lobby.v2",
		"watch 1.2.3", "watch ntrk/lobby", "watch urn:btih:00112233445566778899aabbccddeeff00112233", "watch mailto:me@home", "watch me@home:1",
		"watch myapp://room", "watch a,b", "watch 1,2", "watch help -q", "watch ☕:1", "watch 0x10",
	} {
		if code, _, stderr := runLine(t, line); code != 3 {
			t.Errorf("ntrack %s: exit code %d, %s", line, code, stderr)
		}
	}
}

// The error for an unknown option or command shows what the user probably meant.
func TestDidYouMean(t *testing.T) {
	for _, tt := range []struct{ line, note string }{
		{"announce k --prot 4000", "announce has no option --prot; did you mean --port?"},
		{"announce k -p 4000", "announce has no option -p; did you mean --port 4000?"},
		{"announce k -p", "announce has no option -p; did you mean --port PORT?"},
		{"announce k -p=4000", "announce has no option -p; did you mean --port 4000?"},
		{"announce k --PORT 4000", "announce has no option --PORT; did you mean --port?"},
		{"announce k --port4000", "announce has no option --port4000; did you mean --port 4000?"},
		{"announce k -port:4000", "announce has no option -port:4000; did you mean --port 4000?"},
		{"announce k --pot 4000", "announce has no option --pot; did you mean --port?"},
		{"announce k --token swordfish",
			"announce has no option --token; did you mean --token-file FILE?"},
		{"announce k --token=swordfish",
			"announce has no option --token; did you mean --token-file FILE?"},
		{"announce --key k", "announce has no option --key; did you mean --key-file FILE?"},
		{"announce k --keyfile k", "announce has no option --keyfile; did you mean --key-file?"},
		{"announce k --num 3", "announce has no option --num; did you mean --numwant?"},
		{"announce k -n 3", "announce has no option -n; did you mean --numwant 3?"},
		{"announce k --daemon", "announce has no option --daemon; did you mean --stay?"},
		{"announce k --remove --port 1", "announce has no option --remove; did you mean --leave?"},
		{"announce k --ip 192.0.2.1",
			"announce has no option --ip; did you mean --from [IP:]PORT?"},
		{"announce k --server T", "announce has no option --server; did you mean --tracker T?"},
		{"announce k --url http://u:secret@T/",
			"announce has no option --url; did you mean --tracker http://...@T/?"},
		{"announce k --exec true",
			"announce has no option --exec; a COMMAND comes after the KEY and `--`"},
		{"announce k --min 3", "announce has no option --min; watch has it"},
		{"announce k --listen :1", "announce has no option --listen; serve has it"},
		{"announce k --insecure", "announce has no option --insecure; did you mean --ca FILE?"},
		{"serve --zone x.lan", "serve has no option --zone; did you mean --dns-zone x.lan?"},
		{"list --json", "list has no option --json; did you mean -o json?"},
		{"list -json", "list has no option -json; did you mean -o json?"},
		{"watch k --file peers", "watch has no option --file; did you mean --to peers?"},
		{"watch k --debounce 2s", "watch has no option --debounce; did you mean --settle 2s?"},
		{"list k --template x", "list has no option --template; did you mean --format x?"},
		{"list k --template", "list has no option --template; did you mean --format TEMPLATE?"},
		{"list k --outptu json", "list has no option --outptu; did you mean --output?"},
		{"list k -ojson", "list has no option -ojson; did you mean -o json?"},
		{"list k -qo json", "list has no option -qo; did you mean -q -o?"},
		{"list k -O json", "list has no option -O; did you mean -o?"},
		{"list k --port 4000",
			"list has no option --port; list does not join; announce and watch do"},
		{"list k --numwant 3", "list has no option --numwant; announce has it"},
		{"list k --serve", "list has no option --serve; announce and watch have it"},
		{"list k --follow", "list has no option --follow; did you mean ntrack watch?"},
		{"list --version", "list has no option --version; did you mean ntrack --version?"},
		{"watch k --exect", "watch has no option --exect; did you mean --exec?"},
		{"watch k --count 3", "watch has no option --count; did you mean --min 3?"},
		{"watch k --duration 3s --min 1", "watch has no option --duration; did you mean --for 3s?"},
		{"watch k -c a·b", "watch has no option -c; did you mean --exec 'a b'?"},
		{"watch k --port 1 --min 2 --on-lost kill -- true", "watch has no option --on-lost; did you mean --on-leave kill?"},
		{"watch k --stay", "watch has no option --stay; announce has it"},
		{"serve --port 4000", "serve has no option --port; did you mean --listen 127.0.0.1:4000?"},
		{"serve -p", "serve has no option -p; did you mean --listen 127.0.0.1:PORT?"},
		{"serve --bind :1", "serve has no option --bind; did you mean --listen :1?"},
		{"serve --host 0.0.0.0", "serve has no option --host; did you mean --listen 0.0.0.0:6969?"},
		{"serve --token x", "serve has no option --token; did you mean --token-file FILE?"},
		{"serve --rate 5", "serve has no option --rate; did you mean --max-rate?"},
		{"serve --timeout 5s", "serve has no option --timeout; announce, list and watch have it"},
		{"announce lobby --port 4000 sh -c true",
			"announce has no option -c; a COMMAND comes after `--`, with its options:\n  ntrack announce lobby --port 4000 -- sh ..."},
		{"watch lobby --port 4000 --min 2 sh -c true",
			"watch has no option -c; a COMMAND comes after `--`, with its options:\n  ntrack watch lobby --port 4000 --min 2 -- sh ..."},
		{"watch T:1 sh --port 4000 --min 2 --bogus 3 -- true", "watch has no option --bogus; see `ntrack watch --help`"},
		{"announce T:1 lobby --port 4000 x --token y",
			"announce has no option --token; a COMMAND comes after `--`, with its options:\n  ntrack announce T:1 lobby --port 4000 -- x ..."},

		{"join lobby --port 4000",
			"there is no command \"join\"; did you mean\n  ntrack announce lobby --port 4000"},
		{"join \x1b[31m", "there is no command \"join\"; did you mean\n  ntrack announce '?[31m'"},
		{"leave T lobby --port 4000",
			"there is no command \"leave\"; did you mean\n  ntrack announce T lobby --port 4000 --leave"},
		{"ls", "there is no command \"ls\"; did you mean\n  ntrack list"},
		{"Announce my·room -t http://u:secret@T/ -- a b c",
			"there is no command \"Announce\"; did you mean\n  ntrack announce 'my room' -t http://...@T/ -- a ..."},
		{"annouce --token x k",
			"there is no command \"annouce\"; did you mean\n  ntrack announce --token ... k"},
		{"lsit --token=x", "there is no command \"lsit\"; did you mean\n  ntrack list --token=..."},
		{"wacth k", "there is no command \"wacth\"; did you mean\n  ntrack watch k"},
		{"server --index", "there is no command \"server\"; did you mean\n  ntrack serve --index"},
		{"hlep", "there is no command \"hlep\"; did you mean\n  ntrack --help"},
		{"help hlep", "there is no command \"hlep\"; did you mean\n  ntrack --help"},
		{"--hepl", "there is no option --hepl; did you mean\n  ntrack --help"},
		{"-V", "there is no option -V; did you mean\n  ntrack --version"},
		{"--list", "there is no option --list; did you mean\n  ntrack list"},
		{"--tracker X list",
			"options stand after the command; did you mean\n  ntrack list --tracker X"},
		{"-t X --json list k",
			"options stand after the command; did you mean\n  ntrack list -t X --json k"},
		{"--port 4000 lobby",
			"options stand after a command; did you mean\n  ntrack announce --port 4000 lobby"},
		{"--listen=:1", "options stand after a command; did you mean\n  ntrack serve --listen=:1"},
		{"localhost:1 list lobby",
			"there is no command \"localhost:1\"; did you mean\n  ntrack list localhost:1 lobby"},

		{"serve 4000",
			"serve takes no arguments; did you mean\n  ntrack serve --listen 127.0.0.1:4000"},
		{"serve --page no", "serve takes no arguments; did you mean --page=false?"},
		{"serve --index true", "serve takes no arguments; did you mean --index?"},
		{"serve --no-page", "serve has no option --no-page; did you mean --page=false?"},
		{"serve :4000", "serve takes no arguments; did you mean\n  ntrack serve --listen :4000"},
		{"serve 0.0.0.0:4000 --index",
			"serve takes no arguments; did you mean\n  ntrack serve --listen 0.0.0.0:4000"},

		// These are not similar to any name.
		{"announce k --frobnicate",
			"announce has no option --frobnicate; see `ntrack announce --help`"},
		{"announce k --verbose", "announce has no option --verbose; see `ntrack announce --help`"},
		{"announce -x7Fq",
			"announce has no option -x7Fq; a KEY that begins with - comes after `--`; see `ntrack announce --help`"},
		{"announce k —port 4000",
			"\"—port\" begins with the wrong dash; type --port; see `ntrack announce --help`"},
		{"frobnicate",
			"there is no command \"frobnicate\"; the commands are announce, list, watch, serve, completion, man; see `ntrack --help`"},
		{"lobby --port 4000",
			"there is no command \"lobby\"; the commands are announce, list, watch, serve, completion, man; see `ntrack --help`"},
		{"--frobnicate", "there is no option --frobnicate; see `ntrack --help`"},
		{"announce k --\x1b[31m", "announce has no option --?[31m; see `ntrack announce --help`"},
		{"\x1b[31m",
			"there is no command \"?[31m\"; the commands are announce, list, watch, serve, completion, man; see `ntrack --help`"},
		{"announce \ufefflobby",
			"the KEY begins with a byte order mark; --key-file FILE reads it without the mark; see `ntrack announce --help`"},
		{"announce lobby\r",
			"the KEY ends with a line break; --key-file FILE reads it without the break; see `ntrack announce --help`"},
	} {
		refuses(t, tt.line, strings.Split(tt.note, "\n")...)
	}
}

// Whichever option has a file name, no message contains its control characters.
func TestNamesArePrintable(t *testing.T) {
	const name = "no/such\x1b[31m\u202efile"
	for _, line := range []string{
		"list k --key-file " + name, "list k --token-file " + name, "list https://localhost:1 k --ca " + name,
		"serve --token-file " + name, "serve --listen 127.0.0.1:0 --addr-file " + name, "serve --" + name, name,
		"announce k --port 1 -- " + name,
	} {
		code, stdout, stderr := runLine(t, line)
		if code == 0 || stdout != "" || !strings.HasPrefix(stderr, "ntrack: ") ||
			strings.ContainsFunc(strings.ReplaceAll(stderr, "\n", ""), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("ntrack %q: exit code %d\n%q%q", line, code, stdout, stderr)
		}
	}
}

// A word after a `--` is not an option. If it looks like one, the message shows it before the `--`.
func TestOptionsFirst(t *testing.T) {
	for line, want := range map[string]string{
		"announce -- 4000 --port 4000":             "ntrack announce --port 4000 -- 4000",
		"announce -- my-service --port 4000":       "ntrack announce --port 4000 -- my-service",
		"announce -- lobby --port 4000 -- sleep 1": "ntrack announce --port 4000 lobby -- sleep ...",
		"watch -- localhost:7000 lobby --min 2 -q": "ntrack watch --min 2 -q -- localhost:7000 lobby",
		"list -q -- localhost:7000 lobby -o json":  "ntrack list -q -o json -- localhost:7000 lobby",
	} {
		if code, _, stderr := runLine(t, line); code != 2 || !strings.Contains(stderr, "did you mean\nntrack:   "+want+"\n") {
			t.Errorf("ntrack %s: exit code %d\n%swant %s", line, code, stderr, want)
		}
	}
}
