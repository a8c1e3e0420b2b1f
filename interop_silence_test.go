//go:build linux

package main_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// silence cuts a member off without a word: from some moment on its packets and those for it are
// dropped, as when a cable is pulled. No socket closes, so only the tracker's own time limit for
// what nobody acknowledges, 45 s from the next thing it sends, can tell.
func silence(t *testing.T, bin string) {
	trackerNet, memberNet, ip := namespaces(t)
	in := func(net string, args ...string) []string {
		return append([]string{"netns", "exec", net, bin}, args...)
	}
	ip("-n", trackerNet, "addr", "add", "10.0.0.1/24", "dev", "veth0")
	ip("-n", memberNet, "addr", "add", "10.0.0.2/24", "dev", "veth0")

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
