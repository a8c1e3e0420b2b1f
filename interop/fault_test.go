//go:build linux

package interop_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker/store/valkey/valkeytest"
)

// jumpingClock replaces the beginning of time.Now in Go's package time. The clock of such a program
// is an hour ahead from its sixth second on, an hour behind from the eleventh, and right from the
// sixteenth. Its monotonic clock does not jump, as that of a system does not.
const jumpingClock = `func Now() Time {
	t := steadyNow()
	if t.wall&hasMonotonic == 0 {
		return t
	}
	jumped, mono := t, Duration(t.ext)
	switch {
	case mono > 15*Second:
	case mono > 10*Second:
		jumped = t.Add(-Hour)
	case mono > 5*Second:
		jumped = t.Add(Hour)
	}
	jumped.ext = t.ext
	return jumped
}

func steadyNow() Time {
`

// clockJumps runs a tracker, members and a watcher whose clocks jump. Nobody lapses, no stream ends, and
// nobody waits for longer. Only the Date of replies follows the clock. It is the same if the tracker
// shares its table with another one, whose clock is right: there, nobody seems to leave either.
func clockJumps(t *testing.T, right string) {
	dir := t.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	must(t, err)
	source := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	text, err := os.ReadFile(source)
	must(t, err)
	const first = "func Now() Time {\n"
	if strings.Count(string(text), first) != 1 {
		t.Fatalf("%s has no time.Now that this test knows", source)
	}
	replaced, overlay, bin := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "ntrack")
	must(t, os.WriteFile(replaced, []byte(strings.Replace(string(text), first, jumpingClock, 1)), 0o600))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {source: replaced}})
	must(t, err)
	must(t, os.WriteFile(overlay, list, 0o600))
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", bin, "..").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	t.Run("one tracker", func(t *testing.T) {
		t.Parallel()
		addr := serve(t, bin, "--interval", "4s")
		watchJumps(t, bin, addr, start(t, t.TempDir(), bin, "watch", addr, jumpsKey, "-q"))
	})
	t.Run("a shared table", func(t *testing.T) {
		t.Parallel()
		table := valkeytest.Start(t, valkeytest.Options{}).URL()
		addr := serve(t, bin, "--interval", "4s", "--store", table)
		other := serve(t, right, "--interval", "4s", "--store", table)
		watchJumps(t, bin, addr, start(t, t.TempDir(), right, "watch", other, jumpsKey, "-q"))
	})
}

const jumpsKey = "urn:btih:0123456789abcdef0123456789abcdef01234567" // one track for both kinds of members

// watchJumps lists members at a tracker whose clock jumps. The watcher may be at another tracker.
func watchJumps(t *testing.T, bin, addr string, watcher *program) {
	t.Helper()
	const key = jumpsKey
	member := start(t, t.TempDir(), bin, "announce", addr, key, "--port", "4000", "--stay", "-q")
	watcher.prints(t, "join 127.0.0.1:4000\n")
	poller := start(t, t.TempDir(), bin, "announce", "http://"+addr+"/announce", key, "--port", "4001", "--stay", "-q")
	joined := "join 127.0.0.1:4000\njoin 127.0.0.1:4001\n"
	watcher.prints(t, joined)
	for _, want := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		eventually(t, func() error {
			resp, err := http.Get("http://" + addr + "/ntrk/other?port=0")
			must(t, err)
			resp.Body.Close()
			date, err := http.ParseTime(resp.Header.Get("Date"))
			must(t, err)
			if ahead := time.Until(date).Round(time.Minute); ahead != want {
				return fmt.Errorf("the clock of the tracker is ahead by %v, not %v", ahead, want)
			}
			return nil
		})
	}
	time.Sleep(11 * time.Second) // the ttl, after which a member that has not renewed would lapse
	watcher.prints(t, joined)
	for _, p := range []*program{watcher, member, poller} {
		if notes := p.output(t, "stderr"); notes != "" {
			t.Errorf("%s", notes)
		}
		must(t, p.cmd.Process.Signal(syscall.SIGINT))
	}
}

// killedWhileWriting kills a tracker before it renames the file that it has written. The old file is
// whole, and the next tracker replaces it.
func killedWhileWriting(t *testing.T, bin string) {
	dir := t.TempDir()
	file := filepath.Join(dir, "addr")
	must(t, os.WriteFile(file, []byte("old\n"), 0o600))
	serve := []string{bin, "serve", "--listen", "127.0.0.1:0", "--addr-file", file}
	const calls = "?rename,?renameat,?renameat2"
	p := start(t, dir, "strace", append([]string{"-f", "-qq", "-e", "trace=" + calls, "-e", "inject=" + calls + ":signal=SIGKILL"}, serve...)...)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the tracker has not been killed")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "old\n" {
		t.Errorf("the file has %q, %v", b, err)
	}
	start(t, dir, serve[0], serve[1:]...)
	eventually(t, func() error {
		b, err := os.ReadFile(file)
		must(t, err)
		if _, err := netip.ParseAddrPort(strings.TrimSpace(string(b))); err != nil || !strings.HasSuffix(string(b), "\n") {
			return fmt.Errorf("the file has %q, %v", b, err)
		}
		return nil
	})
}
