//go:build unix

package commands_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// An effect is the difference that an option makes.
type effect struct {
	// A command line with the option, and a regular expression for its result.
	with, result string
	// The same command line without the option, or with another value, and a regular expression for
	// its result. Both are empty if nothing happens without the option, because no test can wait for
	// that.
	without, instead string
	// observe returns the result of a command that runs. If observe is nil, the result is the exit code
	// and the output.
	observe func(*trial) string
}

// testedElsewhere has the options that other tests cover, and the files with these tests.
func testedElsewhere() map[string]string {
	return map[string]string{
		"announce --on-lost":     "../testdata/script/child_tracker.txtar",
		"watch --on-leave":       "../testdata/script/job_lost.txtar",
		"serve --listen-tls":     "../testdata/script/serve_tls.txtar",
		"serve --acme":           "../interop/acme_test.go",
		"serve --acme-cache":     "../interop/acme_test.go",
		"serve --acme-directory": "../interop/acme_test.go",
		"serve --tls-cert":       "../testdata/script/serve_tls.txtar",
		"serve --tls-key":        "../testdata/script/serve_tls.txtar",
		"serve --deny":           "../testdata/script/deny.txtar",
		"serve --admin":          "../testdata/script/serve_admin.txtar",
		"serve --dns":            "serve_dns_test.go",
		"serve --dns-zone":       "serve_dns_test.go",
		"watch --settle":         "../testdata/script/watch_to.txtar",
		"serve --store":          "serve_store_linux_test.go",
		"serve --store-file":     "serve_store_linux_test.go",
		"serve --store-prefix":   "serve_store_linux_test.go",
	}
}

