//go:build linux

package interop_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// varnish, with its default settings, holds the beginning of a stream back for 15 s. At a half-close
// it closes the connection to the client, but keeps the one to the tracker.
func varnish(t *testing.T, bin string) {
	tracker, port := serve(t, bin, "--proxy", "127.0.0.1"), freePort(t)
	p := start(t, t.TempDir(), "varnishd", "-F", "-j", "none", "-n", t.TempDir(), "-s", "malloc,16m",
		"-a", "127.0.0.1:"+port, "-b", tracker)
	throughProxy(t, bin, "127.0.0.1:"+port, tracker, p)
}

// throughProxy has members join through a proxy and leave in every way. None of them may be listed
// after it has ended.
func throughProxy(t *testing.T, bin, through, tracker string, proxy *program) {
	eventually(t, func() error { return prints(t, nil, bin, "list", through, "hk", "-q") }, proxy)
	stay := []string{"announce", through, "hk", "--port", "4555", "--stay"}
	for _, way := range []struct {
		name   string
		args   []string
		joined bool // end it only after it has printed that it has joined, not as soon as it is listed
		signal syscall.Signal
		code   int
	}{
		{"announce --stay", stay, false, syscall.SIGINT, 130},
		{"announce --stay, joined", stay, true, syscall.SIGINT, 130},
		{"announce --stay, TERM", stay, false, syscall.SIGTERM, 143},
		{"watch --port", []string{"watch", through, "hk", "--port", "4555"}, false, syscall.SIGINT, 130},
		{"watch --min", []string{"watch", through, "hk", "--port", "4555", "--min", "9"}, false, syscall.SIGINT, 130},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := start(t, t.TempDir(), bin, way.args...)
			eventually(t, func() error {
				if way.joined && p.output(t, "stdout") == "" {
					return errors.New("it has not joined")
				}
				return prints(t, endpoints("4555"), bin, "list", tracker, "hk", "-q")
			}, proxy, p)
			must(t, p.cmd.Process.Signal(way.signal))
			select {
			case <-p.done:
			case <-time.After(patience):
				t.Fatalf("has not ended after %v", patience)
			}
			if code := p.cmd.ProcessState.ExitCode(); code != way.code {
				t.Errorf("exit code %d, want %d", code, way.code)
			}
			if notes := p.output(t, "stderr"); strings.Contains(notes, "could not") || strings.Contains(notes, "unreachable") {
				t.Errorf("%s", notes)
			}
			expect(t, nil, bin, "list", tracker, "hk", "-q")
		})
	}
}
