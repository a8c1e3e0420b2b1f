//go:build linux

package interop_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// connections connects from two addresses to trackers that accept two connections from each.
// Loopback addresses have no such limit, so both are in a network namespace.
func connections(t *testing.T, bin string) {
	netns := namespace(t)
	ip(t, "-n", netns, "addr", "add", "192.0.2.1/32", "dev", "lo")
	ip(t, "-n", netns, "addr", "add", "192.0.2.2/32", "dev", "lo")
	in := func(args ...string) []string { return append([]string{"netns", "exec", netns}, args...) }

	for _, tt := range []struct {
		port   string
		option []string
		code   int // exit code of the command that opens a third connection from one address
	}{
		{"6969", []string{"--max-conns-per-addr", "2"}, 4},
		{"6970", []string{"--max-conns-per-addr", "2", "--proxy", "192.0.2.1"}, 0},
		{"6971", []string{"--max-conns-per-addr", "0"}, 0},
		{"6972", []string{"--max-conns", "9"}, 4},
	} {
		at, file := "192.0.2.1:"+tt.port, filepath.Join(t.TempDir(), "addr")
		args := append([]string{bin, "serve", "--listen", at, "--addr-file", file}, tt.option...)
		serve := start(t, t.TempDir(), "ip", in(args...)...)
		eventually(t, func() error {
			_, err := os.Stat(file)
			return err
		}, serve)
		for i := range 2 {
			port := fmt.Sprint(4000 + i)
			watch := start(t, t.TempDir(), "ip", in(bin, "watch", at, "lobby", "--port", port, "-q")...)
			eventually(t, func() error {
				stdout, _, _ := run(t, "ip", in("curl", "-s", "--interface", "192.0.2.2",
					"http://"+at+"/ntrk/lobby?port=0&format=text")...)
				if !strings.Contains(stdout, ":"+port+"\n") {
					return fmt.Errorf("%s is not listed: %q", port, stdout)
				}
				return nil
			}, serve, watch)
		}
		stdout, stderr, code := run(t, "ip", in(bin, "list", at, "lobby", "-q")...)
		if code != tt.code || code != 0 && !strings.Contains(stderr, "too many connections") {
			t.Errorf("%v: exit code %d, not %d: %s%s", tt.option, code, tt.code, stdout, stderr)
		}
		logged := serve.output(t, "stderr")
		if strings.Contains(logged, " connections from its address are open") != (tt.code != 0) {
			t.Errorf("%v: logged %s", tt.option, logged)
		}
	}
}