// effects returns the effect of every option. The default tracker is $AT: it has three peers of the
// key lobby and one of the key other. $OTHER has another peer of lobby. $LOCKED needs a token, and
// $TLS a certificate. $SILENT does not answer. $SLOW has an interval of an hour and no streams. $FREE
// is a port on which nothing listens.
func effects() map[string]effect {
	const serve = "serve --listen 127.0.0.1:0"
	const peers = "/ntrk/a?port=1 /ntrk/a?port=2 /ntrk/b?port=1"
	all := map[string]effect{
		"serve --listen": {
			serve + " --listen 127.0.0.1:0", `^200 200 $`,
			serve, `^200 $`,
			asks("/ntrk/k?port=1"),
		},
		"serve --addr-file": {
			serve + " --addr-file new", `^127\.0\.0\.1:\d+\n$`,
			serve, `^no file$`,
			func(x *trial) string {
				x.waitFor("ntrack list ")
				text, err := os.ReadFile(filepath.Join(x.dir, "new"))
				if err != nil {
					return "no file"
				}
				return string(text)
			},
		},
		"serve --max-rate": {
			serve + " --max-rate 1", `"interval":[78]\d,`,
			serve + " --max-rate 0", `"interval":15,`,
			func(x *trial) string {
				at := x.addrs()[0]
				for port := range 60 { // a young track of at most 50 peers has a shorter interval
					get(x.t, fmt.Sprintf("http://%s/ntrk/k?port=%d", at, port+1), "")
				}
				_, body := get(x.t, "http://"+at+"/ntrk/k?format=json&port=1", "")
				return body
			},
		},
		"serve --interval": {
			serve + " --interval 2m", `"interval":120,"ttl":300,`,
			serve, `"interval":15,"ttl":38,`,
			asks("/ntrk/k?format=json&port=1"),
		},
		"serve --index": {
			serve + " --index", `^200 $`,
			serve, `^404 `,
			asks("/ntrk/"),
		},
		"serve --page": {
			serve + " --proxy 127.0.0.0/8 --page", `^200 text/html`,
			serve + " --proxy 127.0.0.0/8", `^404 text/plain`,
			func(x *trial) (result string) {
				for _, at := range x.addrs() {
					request, err := http.NewRequestWithContext(x.t.Context(), "GET", "http://"+at+"/", nil)
					if err != nil {
						x.t.Fatal(err)
					}
					request.Header.Set("Accept", "text/html")
					request.Header.Set("X-Forwarded-For", "203.0.113.7")
					reply, err := http.DefaultClient.Do(request)
					if err != nil {
						x.t.Fatal(err)
					}
					_ = reply.Body.Close()
					result += fmt.Sprintf("%d %s ", reply.StatusCode, reply.Header.Get("Content-Type"))
				}
				return result
			},
		},
		"serve --token-file": {
			serve + " --token-file token", `^401 `,
			serve, `^200 `,
			asks("/ntrk/k?port=1"),
		},
		"serve --max-memory": {
			serve + " --log-level debug --addr-file new --max-memory 48M", `at most 48M of memory: 16M for keys and peers, 8M for connections`,
			serve + " --log-level debug --addr-file new --max-memory 80M", `at most 80M of memory: 32M for keys and peers, 16M for connections`,
			printsWhenEnded,
		},
		"serve --max-per-addr": {
			serve + " --max-per-addr 2",
			`^200 200 503 too many peers of this address: at most 2`,
			serve, `^200 200 200 $`,
			asks(peers),
		},
		"serve --max-conns": {
			serve + " --max-conns 2", `^2 of 3$`,
			serve + " --max-conns 3", `^3 of 3$`,
			connect3,
		},
		"serve --max-conns-per-addr": {
			serve + " --exempt none --max-conns-per-addr 2", `^2 of 3$`,
			serve + " --exempt none --max-conns-per-addr 3", `^3 of 3$`,
			connect3,
		},
		"serve --exempt": {
			serve + " --max-conns-per-addr 2 --exempt 192.0.2.1 --exempt 127.0.0.0/8", `^3 of 3$`,
			serve + " --max-conns-per-addr 2 --exempt 192.0.2.1 --exempt 192.0.2.0/24", `^2 of 3$`,
			connect3,
		},
		// The shorter timeout is 1 s in one line, and 11 s, which is not a default, in the other.
		"serve --request-timeout": {
			serve + " --idle-timeout 11s --request-timeout 1s", "^request$",
			serve + " --idle-timeout 11s --request-timeout 1h", "^idle$",
			firstClosed,
		},
		"serve --idle-timeout": {
			serve + " --request-timeout 11s --idle-timeout 1s", "^idle$",
			serve + " --request-timeout 11s --idle-timeout 1h", "^request$",
			firstClosed,
		},
		"serve --proxy": {
			serve + " --proxy 127.0.0.0/8", `"you":"203\.0\.113\.7:1"`,
			serve, `"you":"127\.0\.0\.1:1"`,
			func(x *trial) string {
				url := "http://" + x.addrs()[0] + "/ntrk/k?format=json&port=1"
				_, body := get(x.t, url, "203.0.113.7")
				return body
			},
		},
		"serve --proxy-protocol": {
			serve + " --proxy 127.0.0.0/8 --proxy-protocol", `"you":"203\.0\.113\.7:4000"`,
			serve + " --proxy 127.0.0.0/8", "^HTTP/1.1 400 ",
			func(x *trial) string {
				c, err := net.Dial("tcp", x.addrs()[0])
				if err != nil {
					x.t.Fatal(err)
				}
				defer c.Close()
				_, _ = io.WriteString(c, "PROXY TCP4 203.0.113.7 127.0.0.1 4000 6969\r\nGET /ntrk/k?format=json HTTP/1.0\r\n\r\n")
				reply, _ := io.ReadAll(c)
				return string(reply)
			},
		},

		"serve --drain": {
			serve + " --drain 1s", "draining for 1s",
			serve, `ntrack list \S+ lobby\n$`,
			func(x *trial) string {
				x.addrs()
				_ = x.cmd.Process.Signal(syscall.SIGTERM)
				x.wait()
				return x.output()
			},
		},
		"serve --log-format": {
			serve + " --addr-file new --log-format json", `"msg":"open"`,
			serve + " --addr-file new", `^ntrack: tracker at`,
			printsWhenEnded,
		},
		"serve --log-level": {
			serve + " --addr-file new --log-level warn", `^$`,
			serve + " --addr-file new", `^ntrack: tracker at`,
			printsWhenEnded,
		},

		"announce --port": {
			"announce lobby --port 4000", `(?m)^127.0.0.1:4000 .*you$`,
			"announce lobby --port 4001", `(?m)^127.0.0.1:4001 .*you$`,
			nil,
		},
		"announce --from": {
			"announce lobby --from 127.0.0.1:$FREE", `(?m)^127.0.0.1:$FREE .*you$`,
			"announce lobby", `an ephemeral port`,
			nil,
		},
		"announce --label": {
			"announce lobby --port 4000 --label me", `"labels":\[.*"me"`,
			"announce lobby --port 4000", `"labels":\[null,null,null,null\]`,
			func(x *trial) string {
				x.wait()
				_, body := get(x.t, "http://"+x.expand("$AT")+"/ntrk/lobby?port=0&format=json&labels=1", "")
				return body
			},
		},
		"announce --numwant": {
			"announce lobby --port 4000 --quiet --numwant 1",
			`^exit code 0\n127\S+\n(ntrack: .*\n)*$`,
			"announce lobby --port 4000 --quiet", `^exit code 0\n(127\S+\n){3}$`,
			nil,
		},
		"announce --stay": {
			"announce lobby --port 4000 --stay", `^exit code 130, left$`,
			"announce lobby --port 4000", `, listed$`,
			func(x *trial) string {
				x.waitFor(" you\n")
				_ = x.cmd.Process.Signal(syscall.SIGINT)
				code := x.wait()
				if x.listed("$AT", ":4000") {
					return fmt.Sprintf("exit code %d, listed", code)
				}
				return fmt.Sprintf("exit code %d, left", code)
			},
		},
		"announce --leave": {
			"announce lobby --port 1 --leave", `^left$`,
			"announce lobby --port 1", `^listed$`,
			func(x *trial) string {
				x.wait()
				if x.listed("$AT", ":1") {
					return "listed"
				}
				return "left"
			},
		},
		"announce --serve": {
			"announce lobby --tracker 127.0.0.1:$FREE --port 4000 --stay --serve", ` you\n`,
			"announce lobby --tracker 127.0.0.1:$FREE --port 4000 --stay", `^exit code 3\n`,
			prints(" you\n"),
		},
		"announce --ready": {
			"announce lobby --port $FREE --ready none -- sleep 60", `^listed$`,
			"announce lobby --port $FREE --ready 100ms -- sleep 60",
			`accepts no connections yet.* after 100ms`,
			func(x *trial) string {
				at, port := x.expand("$AT"), ":"+x.expand("$FREE")
				x.until(func() bool {
					return x.listed(at, port) || strings.Contains(x.output(), "accepts no")
				})
				if x.listed(at, port) {
					return "listed"
				}
				return x.output()
			},
		},

		"watch --port": {
			"watch lobby --min 4 --quiet --port 4000", `(?m)^127.0.0.1:4000$`,
			"watch lobby --min 4 --quiet --port 4001", `(?m)^127.0.0.1:4001$`,
			nil,
		},
		"watch --once": {
			"watch lobby --quiet --once", `(?m)^127.0.0.1:1$`,
			"watch lobby --quiet", `(?m)^join 127.0.0.1:1$`,
			printsAtJoins,
		},
		"watch --exec": {
			"watch lobby --exec env", `(?m)^NTRACK_EVENT=peers$`,
			"watch lobby", `(?m)^join 127.0.0.1:1$`,
			printsAtJoins,
		},
		"watch --to": {
			"watch lobby --format {{.Port}} --to new", "^1\n2\n3\n$",
			"watch lobby --format {{.Port}}", "^prints$",
			fileOrOutput,
		},
		"watch --header": {
			"watch lobby --format {{.Port}} --to new --header top", "^top\n1\n",
			"watch lobby --format {{.Port}} --to new", "^1\n",
			fileOrOutput,
		},
		"watch --min": {
			"watch lobby --for 100ms --min 4", `(?s)^exit code 5\n.* of 4 peers`,
			"watch lobby --for 100ms --min 5", `(?s)^exit code 5\n.* of 5 peers`,
			nil,
		},
		"watch --for": {
			"watch lobby --min 4 --for 100ms", `(?s)^exit code 5\n.* after 100ms`,
			"watch lobby --min 4 --for 200ms", `(?s)^exit code 5\n.* after 200ms`,
			nil,
		},
		"watch --exactly": {
			"watch lobby --min 2 --exactly", `^exit code 1\n.* not exactly 2`,
			"watch lobby --min 2", `^exit code 0\n`,
			nil,
		},
		"watch --every": {
			"watch lobby --tracker $SLOW --every 100ms", "^3 looks$",
			"", "",
			func(x *trial) string {
				x.until(func() bool { return x.looks.Load() >= 3 })
				return fmt.Sprintf("%d looks", min(3, x.looks.Load()))
			},
		},
		"watch --serve": {
			"watch lobby --tracker 127.0.0.1:$FREE --port 4000 --min 1 --quiet --serve",
			`^exit code 0\n(ntrack: .*\n)*127.0.0.1:4000\n`,
			"watch lobby --tracker 127.0.0.1:$FREE --port 4000 --min 1 --quiet", `^exit code 3\n`,
			nil,
		},
	}
	for command, line := range map[string]string{
		"announce": "announce --port 4000", "list": "list", "watch": "watch --min 1",
	} {
		for option, e := range map[string]effect{
			" --tracker": {
				" lobby --quiet --tracker $OTHER", `(?m)^127.0.0.1:9$`,
				" lobby --quiet", `(?m)^127.0.0.1:1$`,
				nil,
			},
			" --output": {
				" lobby --output json", `^exit code 0\n\{`,
				" lobby --output text", `(?m)^127.0.0.1:1$`,
				nil,
			},
			" --format": {
				" lobby --format {{.Port}}", `(?m)^1$`,
				" lobby --format {{.Scope}}", `(?m)^loopback$`,
				nil,
			},
			" --quiet": {
				" lobby --quiet", `(?m)^127.0.0.1:1$`,
				" lobby", `127.0.0.1:1 +loopback`,
				nil,
			},
			" --key-file": {
				" --quiet --key-file other", `(?m)^127.0.0.1:7$`,
				" --quiet --key-file lobby", `(?m)^127.0.0.1:1$`,
				nil,
			},
			" --token-file": {
				" lobby --tracker $LOCKED --token-file token", `^exit code 0\n`,
				" lobby --tracker $LOCKED", `^exit code 4\n`,
				nil,
			},
			" --ca": {
				" lobby --tracker $TLS --ca ca", `^exit code 0\n`,
				" lobby --tracker $TLS", `^exit code 3\n`,
				nil,
			},
			" --wait": {
				" lobby --tracker 127.0.0.1:1 --wait 1s", `waiting for it, up to 1s`,
				" lobby --tracker 127.0.0.1:1", `^(exit code 3\n)?ntrack: [^\n]*refused; is it running`,
				nil,
			},
			" --timeout": {
				" lobby --tracker $SILENT --timeout 100ms", `no answer within 100ms`,
				" lobby --tracker $SILENT --timeout 200ms", `no answer within 200ms`,
				nil,
			},
		} {
			e.with, e.without = line+e.with, line+e.without
			all[command+option] = e
		}
	}
	return all
}

