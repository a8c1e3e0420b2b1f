//go:build unix && !aix && !solaris

package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testOffset is the lockOffset of all members in these tests: the largest one.
const testOffset = 1<<62 - 1

// TestMemberProcess is not a test. It is the process of a [member], and reads commands from its
// standard input.
func TestMemberProcess(*testing.T) {
	if os.Getenv("NTRACK_TEST_MEMBER") == "" {
		return
	}
	m, err := openMembers()
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "enter":
			fmt.Println("enters")
			fmt.Println("others:", m.enter(ctx, testOffset))
		case "leave":
			fmt.Println("others:", m.leave(testOffset))
		}
	}
}

// A member is another process with the same endpoint.
type member struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startMember(t *testing.T, dir string) *member {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	m := &member{t: t, cmd: exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMemberProcess$")}
	m.cmd.Env = append(os.Environ(), "NTRACK_TEST_MEMBER=1", "TMPDIR="+dir)
	var err error
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.out = bufio.NewScanner(out)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.end)
	return m
}

func (m *member) send(command string) { _, _ = io.WriteString(m.in, command+"\n") }

func (m *member) expect(want string) {
	m.t.Helper()
	for m.out.Scan() && m.out.Text() == "enters" {
	}
	if got := m.out.Text(); got != "others: "+want {
		m.t.Errorf("%q, want others: %s", got, want)
	}
}

func (m *member) do(command, want string) {
	m.t.Helper()
	m.send(command)
	m.expect(want)
}

func (m *member) end() {
	_ = m.in.Close()
	_, _ = io.Copy(io.Discard, m.cmd.Stdout.(io.Reader))
	_ = m.cmd.Wait()
}

// Of several members only the last one leaves, in whatever order they leave.
func TestMembers(t *testing.T) {
	dir := t.TempDir()
	one, two, three := startMember(t, dir), startMember(t, dir), startMember(t, dir)
	one.do("enter", "false")
	two.do("enter", "true")
	three.do("enter", "true")
	one.do("leave", "true")
	one.do("leave", "true") // a client leaves over each address family
	_ = three.cmd.Process.Kill()
	_ = three.cmd.Wait()
	two.do("leave", "false") // although the process of one has not ended
	two.do("leave", "false")

	// A member that enters while the last one leaves waits until that process ends.
	four := startMember(t, dir)
	four.send("enter")
	four.out.Scan() // four prints "enters" just before it waits
	two.end()
	four.expect("false")
	four.do("leave", "false")
	five := startMember(t, dir)
	five.do("enter", "true") // after leaveTime, because four does not end
	four.end()
	one.do("leave", "true") // the same answer as before, although no other member remains
}

// The file must belong to this user.
func TestMembersFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	m, err := openMembers()
	if err != nil {
		t.Fatal(err)
	}
	name := m.file.Name()
	if info, err := m.file.Stat(); err != nil || info.Mode() != 0o600 || info.Size() != 0 {
		t.Errorf("%s: %v, %v", name, info, err)
	}
	_ = m.file.Close()
	for about, create := range map[string]func() error{
		"a link":      func() error { return os.Symlink(filepath.Join(dir, "elsewhere"), name) },
		"a directory": func() error { return os.Mkdir(name, 0o700) },
		"a pipe":      func() error { return exec.Command("mkfifo", name).Run() },
	} {
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
		if err := create(); err != nil {
			t.Fatal(err)
		}
		if m, err := openMembers(); err == nil {
			t.Errorf("openMembers has opened %s", about)
			_ = m.file.Close()
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("openMembers has followed a link")
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.RemoveAll(name), os.WriteFile(name, nil, 0o666), os.Chown(name, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := openMembers(); err == nil {
			t.Error("openMembers has opened another user's file")
		}
	}
	t.Setenv("TMPDIR", filepath.Join(dir, "missing"))
	if _, err := openMembers(); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("openMembers in a missing directory: %v", err)
	}
}
