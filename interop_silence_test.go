//go:build linux

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// silence cuts a member off without a word: from some moment on its packets and those for it are
// dropped, as when a cable is pulled. No socket closes, so only the tracker's own time limit for
// what nobody acknowledges, 45 s from the next thing it sends, can tell.
func silence(t *testing.T, bin string) {
	if os.Getuid() != 0 {
		if os.Getenv("NTRACK_INTEROP") == "1" {
			t.Fatal("network namespaces are for root, as whom .ci/run runs")
		}
		t.Skip("network namespaces are for root")
	}
	trackerNet, memberNet := fmt.Sprintf("ntrack-%d-a", os.Getpid()), fmt.Sprintf("ntrack-%d-b", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if stdout, stderr, code := run(t, "ip", args...); code != 0 {
			t.Fatalf("ip %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
		}
	}
	in := func(net string, args ...string) []string {
		return append([]string{"netns", "exec", net, bin}, args...)
	}
	for _, net := range []string{trackerNet, memberNet} {
		ip("netns", "add", net)
		t.Cleanup(func() {
			if out, err := exec.Command("ip", "netns", "del", net).CombinedOutput(); err != nil {
				t.Errorf("ip netns del: %v\n%s", err, out)
			}
		})
	}
	ip("link", "add", "name", "veth0", "netns", trackerNet, "type", "veth", "peer", "name", "veth0", "netns", memberNet)
	ip("-n", trackerNet, "addr", "add", "10.0.0.1/24", "dev", "veth0")
	ip("-n", memberNet, "addr", "add", "10.0.0.2/24", "dev", "veth0")
	ip("-n", trackerNet, "link", "set", "lo", "up")
	ip("-n", trackerNet, "link", "set", "veth0", "up")
	ip("-n", memberNet, "link", "set", "veth0", "up")

	const at = "10.0.0.1:6969"
	file := filepath.Join(t.TempDir(), "addr")
	serve := start(t, t.TempDir(), "ip", in(trackerNet, "serve", "--listen", at, "--addr-file", file)...)
	eventually(t, func() error {
		_, err := os.Stat(file)
		return err
	}, serve)
	watch := start(t, t.TempDir(), "ip", in(trackerNet, "watch", at, "lobby", "-q")...)
	member := start(t, t.TempDir(), "ip", in(memberNet, "announce", at, "lobby", "--port", "4000", "--stay")...)
	watch.prints(t, "join 10.0.0.2:4000\n")

	// Frames to an address that nobody has: both ends go on, and neither hears anything.
	nowhere := []string{"lladdr", "02:00:00:00:00:99", "nud", "permanent"}
	ip(append([]string{"-n", trackerNet, "neigh", "replace", "10.0.0.2", "dev", "veth0"}, nowhere...)...)
	ip(append([]string{"-n", memberNet, "neigh", "replace", "10.0.0.1", "dev", "veth0"}, nowhere...)...)
	cut := time.Now()
	watch.prints(t, "join 10.0.0.2:4000\nleave 10.0.0.2:4000\n")
	if took := time.Since(cut); took < 30*time.Second {
		t.Errorf("gone after %v: something else than the silence ended it", took)
	}
	select {
	case <-member.done:
		t.Errorf("the member ended: %v", member.err)
	default:
	}
}
