//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

var madeNamespaces atomic.Int64

// namespace makes a network namespace, which the end of the test removes. It needs root.
func namespace(t *testing.T) (name string) {
	t.Helper()
	switch {
	case os.Getuid() == 0:
	case os.Getenv("NTRACK_INTEROP") == "1":
		t.Fatal("network namespaces need root; .ci/run runs as root")
	default:
		t.Skip("network namespaces need root")
	}
	name = fmt.Sprintf("ntrack-%d-%d", os.Getpid(), madeNamespaces.Add(1))
	ip(t, "netns", "add", name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del: %v\n%s", err, out)
		}
	})
	ip(t, "-n", name, "link", "set", "lo", "up")
	return name
}

// namespaces makes two network namespaces with a cable between them, from veth0 to veth0.
func namespaces(t *testing.T) (a, b string) {
	t.Helper()
	a, b = namespace(t), namespace(t)
	ip(t, "link", "add", "name", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
	for _, name := range []string{a, b} {
		ip(t, "-n", name, "link", "set", "veth0", "up")
	}
	return a, b
}

// ip runs the program ip.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if stdout, stderr, code := run(t, "ip", args...); code != 0 {
		t.Fatalf("ip %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
}

// hosts defines host names in a network namespace: `ip netns exec` shows text as /etc/hosts.
func hosts(t *testing.T, net, text string) {
	t.Helper()
	dir := filepath.Join("/etc/netns", net)
	must(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = errors.Join(os.RemoveAll(dir), os.Remove("/etc/netns")) }) // Remove fails unless it is empty
	must(t, os.WriteFile(filepath.Join(dir, "hosts"), []byte(text), 0o644))
}

// zones puts a tracker and its peers on one cable, with link-local addresses only. Each gives its
// own interface as the zone, in both forms that are in use: %veth0 and %25veth0.
func zones(t *testing.T, bin string) {
	trackerNet, peerNet := namespaces(t)
	ip(t, "-n", trackerNet, "addr", "add", "fe80::1/64", "dev", "veth0", "nodad")
	ip(t, "-n", peerNet, "addr", "add", "fe80::2/64", "dev", "veth0", "nodad")
	in := func(net string, args ...string) []string {
		return append([]string{"netns", "exec", net}, args...)
	}
	peer := func(lines []string, args ...string) {
		t.Helper()
		expect(t, lines, "ip", in(peerNet, append([]string{bin}, args...)...)...)
	}
	hosts(t, peerNet, "fe80::1%veth0 box.example\nfe80::2%veth0 self.example\n")
	file := filepath.Join(t.TempDir(), "addr")
	serve := start(t, t.TempDir(), "ip", in(trackerNet, bin, "serve", "--listen", "[fe80::1%veth0]:6969", "--listen", "[fe80::1%25veth0]:6970", "--addr-file", file)...)
	eventually(t, func() error {
		b, err := os.ReadFile(file)
		if want := "[fe80::1%veth0]:6969\n[fe80::1%veth0]:6970\n"; err == nil && string(b) != want {
			t.Fatalf("--addr-file has\n%swant\n%s", b, want)
		}
		return err
	}, serve)
	said := serve.output(t, "stderr")
	if !strings.Contains(said, "open: http [fe80::1%veth0]:6969 to its network; ") || !strings.Contains(said, "announce [fe80::1%veth0]:6969 lobby") {
		t.Errorf("serve printed\n%s", said)
	}

	watch := start(t, t.TempDir(), "ip", in(peerNet, bin, "watch", "[fe80::1%veth0]:6969", "lobby", "-q")...)
	peer(nil, "announce", "[fe80::1%veth0]:6969", "lobby", "--port", "4000", "-q")
	peer([]string{"[fe80::2]:4000"}, "announce", "[fe80::1%25veth0]:6970", "lobby", "--port", "4001", "-q")
	peer([]string{"[fe80::2]:4000", "[fe80::2]:4001"}, "list", "http://[fe80::1%veth0]:6969", "lobby", "-q")
	said = "join [fe80::2]:4000\njoin [fe80::2]:4001\n"
	watch.prints(t, said)
	peer(nil, "announce", "[fe80::1%veth0]:6969", "lobby", "--from", "[fe80::2%25veth0]:4001", "--leave")
	watch.prints(t, said+"leave [fe80::2]:4001\n")
	if stdout, _, _ := run(t, "ip", in(peerNet, bin, "list", "[fe80::1%veth0]:6969", "lobby", "-o", "json")...); !strings.Contains(stdout, `"tracker":"http://[fe80::1%25veth0]:6969/ntrk/"`) {
		t.Errorf("the tracker is shown as %s", stdout)
	}
	peer(nil, "announce", "http://[fe80::1%25veth0]:6969/announce", "other", "--port", "4000", "-q")
	peer([]string{"[fe80::2]:4000"}, "list", "http://[fe80::1%veth0]:6970/announce", "other", "-q")
	for _, url := range []string{"http://[fe80::1%veth0]:6969", "http://[fe80::1%25veth0]:6969"} {
		expect(t, []string{"[fe80::2]:4000"}, "ip", in(peerNet, "curl", "-sS", "--globoff", url+"/ntrk/lobby?port=0&format=text")...)
	}
	for name, says := range map[string]string{"[fe80::1]:6969": "needs the interface", "[fe80::1%veth9]:6969": "no network interface"} {
		if _, stderr, code := run(t, "ip", in(peerNet, bin, "list", name, "lobby")...); code != 3 || !strings.Contains(stderr, says) {
			t.Errorf("%s: exit code %d\n%s", name, code, stderr)
		}
	}

	// A host name may have a zone, too.
	peer([]string{"[fe80::2]:4000"}, "list", "box.example:6969", "lobby", "-q")

	// A member stays, and runs the tracker itself.
	for i, at := range []string{"[fe80::2%25veth0]:6971", "self.example:6972"} {
		port := fmt.Sprint(4002 + i)
		stay := start(t, t.TempDir(), "ip", in(peerNet, bin, "announce", at, "lobby", "--port", port, "--stay", "--serve", "-q")...)
		eventually(t, func() error {
			return prints(t, []string{"[fe80::2]:" + port}, "ip", in(trackerNet, bin, "list", fmt.Sprintf("[fe80::2%%veth0]:%d", 6971+i), "lobby", "-q")...)
		}, stay)
	}
}

