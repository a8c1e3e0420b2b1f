//go:build linux

package interop_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// silence cuts a member off, as when a cable is pulled: all packets from and to it are dropped. No
// socket closes. So the tracker can notice only by its own limit: what it sends next has to be
// acknowledged within 45 s.
func silence(t *testing.T, bin string) {
	trackerNet, memberNet := namespaces(t)
	in := func(net string, args ...string) []string {
		return append([]string{"netns", "exec", net, bin}, args...)
	}
	ip(t, "-n", trackerNet, "addr", "add", "10.0.0.1/24", "dev", "veth0")
	ip(t, "-n", memberNet, "addr", "add", "10.0.0.2/24", "dev", "veth0")

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

	// Both ends send their frames to an address that nobody has, and receive nothing.
	nowhere := []string{"lladdr", "02:00:00:00:00:99", "nud", "permanent"}
	ip(t, append([]string{"-n", trackerNet, "neigh", "replace", "10.0.0.2", "dev", "veth0"}, nowhere...)...)
	ip(t, append([]string{"-n", memberNet, "neigh", "replace", "10.0.0.1", "dev", "veth0"}, nowhere...)...)
	cut := time.Now()
	watch.prints(t, "join 10.0.0.2:4000\nleave 10.0.0.2:4000\n")
	if took := time.Since(cut); took < 30*time.Second {
		t.Errorf("gone after %v: something other than the silence ended it", took)
	}
	select {
	case <-member.done:
		t.Errorf("the member ended: %v", member.err)
	default:
	}
}
