package commands_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker/store/valkey/valkeytest"
)

// startDNS starts a tracker with names, and returns its address and that of its names.
func startDNS(t *testing.T, m *manager, args ...string) (s *service, at, names string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "addr")
	s = m.start(t, append([]string{"--listen", "127.0.0.1:0", "--addr-file", file, "--dns", "127.0.0.1:0", "--dns-zone", "peers.example"}, args...)...)
	m.await(t, "READY=1")
	s.out.await(t, "; token")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return s, strings.TrimSpace(string(text)), regexp.MustCompile(`; dns (\S+) `).FindStringSubmatch(s.out.String())[1]
}

// Trackers that share a table answer with each other's peers. While the database is away they answer
// that they have failed, and never that there is nobody.
func TestServeDNSStore(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	_, at, _ := startDNS(t, newManager(t, ""), "--store", engine.URL())
	_, _, names := startDNS(t, newManager(t, ""), "--store", engine.URL())
	if reply, err := http.Get("http://" + at + "/ntrk/lobby?port=4000"); err != nil || reply.StatusCode != 200 {
		t.Fatal(reply, err)
	}
	r := resolver(names)
	_, services, err := r.LookupSRV(t.Context(), "http", "tcp", "lobby.peers.example")
	if err != nil || len(services) != 1 || services[0].Port != 4000 {
		t.Errorf("%v, %v", services, err)
	}
	engine.Suspend()
	defer engine.Resume()
	_, _, err = r.LookupSRV(t.Context(), "http", "tcp", "lobby.peers.example")
	if failed, ok := errors.AsType[*net.DNSError](err); !ok || failed.IsNotFound {
		t.Errorf("without a database: %v", err)
	}
	engine.Resume()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, _, err = r.LookupSRV(t.Context(), "http", "tcp", "lobby.peers.example"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Two --dns cannot have the same port, and the message does not blame another program.
func TestServeDNSTwice(t *testing.T) {
	t.Parallel()
	// Whoever has this port at one address keeps the system from giving it to others at all addresses.
	port := 0
	for port == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			continue
		}
		defer pc.Close()
		port = l.Addr().(*net.TCPAddr).Port
	}
	x := newTrial(t)
	at := fmt.Sprintf("127.0.0.9:%d", port)
	x.start("serve --listen 127.0.0.1:0 --dns-zone peers.example --dns " + at + " --dns " + at)
	if got, want := fmt.Sprintf("exit code %d\n", x.wait())+x.output(), "exit code 1\nntrack: --dns "+at+": another listener of this tracker has this port already\n"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// Names are answered until a drain is over. Then the ports are free, and the exit code is 0.
func TestServeDNSDrain(t *testing.T) {
	t.Parallel()
	m := newManager(t, "")
	s, at, names := startDNS(t, m, "--drain", "2s")
	if reply, err := http.Get("http://" + at + "/ntrk/lobby?port=4000"); err != nil || reply.StatusCode != 200 {
		t.Fatal(reply, err)
	}
	idle, err := net.Dial("tcp", names)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	s.signal(t, syscall.SIGTERM)
	m.await(t, "STOPPING=1")
	if _, err := resolver(names).LookupHost(t.Context(), "lobby.peers.example"); err != nil {
		t.Error(err)
	}
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, s.out.String())
	}
	if text := fmt.Sprint(s.out); strings.Contains(text, "panic") || strings.Contains(text, "accepts no more") {
		t.Error(text)
	}
}
