package commands_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A manager plays systemd's part: it opens sockets, passes them to `ntrack serve`, and gets the state of
// the tracker.
type manager struct {
	sockets []*os.File
	names   string // $LISTEN_FDNAMES
	notify  *net.UnixConn
	env     []string
}

func newManager(t *testing.T, names string, sockets ...*os.File) *manager {
	path := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	return &manager{sockets, names, notify, []string{"NOTIFY_SOCKET=" + path}}
}

// start runs `ntrack serve` with the sockets.
func (m *manager) start(t *testing.T, args ...string) *service {
	// Only the process itself knows the number that $LISTEN_PID must have.
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec ntrack serve "$@"`, "sh"}, args...)...)
	cmd.ExtraFiles = m.sockets
	cmd.Env = append(os.Environ(), m.env...)
	if len(m.sockets) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(m.sockets)), "LISTEN_FDNAMES="+m.names)
	}
	s := &service{cmd: cmd, out: &seen{changed: make(chan struct{})}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.out, s.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL} // without a terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-s.ended
		if t.Failed() {
			t.Logf("%q, %v:\n%s", args, cmd.ProcessState, s.out)
		}
	})
	return s
}

// await waits for a message with this line, and returns the message.
func (m *manager) await(t *testing.T, line string) string {
	t.Helper()
	_ = m.notify.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		n, err := m.notify.Read(b)
		if err != nil {
			t.Fatalf("no %s: %v", line, err)
		}
		if strings.Contains("\n"+string(b[:n])+"\n", "\n"+line+"\n") {
			return string(b[:n])
		}
	}
}

// A service is a running `ntrack serve`.
type service struct {
	cmd   *exec.Cmd
	out   *seen
	ended chan struct{}
}

// wait waits until the service has ended, and returns its exit code.
func (s *service) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-s.ended:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("serve has not ended")
		return 0
	}
}

func (s *service) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// socket opens a socket as systemd does, which is not non-blocking. It returns where it listens.
func socket(t *testing.T, network, addr string) (f *os.File, at string) {
	t.Helper()
	var err error
	if strings.HasPrefix(network, "unixgram") || strings.HasPrefix(network, "udp") {
		var c net.PacketConn
		if c, err = net.ListenPacket(network, addr); err == nil {
			f, err = c.(interface{ File() (*os.File, error) }).File()
			c.Close()
		}
	} else {
		var l net.Listener
		if l, err = net.Listen(network, addr); err == nil {
			at = l.Addr().String()
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			f, err = l.(interface{ File() (*os.File, error) }).File()
			l.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, at
}

// With sockets from systemd, serve opens the default address only if --listen names it.
func TestActivated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	unix, _ := socket(t, "unix", path)
	first, firstAt := socket(t, "tcp4", "127.0.0.1:0")
	every, everyAt := socket(t, "tcp", "[::]:0")
	m := newManager(t, "ntrack.socket:plain:plain", first, every, unix)
	file := filepath.Join(t.TempDir(), "addr")
	for _, c := range []struct {
		args []string
		more int // addresses of --listen
	}{{nil, 0}, {[]string{"--listen", "127.0.0.1:0"}, 1}} {
		s := m.start(t, append(c.args, "--addr-file", file)...)
		m.await(t, "READY=1")
		b, err := os.ReadFile(file)
		got := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		if err != nil || len(got) != 3+c.more || got[0] != firstAt || got[1] != everyAt {
			t.Errorf("serve %q listens at %q, %v", c.args, got, err)
		}
		_, port, _ := net.SplitHostPort(everyAt)
		s.out.await(t, "http "+firstAt+" to this machine; http :"+port+" to everybody; http unix:"+path+" to this machine")
		for _, at := range got {
			network := "tcp"
			if at == "unix:"+path {
				network, at = "unix", path
			}
			if reply, err := ask(network, at); err != nil || !strings.HasPrefix(reply, "HTTP/1.1 200 OK") {
				t.Errorf("%s: %q, %v", at, reply, err)
			}
		}
		s.signal(t, syscall.SIGTERM)
		if code := s.wait(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("systemd's socket is gone: %v", err)
	}
}

// ask announces over a connection of its own, and returns the reply.
func ask(network, at string) (string, error) {
	c, err := net.Dial(network, at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n%s\r\n", forwarded(network)); err != nil {
		return "", err
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(c)
	if b.Len() == 0 && err == nil {
		err = errors.New("no reply")
	}
	return b.String(), err
}

// forwarded is the header field that a proxy must send at a Unix socket.
func forwarded(network string) string {
	if network == "unix" {
		return "X-Forwarded-For: 192.0.2.1\r\n"
	}
	return ""
}

// A socket that the tracker cannot serve is an error, in one line with the remedy.
func TestActivatedWrong(t *testing.T) {
	t.Parallel()
	datagram, _ := socket(t, "udp4", "127.0.0.1:0")
	stream, at := socket(t, "tcp4", "127.0.0.1:0")
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	connection, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	file, err := os.Open("serve.go")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		names   string
		sockets []*os.File
		want    string
	}{
		{"http", []*os.File{stream}, `systemd socket "http": FileDescriptorName must be plain, tls or admin`},
		{"plain:a\x1bb", []*os.File{stream, stream}, `systemd socket "a?b": FileDescriptorName must be plain, tls or admin`},
		{"connection", []*os.File{connection}, "systemd passed a connection instead of a listening socket: remove Accept=yes from the .socket unit"},
		{"plain", []*os.File{datagram}, `systemd socket "plain" does not listen: the .socket unit must have ListenStream=`},
		{"plain", []*os.File{connection}, `systemd socket "plain" does not listen: the .socket unit must have ListenStream=`},
		{"", []*os.File{file}, `systemd socket "LISTEN_FD_3" does not listen: the .socket unit must have ListenStream=`},
	} {
		s := newManager(t, c.names, c.sockets...).start(t)
		if code := s.wait(t); code != 1 || s.out.String() != "ntrack: "+c.want+"\n" {
			t.Errorf("%q: exit code %d\n%swant\nntrack: %s", c.names, code, s.out, c.want)
		}
	}
}

// An address that systemd has opened cannot be opened again. The message says what to do.
func TestActivatedTwice(t *testing.T) {
	t.Parallel()
	f, at := socket(t, "tcp4", "127.0.0.1:0")
	m := newManager(t, "plain", f)
	m.env = append(m.env, "NTRACK_LISTEN="+at)
	s := m.start(t)
	want := "ntrack: $NTRACK_LISTEN " + at + ": another listener of this tracker has this port already; " +
		"if systemd opened it, remove $NTRACK_LISTEN, or its ListenStream= from the .socket unit\n"
	if code := s.wait(t); code != 1 || s.out.String() != want {
		t.Errorf("exit code %d\n%swant\n%s", code, s.out, want)
	}
}

// The sockets and their names are for the process $LISTEN_PID alone.
func TestActivatedOther(t *testing.T) {
	t.Parallel()
	f, at := socket(t, "tcp4", "127.0.0.1:0")
	cmd := exec.Command("ntrack", "serve", "--listen", at)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), "LISTEN_PID=1", "LISTEN_FDS=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is in use") {
		t.Errorf("%v: %s", err, out)
	}
}

// systemd learns when the tracker listens, reads its files again, and ends.
func TestNotify(t *testing.T) {
	t.Parallel()
	m := newManager(t, "")
	s := m.start(t, "--listen", "127.0.0.1:0")
	m.await(t, "READY=1")
	s.out.await(t, "tracker at")
	s.signal(t, syscall.SIGHUP)
	var micros int64
	got := m.await(t, "RELOADING=1")
	_, when, _ := strings.Cut(got, "MONOTONIC_USEC=")
	if _, err := fmt.Sscan(when, &micros); err != nil || micros <= 0 {
		t.Errorf("%q, %v", got, err)
	}
	m.await(t, "READY=1")
	s.signal(t, syscall.SIGTERM)
	if got = m.await(t, "STOPPING=1"); !strings.Contains(got, "EXTEND_TIMEOUT_USEC=") {
		t.Errorf("%q", got)
	}
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// If systemd cannot be reached, the log says so, and the tracker goes on.
func TestNotifyNobody(t *testing.T) {
	t.Parallel()
	m := newManager(t, "")
	m.notify.Close()
	m.env = []string{"NOTIFY_SOCKET=/nowhere/notify"}
	s := m.start(t, "--listen", "127.0.0.1:0")
	s.out.await(t, "cannot report the state to systemd")
	s.signal(t, syscall.SIGTERM)
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
