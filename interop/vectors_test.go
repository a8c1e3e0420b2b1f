//go:build linux

package interop_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// playVectors plays the vectors to a tracker from outside. It plays those that need no time: nothing
// in them depends on how busy this machine is. .ci/run plays the others.
func playVectors(t *testing.T, bin string) {
	play, needTime, all := copyVectors(t)
	serve := bin + " serve {options}"

	// numwant-cap and proxy-unix need what ntrack serve has no option for.
	want := fmt.Sprintf("%d passed, 0 failed, %d left out\n", all-needTime-2, needTime+2)
	stdout, stderr, code := run(t, play, "--start", serve, "--max-time", "0")
	if !strings.HasSuffix(stdout, want) || code != 0 {
		t.Errorf("exit code %d, want the last line %q, got\n%s%s", code, want, stdout, stderr)
	}

	// A wrong byte is seen.
	file := filepath.Join(filepath.Dir(play), "tracker", "leave.json")
	leave, err := os.ReadFile(file)
	must(t, err)
	wrong := bytes.Replace(leave, []byte(`"198.51.100.2:2002\n"`), []byte(`"198.51.100.2:2003\n"`), 1)
	if bytes.Equal(wrong, leave) {
		t.Fatalf("%s has changed: choose another byte\n%s", file, leave)
	}
	must(t, os.WriteFile(file, wrong, 0o600))
	stdout, stderr, code = run(t, play, "--start", serve, "leave", "head")
	if !strings.HasPrefix(stdout, "FAILED leave: ") || !strings.Contains(stdout, "step ") || !strings.HasSuffix(stdout, "\n1 passed, 1 failed, 0 left out\n") || code != 1 {
		t.Errorf("with a wrong byte: exit code %d\n%s%s", code, stdout, stderr)
	}

	for _, tt := range []struct {
		start, name    string
		stdout, stderr string // what must be in it
		code           int
	}{
		{"echo no port >&2; exit 3 # {options}", "head", "", "status 3\n", 2},
		{"echo no port >&2; exit 3 # {options}", "head", "", "it wrote: no port\n", 2},
		{"exit 77 # {options}", "head", "", "no tracker", 2},
		{"case '{options}' in *index*) echo no index; exit 77; esac; exec " + serve, "index", "left out index: no index\n0 passed, 0 failed, 1 left out\n", "", 0},
		{serve, "nowhere", "", "called nowhere", 2},
		{bin + " serve", "head", "", "{options}", 2},
	} {
		stdout, stderr, code := run(t, play, "--start", tt.start, tt.name)
		if !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || code != tt.code {
			t.Errorf("%q: exit code %d, want %d, with %q and %q; got\n%s%s", tt.start, code, tt.code, tt.stdout, tt.stderr, stdout, stderr)
		}
	}

	// It kills its trackers when it is ended.
	file = filepath.Join(t.TempDir(), "pids")
	p := start(t, t.TempDir(), play, "--start", "echo $$ >> "+file+"; exec "+serve, "stream-shared")
	var pids []string // of the tracker that shows that the command works, and of the vector's
	eventually(t, func() error {
		b, _ := os.ReadFile(file)
		if pids = strings.Fields(string(b)); len(pids) < 2 {
			return fmt.Errorf("it has started %d trackers", len(pids))
		}
		return nil
	}, p)
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("after SIGTERM: exit code %d, want 2", code)
	}
	for _, pid := range pids {
		n, err := strconv.Atoi(pid)
		must(t, err)
		if err := syscall.Kill(n, 0); err != syscall.ESRCH {
			t.Errorf("after SIGTERM tracker %d still runs: %v", n, err)
		}
	}
}

// copyVectors copies play.py and its vectors, and returns the copy of play.py. It counts the vectors
// that need time, and all of them.
func copyVectors(t *testing.T) (play string, needTime, all int) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../testdata/vectors")))
	files, err := filepath.Glob(filepath.Join(dir, "tracker", "*.json"))
	must(t, err)
	for _, file := range files {
		b, err := os.ReadFile(file)
		must(t, err)
		var vector struct{ Steps []struct{ At int } }
		must(t, json.Unmarshal(b, &vector))
		for _, step := range vector.Steps {
			if step.At > 0 {
				needTime++
				break
			}
		}
	}
	return filepath.Join(dir, "play.py"), needTime, len(files)
}