// deadAddress uses a tracker whose name has two addresses. The first one never answers.
func deadAddress(t *testing.T, bin string) {
	trackerNet, peerNet := namespaces(t)
	ip(t, "-n", trackerNet, "addr", "add", "10.0.0.1/24", "dev", "veth0")
	ip(t, "-n", peerNet, "addr", "add", "10.0.0.2/24", "dev", "veth0")
	ip(t, "-n", peerNet, "neigh", "replace", "10.0.0.9", "dev", "veth0", "lladdr", "02:00:00:00:00:99", "nud", "permanent")
	hosts(t, peerNet, "10.0.0.9 two.example\n10.0.0.1 two.example\n")
	file := filepath.Join(t.TempDir(), "addr")
	serve := start(t, t.TempDir(), "ip", "netns", "exec", trackerNet, bin, "serve", "--listen", "10.0.0.1:6969", "--addr-file", file)
	eventually(t, func() error {
		_, err := os.Stat(file)
		return err
	}, serve)
	peer := func(lines []string, args ...string) {
		t.Helper()
		expect(t, lines, "ip", append([]string{"netns", "exec", peerNet, bin}, args...)...)
	}
	peer(nil, "announce", "two.example:6969", "lobby", "--port", "4000", "-q")
	peer([]string{"10.0.0.2:4000"}, "list", "two.example:6969", "lobby", "-q")
	peer([]string{"10.0.0.2:4000"}, "list", "two.example:6969", "lobby", "-q", "--timeout", "1s")
	peer(nil, "announce", "http://two.example:6969/announce", "other", "--from", ":4000", "-q")
	peer(nil, "announce", "two.example:6969", "lobby", "--port", "4000", "--leave")
	peer(nil, "list", "two.example:6969", "lobby", "-q")
}

// withoutIPv6 runs a tracker on a machine where IPv6 is switched off.
func withoutIPv6(t *testing.T, bin string) {
	net, _ := namespaces(t)
	ip(t, "netns", "exec", net, "sh", "-c", "echo 1 | tee /proc/sys/net/ipv6/conf/*/disable_ipv6")
	file := filepath.Join(t.TempDir(), "addr")
	serve := start(t, t.TempDir(), "ip", "netns", "exec", net, bin, "serve", "--listen", ":6969", "--addr-file", file)
	eventually(t, func() error {
		_, err := os.Stat(file)
		return err
	}, serve)
	for _, at := range []string{"localhost", "127.0.0.1:6969"} {
		expect(t, nil, "ip", "netns", "exec", net, bin, "announce", at, "lobby", "--port", "4000", "-q")
	}
	expect(t, []string{"127.0.0.1:4000"}, "ip", "netns", "exec", net, bin, "list", "lobby", "-q")
}
