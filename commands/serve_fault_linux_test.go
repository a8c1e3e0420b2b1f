package commands_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// If a listening socket dies, the tracker could go on without anybody noticing that it is deaf. So it
// ends its streams as at any end, names the address and exits with 1, and systemd starts it again.
func TestFaultListenerDies(t *testing.T) {
	t.Parallel()
	options := newCertificate(t).options()
	for _, name := range []string{"plain", "tls", "admin"} {
		dies, dead := socket(t, "tcp", "127.0.0.1:0")
		stays, at := socket(t, "tcp", "127.0.0.1:0")
		m := newManager(t, name+":plain", dies, stays)
		s := m.start(t, append(options, "--listen-tls", "127.0.0.1:0")...)
		m.await(t, "READY=1")
		stream, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		_ = stream.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(stream, "GET /ntrk/k?port=0 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		events := bufio.NewReader(stream)
		if line, err := events.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
		shutdownSocket(t, dies)
		m.await(t, "STOPPING=1")
		if code := s.wait(t); code != 1 {
			t.Errorf("%s: exit code %d", name, code)
		}
		s.out.await(t, "ntrack: the socket at "+dead+" accepts no more connections: ")
		s.out.await(t, "; start the tracker again\n")
		if text, err := io.ReadAll(events); err != nil || !strings.Contains(string(text), "\nretry: ") {
			t.Errorf("%s: a stream at another socket ended with %q, %v", name, text, err)
		}
	}
}

// shutdownSocket shuts a socket down that another process has, too.
func shutdownSocket(t *testing.T, f *os.File) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
}