// fileOrOutput waits for the file of --to, which it returns, or for output.
func fileOrOutput(x *trial) (text string) {
	x.until(func() bool {
		b, _ := os.ReadFile(filepath.Join(x.dir, "new"))
		text = string(b)
		return text != "" || strings.Contains(x.output(), "1\n")
	})
	if text == "" {
		return "prints"
	}
	return text
}

// Every option in --help has an effect: without it, or with another value, the same command line has
// another result.
func TestEveryOptionHasAnEffect(t *testing.T) {
	t.Parallel()
	all := effects()
	for _, command := range []string{"announce", "list", "watch", "serve"} {
		x := newTrial(t)
		x.start(command + " --help")
		x.wait()
		option := regexp.MustCompile(`(?m)^  --([a-z][a-z-]*)`)
		names := option.FindAllStringSubmatch(x.output(), -1)
		if len(names) < 5 {
			t.Fatalf("ntrack %s --help shows %d options\n%s", command, len(names), x.output())
		}
		for _, m := range names {
			name := command + " --" + m[1]
			e, ok := all[name]
			delete(all, name)
			if m[1] == "help" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				file := testedElsewhere()[name]
				switch {
				case file != "":
					text, err := os.ReadFile(file)
					if err != nil || !strings.Contains(string(text), "--"+m[1]) {
						t.Fatalf("%s does not test it: %v", file, err)
					}
				case !ok:
					t.Fatal("this option is not tested")
				case e.without == "":
					e.holds(t, e.with, e.result, "")
				default:
					a, b := lineWithout(e.with, m[1]), lineWithout(e.without, m[1])
					if a != b || e.with == e.without {
						t.Fatalf("these differ in more than --%s:\n%s\n%s", m[1], e.with, e.without)
					}
					e.holds(t, e.with, e.result, e.instead)
					e.holds(t, e.without, e.instead, e.result)
				}
			})
		}
	}
	for name := range all {
		t.Errorf("ntrack %s: --help does not show it", name)
	}
}

// holds runs a command line. The result has to match want, and must not match other.
func (e *effect) holds(t *testing.T, line, want, other string) {
	t.Helper()
	x := newTrial(t)
	x.start(line)
	var got string
	if e.observe != nil {
		got = e.observe(x)
	} else {
		got = fmt.Sprintf("exit code %d\n", x.wait()) + x.output()
	}
	if !regexp.MustCompile(x.expand(want)).MatchString(got) {
		t.Errorf("ntrack %s\n%s\nwant %s\nits output is\n%s", line, got, want, x.output())
	}
	if other != "" && regexp.MustCompile(x.expand(other)).MatchString(got) {
		t.Errorf("ntrack %s\n%s\nanother value has the same result: %s", line, got, other)
	}
}

// lineWithout removes each --NAME and --NAME VALUE from a command line.
func lineWithout(line, name string) string {
	option := regexp.MustCompile(` --` + name + `( [^-]\S*)?( |$)`)
	return strings.TrimSpace(option.ReplaceAllString(strings.ReplaceAll(line, " --", "  --"), " "))
}
