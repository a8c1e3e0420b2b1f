package commands_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles changes how many files a process may have open, and returns the former limit.
func limitFiles(t *testing.T, p *os.Process, most uint64) (before uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return old.Cur
}

// A tracker has no descriptor left. It serves its connections, keeps its tokens although it cannot read
// them again, and says so. Once there are descriptors it accepts the connections that have waited.
func TestFaultServeOutOfFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tokens, file := filepath.Join(dir, "tokens"), filepath.Join(dir, "addr")
	write := func(text string) {
		if err := os.WriteFile(tokens, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	m := newManager(t, "")
	s := m.start(t, "--listen", "127.0.0.1:0", "--addr-file", file, "--token-file", tokens)
	m.await(t, "READY=1")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimSpace(string(b))
	list := func() (*exec.Cmd, *seen) {
		out := &seen{changed: make(chan struct{})}
		cmd := exec.Command("ntrack", "list", at, "k", "--token-file", tokens, "--timeout", "20s")
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, out
	}
	cmd, out := list()
	if err := cmd.Run(); err != nil { // the tracker now accepts
		t.Fatalf("%v\n%s", err, out)
	}
	before := limitFiles(t, s.cmd.Process, 3)
	waits, out := list()
	if err := waits.Start(); err != nil {
		t.Fatal(err)
	}
	s.out.await(t, "no connection can be accepted: too many open files")
	write("second\n")
	s.signal(t, syscall.SIGHUP)
	s.out.await(t, "too many open files; the tokens stay")
	limitFiles(t, s.cmd.Process, before)
	if err := waits.Wait(); err != nil {
		t.Errorf("a client that waited: %v\n%s", err, out)
	}
	s.signal(t, syscall.SIGHUP)
	s.out.await(t, "the tokens have been read again")
	if cmd, out = list(); cmd.Run() != nil {
		t.Errorf("a client with the new token: %v\n%s", cmd.ProcessState, out)
	}
	s.signal(t, syscall.SIGTERM)
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A member has no descriptor left when its tracker starts again. It says so, and joins once it has one.
func TestFaultStayOutOfFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "addr")
	m := newManager(t, "")
	s := m.start(t, "--listen", "127.0.202.1:0", "--addr-file", file)
	m.await(t, "READY=1")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimSpace(string(b))
	out := &seen{changed: make(chan struct{})}
	member := exec.Command("ntrack", "announce", at, "k", "--port", "4000", "--stay")
	member.Stdout, member.Stderr = out, out
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = member.Process.Kill()
		_ = member.Wait()
	}()
	out.await(t, "127.0.0.1:4000")
	before := limitFiles(t, member.Process, 3)
	s.signal(t, syscall.SIGKILL)
	<-s.ended
	m.start(t, "--listen", at)
	m.await(t, "READY=1")
	out.await(t, "is unreachable: too many open files; trying again")
	limitFiles(t, member.Process, before)
	out.await(t, "the tracker is back")
}

// A watch keeps a file true on a disk that is full for a while. It says so, the file stays as it is,
// nothing is left beside it, and it is true again once there is room.
func TestFaultFileOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr, file := filepath.Join(dir, "addr"), filepath.Join(dir, "to", "peers")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	m := newManager(t, "")
	m.start(t, "--listen", "127.0.0.1:0", "--addr-file", addr, "--interval", "1m") // peers that last
	m.await(t, "READY=1")
	b, err := os.ReadFile(addr)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimSpace(string(b))
	announce := func(port string) {
		if out, err := exec.Command("ntrack", "announce", at, "k", "--port", port).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	announce("4000")
	out := &seen{changed: make(chan struct{})}
	watch := exec.Command("ntrack", "watch", at, "k", "--format", "{{.Port}}", "--to", file, "--exec", "echo has $(cat "+file+")")
	watch.Stdout, watch.Stderr = out, out
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = watch.Process.Kill()
		_ = watch.Wait()
	}()
	out.await(t, "has 4000\n")
	var old unix.Rlimit
	if err := unix.Prlimit(watch.Process.Pid, unix.RLIMIT_FSIZE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(watch.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	announce("4001")
	out.await(t, "ntrack: --to "+file+": file too large; the file stays as it is; trying again in 1s, or when the list changes\n")
	if text, err := os.ReadFile(file); err != nil || string(text) != "4000\n" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("beside the file there are %v, %v", entries, err)
	}
	if err := unix.Prlimit(watch.Process.Pid, unix.RLIMIT_FSIZE, &old, nil); err != nil {
		t.Fatal(err)
	}
	out.await(t, "has 4000 4001\n")
}
