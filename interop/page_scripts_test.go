//go:build linux

package interop_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ntrack/tracker/page"
)

// scripts copies the scripts of the page into a directory in which Node takes them for modules.
func scripts(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	must(t, os.CopyFS(dir, page.Files()))
	must(t, os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type": "module"}`), 0o600))
	return dir
}

func pageScripts(t *testing.T, _ string) {
	if stdout, stderr, code := run(t, "node", "testdata/page.mjs", scripts(t)); code != 0 || stdout != "ok\n" {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

// pageCommands runs what the page says about joining a key. Each way has to list a peer under exactly
// this key, whatever a shell would make of it.
func pageCommands(t *testing.T, bin string) {
	addr := serve(t, bin)
	keys := []string{"lobby", "chat/room 1", `it's $HOME "x" \ ` + "`id`;&", "-x", "4000", "localhost:6969", "http://a/b", "a+b=c%20", "☕", "\xff\x00\n"}
	args := []string{"testdata/page.mjs", scripts(t), "http://" + addr + "/"}
	for _, key := range keys {
		args = append(args, url.PathEscape(key))
	}
	stdout, stderr, code := run(t, "node", args...)
	var ways []struct{ Ntrack, Curl, Python string }
	if err := json.Unmarshal([]byte(stdout), &ways); err != nil || len(ways) != len(keys) {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	path := "PATH=" + filepath.Dir(bin) + ":$PATH; export PATH; exec "
	for i, key := range keys {
		target := "/" + strings.ReplaceAll(url.PathEscape(key), "+", "%2B")
		counts := func(want int, p ...*program) {
			t.Helper()
			eventually(t, func() error {
				if status, body := askTarget(t, "GET", addr, "/ntrk"+target+"?port=0&format=json", ""); status != 200 || !strings.Contains(body, fmt.Sprintf(`"count":%d,`, want)) {
					return fmt.Errorf("%q: status %d, %s", key, status, body)
				}
				return nil
			}, p...)
		}
		if (ways[i].Ntrack == "") != (i == len(keys)-1) {
			t.Errorf("%q: the command is %q", key, ways[i].Ntrack)
		}
		for _, command := range []string{ways[i].Ntrack, ways[i].Curl} {
			if command == "" {
				continue
			}
			p := start(t, t.TempDir(), "sh", "-c", path+command)
			counts(1, p)
			must(t, p.cmd.Process.Kill())
			counts(0)
		}
		if stdout, stderr, code := run(t, "python3", "-c", ways[i].Python); code != 0 || stdout != "\n" {
			t.Errorf("%q: exit code %d, %q %s", key, code, stdout, stderr)
		}
		counts(1)
	}
}
