package commands_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"ntrack/commands"
)

// typed runs a command line, in which · stands for a space inside a word.
func typed(t *testing.T, line string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("NTRACK_TRACKER", "")
	args := []string{"ntrack"}
	for _, word := range strings.Fields(line) {
		if word = strings.ReplaceAll(word, "·", " "); word == "''" {
			word = ""
		}
		args = append(args, word)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // for what should end, and does not
	defer cancel()
	var out, errs bytes.Buffer
	code = commands.Main(ctx, args, commands.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	return code, out.String(), errs.String()
}

// refuses says that a command line is a usage error with these notes.
func refuses(t *testing.T, line string, notes ...string) {
	t.Helper()
	code, stdout, stderr := typed(t, line)
	want := "ntrack: " + strings.Join(notes, "\nntrack: ") + "\n"
	if code != 2 || stdout != "" || stderr != want {
		t.Errorf("ntrack %s\nexit code %d\n%s%swant\n%s", line, code, stdout, stderr, want)
	}
}

// A number is decimal. What other notations there are is refused, never read as another number.
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
		{"announce k --port 065536", "--port 65536: 1 to 65535 (to look without joining use `ntrack list`)"},
		{"announce k --port -010", "--port -10: 1 to 65535 (to look without joining use `ntrack list`)"},
		{"announce k --port 99999999999999999999", "--port 99999999999999999999: the number is too large"},
		{"announce k --port 127.0.0.1:4000", `--port "127.0.0.1:4000": a number is wanted; it is the port alone: --port 4000`},
		{"announce k --port :04000", `--port ":04000": a number is wanted; it is the port alone: --port 4000`},
		{"announce k --port [::1]:4000", `--port "[::1]:4000": a number is wanted; it is the port alone: --port 4000`},
		{"announce k --port 4000/tcp", `--port "4000/tcp": a number is wanted; it is the port alone: --port 4000`},
		{"announce k --port 8000:4000/udp", `--port "8000:4000/udp": a number is wanted; it is the port alone: --port 4000`},
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
		{"announce k --stay=yes", `--stay "yes": no value is wanted, or true or false`},
		{"watch k --min 0x2", `--min "0x2": a number is wanted`},
		{"watch k --min 02_0", `--min "02_0": a number is wanted`},
		{"watch k --min 1 --for 60", `--for "60": a duration such as 60s is wanted`},
		{"watch k --every +1s", `--every "+1s": a duration such as 10s or 5m is wanted`},
		{"serve --max-rate 0x10", `--max-rate "0x10": a number is wanted`},
		{"serve --max-keys 1e6", `--max-keys "1e6": a number is wanted`},
		{"serve --max-peers 1M", `--max-peers "1M": a number is wanted`},
		{"serve --max-peers-per-key 0b1", `--max-peers-per-key "0b1": a number is wanted`},
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

// Every option that takes a number or a duration refuses what is not decimal.
func TestNumbersOfEveryOption(t *testing.T) {
	for command, options := range map[string][]string{
		"announce": {"port", "numwant", "timeout"},
		"list":     {"timeout"},
		"watch":    {"port", "min", "for", "every", "timeout"},
		"serve": {"max-rate", "interval", "max-keys", "max-peers", "max-peers-per-key", "max-per-addr", "max-conns",
			"max-conns-per-addr",
			"request-timeout", "idle-timeout"},
	} {
		_, help, _ := typed(t, command+" --help")
		numbers := 0
		for line := range strings.Lines(help) {
			f := strings.Fields(line)
			if len(f) == 2 && strings.HasPrefix(f[0], "--") && (f[1] == "N" || f[1] == "D" || f[1] == "PORT") {
				numbers++
			}
		}
		if command == "announce" {
			numbers-- // --ready D, which takes words, too
		}
		if numbers != len(options) {
			t.Errorf("ntrack %s --help shows %d options with numbers, %d are tested", command, numbers, len(options))
		}
		for _, name := range options {
			if code, _, stderr := typed(t, command+" --"+name+"=0x1"); code != 2 || !strings.Contains(stderr, `"0x1"`) {
				t.Errorf("ntrack %s --%s=0x1: exit code %d, %s", command, name, code, stderr)
			}
		}
	}
}

// An option that takes one value takes it once, whatever it is called.
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
	// A switch may stand twice, and what takes several values takes them under all its names.
	for _, line := range []string{"list k -q -q", "list k -t localhost:1 --tracker localhost:1"} {
		if code, _, stderr := typed(t, line); code != 3 {
			t.Errorf("ntrack %s: exit code %d, %s", line, code, stderr)
		}
	}
}

// Who asks for help gets it, mistakes or not.
func TestHelpInSpiteOfMistakes(t *testing.T) {
	for _, line := range []string{"announce --prot 1 --help", "list -h --port", "watch k --min --help", "help list more"} {
		if code, stdout, stderr := typed(t, line); code != 0 || !strings.Contains(stdout, "Usage: ntrack ") || stderr != "" {
			t.Errorf("ntrack %s: exit code %d\n%s%s", line, code, stdout, stderr)
		}
	}
}
