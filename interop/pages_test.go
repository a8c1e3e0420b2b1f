//go:build linux

package interop_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The programs in docs/clients.md that need no ntrack run here as they are there, except that the
// tracker is on a free port instead of 6969.

// programs returns the blocks of a language in the section "Without ntrack", for a tracker at addr.
func programs(t *testing.T, language, addr string) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/clients.md")
	must(t, err)
	_, section, _ := strings.Cut(string(page), "\n## Without ntrack\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, port, _ := strings.Cut(addr, ":")
	var list []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		list = append(list, strings.ReplaceAll(m[1], "6969", port))
	}
	if len(list) == 0 {
		t.Fatalf("docs/clients.md has no program in %s", language)
	}
	return list
}

// listed waits until the tracker at addr lists these peers under the key room, and no others. It sends
// the header if that is not empty.
func listed(t *testing.T, addr, authorization string, peers ...string) {
	t.Helper()
	eventually(t, func() error {
		status, body := ask(t, "GET", addr, "?port=0&format=text", authorization)
		got := strings.Fields(body)
		slices.Sort(got)
		if status != http.StatusOK || !slices.Equal(got, peers) {
			return fmt.Errorf("status %d, %q; want %q", status, got, peers)
		}
		return nil
	})
}

// ask sends a request for the key room.
func ask(t *testing.T, verb, addr, query, authorization string) (status int, body string) {
	t.Helper()
	return askTarget(t, verb, addr, "/ntrk/room"+query, authorization)
}

// askTarget sends a request for any target.
func askTarget(t *testing.T, verb, addr, target, authorization string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), verb, "http://"+addr+target, nil)
	must(t, err)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	reply, err := http.DefaultClient.Do(request)
	must(t, err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	must(t, err)
	return reply.StatusCode, string(text)
}

func write(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// contains waits until read returns text that contains all of these.
func contains(t *testing.T, read func() string, wanted ...string) {
	t.Helper()
	eventually(t, func() error {
		got := read()
		for _, want := range wanted {
			if !strings.Contains(got, want) {
				return fmt.Errorf("got %q, want %q in it", got, want)
			}
		}
		return nil
	})
}

func curlStream(t *testing.T, bin string) {
	addr := serve(t, bin)
	p := start(t, t.TempDir(), "sh", "-c", "exec "+programs(t, "sh", addr)[0])
	listed(t, addr, "", "127.0.0.1:4000")
	read := func() string { return p.output(t, "stdout") }
	contains(t, read, "event: you\n", "data: 127.0.0.1:4000\n", "event: peers\n", "\ndata: \n")
	ask(t, "GET", addr, "?port=4001", "")
	contains(t, read, "event: join\n", "\ndata: 127.0.0.1:4001\n")
	must(t, p.cmd.Process.Kill())
	listed(t, addr, "", "127.0.0.1:4001")
}

// browse opens a page in a browser. It returns a function that returns what the page's list shows.
func browse(t *testing.T, html string) (shown func() string) {
	t.Helper()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, html)
	}))
	t.Cleanup(site.Close)
	b := openTab(t)
	b.open(t, site.URL)
	return func() (text string) {
		b.run(t, &text, "return list.textContent")
		return text
	}
}

func eventSourcePage(t *testing.T, bin string) {
	addr := serve(t, bin)
	ask(t, "GET", addr, "?port=4001", "")
	shown := browse(t, programs(t, "html", addr)[0])
	shows := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if got := shown(); got != want {
				return fmt.Errorf("the page shows %q, want %q", got, want)
			}
			return nil
		})
	}
	shows("127.0.0.1:4001")
	ask(t, "GET", addr, "?port=4002", "")
	shows("127.0.0.1:4001\n127.0.0.1:4002")
	ask(t, "DELETE", addr, "?port=4001", "")
	shows("127.0.0.1:4002")
	listed(t, addr, "", "127.0.0.1:4002") // the page has not joined
}

