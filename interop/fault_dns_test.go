//go:build linux

package interop_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A nameServer knows the address of every name, unless it is in another mode.
type nameServer struct {
	addr netip.Addr
	mode atomic.Int32 // a response code of DNS, or silent
}

const (
	answers    = 0
	misbehaves = 2 // SERVFAIL
	knowsNone  = 3 // NXDOMAIN
	silent     = -1
)

// serve answers until c is closed.
func (s *nameServer) serve(c net.PacketConn) {
	b := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if reply := s.reply(b[:n]); reply != nil {
			_, _ = c.WriteTo(reply, from)
		}
	}
}

// reply answers one question (RFC 1035, section 4.1).
func (s *nameServer) reply(query []byte) []byte {
	end := 12
	for end < len(query) && query[end] > 0 {
		end += 1 + int(query[end])
	}
	mode := s.mode.Load()
	if end += 5; end > len(query) || mode == silent {
		return nil
	}
	reply := append(append([]byte{}, query[:2]...), 0x81, 0x80|byte(mode), 0, 1, 0, 0, 0, 0, 0, 0)
	reply = append(reply, query[12:end]...)
	if kind := binary.BigEndian.Uint16(query[end-4:]); kind == 1 && mode == answers { // the type A
		reply[7] = 1
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, s.addr.AsSlice()...)
	}
	return reply
}

// listenIn listens in a network namespace.
func listenIn(t *testing.T, netns, addr string) net.PacketConn {
	t.Helper()
	runtime.LockOSThread() // the thread ends with its goroutine if it stays in the namespace
	own, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	defer own.Close()
	other, err := os.Open("/run/netns/" + netns)
	must(t, err)
	defer other.Close()
	must(t, unix.Setns(int(other.Fd()), unix.CLONE_NEWNET))
	c, err := net.ListenPacket("udp", addr)
	must(t, errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)))
	runtime.UnlockOSThread()
	t.Cleanup(func() { c.Close() })
	return c
}

// dnsGone takes DNS away from a member. While it is gone, the tracker is killed, and started again. The
// member returns by the address that DNS gave last, and a watcher that needs no DNS sees no leave.
func dnsGone(t *testing.T, bin string) {
	trackerNet, peerNet := namespaces(t)
	ip(t, "-n", trackerNet, "link", "set", "lo", "up")
	ip(t, "-n", trackerNet, "addr", "add", "10.0.0.1/24", "dev", "veth0")
	ip(t, "-n", peerNet, "addr", "add", "10.0.0.2/24", "dev", "veth0")
	hosts(t, peerNet, "127.0.0.1 localhost\n")
	must(t, os.WriteFile(filepath.Join("/etc/netns", peerNet, "resolv.conf"), []byte("nameserver 10.0.0.1\n"), 0o644))
	dns := &nameServer{addr: netip.MustParseAddr("10.0.0.1")}
	go dns.serve(listenIn(t, trackerNet, "10.0.0.1:53"))

	in := func(netns string, args ...string) []string {
		return append([]string{"netns", "exec", netns, bin}, args...)
	}
	serve := func() *program {
		file := filepath.Join(t.TempDir(), "addr")
		p := start(t, t.TempDir(), "ip", in(trackerNet, "serve", "--listen", "10.0.0.1:6969", "--interval", "12s", "--addr-file", file)...)
		eventually(t, func() error {
			_, err := os.Stat(file)
			return err
		}, p)
		return p
	}
	tracker := serve()
	watcher := start(t, t.TempDir(), "ip", in(trackerNet, "watch", "10.0.0.1:6969", "lobby", "-q")...)

	// Without DNS nobody can begin. The message says that it is DNS.
	for mode, says := range map[int32]string{
		misbehaves: "DNS fails: server misbehaving; check whether this machine reaches its name server",
		knowsNone:  "no such host; check the name",
		silent:     "DNS does not answer; check whether this machine reaches its name server",
	} {
		dns.mode.Store(mode)
		_, stderr, code := run(t, "ip", in(peerNet, "list", "tracker.example:6969", "lobby")...)
		if code != 3 || !strings.Contains(stderr, "tracker tracker.example:6969 is unreachable: "+says) {
			t.Errorf("mode %d: exit code %d\n%s", mode, code, stderr)
		}
	}

	dns.mode.Store(answers)
	member := start(t, t.TempDir(), "ip", in(peerNet, "announce", "tracker.example:6969", "lobby", "--port", "4000", "--stay")...)
	joined := "join 10.0.0.2:4000\n"
	watcher.prints(t, joined)
	for _, mode := range []int32{misbehaves, silent} {
		dns.mode.Store(mode)
		must(t, tracker.cmd.Process.Kill())
		<-tracker.done
		tracker = serve()
		eventually(t, func() error {
			return prints(t, []string{"10.0.0.2:4000"}, "ip", in(trackerNet, "list", "10.0.0.1:6969", "lobby", "-q")...)
		}, member, tracker)
	}
	if got := watcher.output(t, "stdout"); got != joined {
		t.Errorf("a watcher printed\n%s", got)
	}
}
