//go:build linux

package interop_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keyFlood runs a tracker in a cgroup of 64 MiB, with no option about memory, and floods it with fresh
// keys, while other clients ask for much and never read. The tracker lives, renewals and peers of keys
// that exist are accepted, and only new keys are refused.
func keyFlood(t *testing.T, bin string) {
	group := newMemoryGroup(t, 64<<20)
	file := filepath.Join(t.TempDir(), "addr")
	tracker := start(t, t.TempDir(), "sh", "-c", `echo $$ >"$0"/cgroup.procs && exec "$@"`, group.dir,
		bin, "serve", "--listen", "127.0.0.1:0", "--addr-file", file, "--proxy", "127.0.0.1", "--interval", "10m")
	var at string
	eventually(t, func() error {
		b, err := os.ReadFile(file)
		at = strings.TrimSpace(string(b))
		return err
	}, tracker)

	honest := &asker{t: t, at: at}
	defer honest.close()
	const members = 50
	for i := range members {
		honest.expect(200, fmt.Sprintf("/ntrk/honest%d?port=1", i), "192.0.2.1")
	}
	for i := range 1000 {
		honest.expect(200, fmt.Sprintf("/ntrk/crowd?port=%d&numwant=0", 1+i), "192.0.2.2")
	}
	for range 200 {
		c, err := net.Dial("tcp", at)
		must(t, err)
		defer c.Close()
		// The tracker may end the connection before it has read all.
		_ = c.SetDeadline(time.Now().Add(time.Second))
		look := "GET /ntrk/crowd?port=0&numwant=1000&format=json HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 192.0.2.3\r\n\r\n"
		_, _ = io.WriteString(c, strings.Repeat(look, 20))
	}

	listed, refused := 0, 0
	for n := 0; refused < 20_000; n += 100 {
		for _, status := range honest.pipeline(100, func(i int) (request, from string) {
			return fmt.Sprintf("GET /ntrk/fresh-key-%010d?port=1&numwant=0", n+i), fmt.Sprintf("198.18.%d.%d", n/1000>>8&255, n/1000&255)
		}) {
			switch status {
			case 200:
				listed++
			case 503:
				refused++
			default:
				t.Fatalf("status %d for a fresh key", status)
			}
		}
		if n > 1_000_000 {
			t.Fatalf("%d of %d fresh keys are listed in 64 MiB", listed, n)
		}
	}
	t.Logf("%d fresh keys are listed, %s", listed, group.usage(t))

	for i := range members {
		honest.expect(200, fmt.Sprintf("/ntrk/honest%d?port=1", i), "192.0.2.1") // a renewal
		honest.expect(200, fmt.Sprintf("/ntrk/honest%d?port=1", i), "192.0.2.4") // a peer of a key that exists
	}
	if resp := honest.expect(503, "/ntrk/one-more-fresh-key?port=1", "192.0.2.5"); resp.Header.Get("Retry-After") == "" {
		t.Errorf("a refusal without Retry-After: %v", resp.Header)
	}
	if n := group.kills(t); n != "0" {
		t.Errorf("the system has killed %s processes, because they took too much memory: %s", n, group.usage(t))
	}
	must(t, tracker.cmd.Process.Signal(syscall.SIGTERM))
	tracker.wait(t)
}

// A memoryGroup is a cgroup with a limit of memory.
type memoryGroup struct {
	dir     string
	version int
}