func fetchStream(t *testing.T, bin string) {
	addr := serve(t, bin, "--token-file", write(t, "token", "TOKEN"))
	program := programs(t, "js", addr)[0]
	const token = "Bearer TOKEN"
	ask(t, "GET", addr, "?port=4001", token)

	p := start(t, t.TempDir(), "node", write(t, "room.mjs", program))
	node := func() string { return p.output(t, "stdout") }
	contains(t, node, "you 127.0.0.1:4000", "\npeers 127.0.0.1:4001\n")
	listed(t, addr, token, "127.0.0.1:4000", "127.0.0.1:4001")

	page := browse(t, `<pre id="list"></pre><script type="module">
console.log = (...words) => list.textContent += words.join(" ") + "\n"
`+program+"</script>")
	contains(t, page, "you ", "\npeers ", " 127.0.0.1:4000", " 127.0.0.1:4001")
	ask(t, "DELETE", addr, "?port=4001", token)
	contains(t, page, "\nleave 127.0.0.1:4001\n")
	contains(t, node, "\nleave 127.0.0.1:4001\n")
	must(t, p.cmd.Process.Kill())
	contains(t, page, "\nleave 127.0.0.1:4000\n")
	listed(t, addr, token)
}

func fetchOnce(t *testing.T, bin string) {
	addr := serve(t, bin)
	ask(t, "GET", addr, "?port=4001", "")
	stdout, stderr, code := run(t, "node", write(t, "room.mjs", programs(t, "js", addr)[1]))
	if want := "all: [ '127.0.0.1:4001' ]\nothers: [ '127.0.0.1:4001' ]\n"; code != 0 || stdout != want {
		t.Errorf("exit code %d, got\n%s%s\nwant\n%s", code, stdout, stderr, want)
	}
	listed(t, addr, "", "127.0.0.1:4001")
}

// netcat runs the script with nc under dash, and with only BusyBox's programs.
func netcat(t *testing.T, bin string) {
	for _, shell := range []struct {
		name     string
		programs map[string]string // in $PATH, by name
	}{
		{"dash", map[string]string{"sh": "dash", "nc": "nc.openbsd", "od": "od", "tr": "tr", "sed": "sed"}},
		{"busybox", map[string]string{"sh": "busybox", "nc": "busybox", "od": "busybox", "tr": "busybox", "sed": "busybox"}},
	} {
		t.Run(shell.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, program := range shell.programs {
				path, err := exec.LookPath(program)
				must(t, err)
				must(t, os.Symlink(path, filepath.Join(dir, name)))
			}
			addr := serve(t, bin)
			blocks := programs(t, "sh", addr)
			script := write(t, "room.sh", blocks[slices.IndexFunc(blocks, func(b string) bool { return strings.HasPrefix(b, "#!") })])
			for _, tt := range []struct {
				key, port, stdout, stderr string
				code                      int
			}{
				{key: "a b/ü%", port: "4000"},
				{key: "a b/ü%", port: "4001", stdout: "127.0.0.1:4000\n"},
				{key: "a b/ü", port: "4001"},
				{key: "a b/ü", port: "port", stderr: `port "port"`, code: 1},
				{key: "", port: "4000", stderr: "this tracker does not publish", code: 1},
			} {
				stdout, stderr, code := run(t, "env", "PATH="+dir, filepath.Join(dir, "sh"), script, tt.key, tt.port)
				if stdout != tt.stdout || !strings.HasPrefix(stderr, tt.stderr) || (tt.stderr == "") != (stderr == "") || code != tt.code {
					t.Errorf("%q at %s: exit code %d\n%s%s", tt.key, tt.port, code, stdout, stderr)
				}
			}
		})
	}
}

func pythonSocket(t *testing.T, bin string) {
	addr := serve(t, bin, "--index")
	stdout, stderr, code := run(t, "python3", "-c", programs(t, "python", addr)[0])
	if m := regexp.MustCompile(`^others: \[\]\nall: \['127\.0\.0\.1:(\d+)'\]\n$`).FindStringSubmatch(stdout); code != 0 || m == nil {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}