// newMemoryGroup makes a cgroup below that of the test, or below the root with version 2, where only
// the root may have processes of its own.
func newMemoryGroup(t *testing.T, limit int) memoryGroup {
	t.Helper()
	g, file := memoryGroup{"/sys/fs/cgroup", 2}, "memory.max"
	text, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[1] == "memory" {
			g, file = memoryGroup{"/sys/fs/cgroup/memory", 1}, "memory.limit_in_bytes"
			if own := filepath.Join(g.dir, f[2]); exists(own) { // it does not in some containers
				g.dir = own
			}
		}
	}
	if g.version == 2 {
		_ = os.WriteFile(filepath.Join(g.dir, "cgroup.subtree_control"), []byte("+memory"), 0o644)
	}
	g.dir = filepath.Join(g.dir, fmt.Sprintf("ntrack-test-%d", os.Getpid()))
	err = os.Mkdir(g.dir, 0o755)
	if err == nil {
		t.Cleanup(func() {
			eventually(t, func() error { return os.Remove(g.dir) }) // once the system has taken notice of the end of its processes
		})
		err = os.WriteFile(filepath.Join(g.dir, file), fmt.Append(nil, limit), 0o644)
	}
	switch {
	case err == nil:
	case os.Getenv("NTRACK_INTEROP") == "1":
		t.Fatalf("%v; .ci/run needs root and cgroups that it may make", err)
	default:
		t.Skip(err)
	}
	return g
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, os.ErrNotExist)
}

// kills is how many processes of the cgroup the system has killed for want of memory.
func (g memoryGroup) kills(t *testing.T) string {
	t.Helper()
	name := "memory.oom_control"
	if g.version == 2 {
		name = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(g.dir, name))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n)
		}
	}
	t.Fatalf("%s says nothing about kills:\n%s", name, text)
	return ""
}

// usage says what the cgroup has taken, for a log.
func (g memoryGroup) usage(t *testing.T) string {
	names := []string{"memory.max_usage_in_bytes", "memory.kmem.max_usage_in_bytes", "memory.failcnt"}
	if g.version == 2 {
		names = []string{"memory.peak", "memory.current"}
	}
	var all []string
	for _, name := range names {
		text, _ := os.ReadFile(filepath.Join(g.dir, name))
		all = append(all, name+" "+strings.TrimSpace(string(text)))
	}
	return strings.Join(all, ", ")
}

// An asker makes requests on one connection, as a proxy that forwards them.
type asker struct {
	t    *testing.T
	at   string
	conn net.Conn
	in   *bufio.Reader
}

// pipeline sends n requests at once, and returns the statuses of the replies.
func (a *asker) pipeline(n int, request func(i int) (line, from string)) (statuses []int) {
	a.t.Helper()
	for _, resp := range a.ask(n, request) {
		statuses = append(statuses, resp.StatusCode)
	}
	return statuses
}

func (a *asker) expect(status int, target, from string) *http.Response {
	a.t.Helper()
	resp := a.ask(1, func(int) (string, string) { return "GET " + target, from })[0]
	if resp.StatusCode != status {
		a.t.Errorf("%s from %s: status %d, want %d", target, from, resp.StatusCode, status)
	}
	return resp
}

// ask sends n requests. If the tracker ends the connection to make room for another one, ask connects
// again, as clients do.
func (a *asker) ask(n int, request func(i int) (line, from string)) []*http.Response {
	a.t.Helper()
	var replies []*http.Response
	eventually(a.t, func() (err error) {
		if replies, err = a.try(n, request); err != nil {
			a.close()
			a.conn = nil
		}
		return err
	})
	return replies
}

func (a *asker) try(n int, request func(i int) (line, from string)) (replies []*http.Response, err error) {
	if a.conn == nil {
		c, err := net.Dial("tcp", a.at)
		if err != nil {
			return nil, err
		}
		a.conn, a.in = c, bufio.NewReader(c)
	}
	_ = a.conn.SetDeadline(time.Now().Add(patience))
	var text strings.Builder
	for i := range n {
		line, from := request(i)
		fmt.Fprintf(&text, "%s HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: %s\r\n\r\n", line, from)
	}
	if _, err := io.WriteString(a.conn, text.String()); err != nil {
		return nil, err
	}
	for range n {
		resp, err := http.ReadResponse(a.in, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if err == nil && resp.Close {
			err = fmt.Errorf("the connection was refused with status %d", resp.StatusCode)
		}
		if err != nil {
			return nil, err
		}
		replies = append(replies, resp)
	}
	return replies, nil
}

func (a *asker) close() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}
