package commands_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openPTY makes a pseudo-terminal, and returns its two ends: user for the test, tty for programs.
func openPTY(t *testing.T) (user, tty *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	rc, err := user.SyscallConn() // Fd would make the file block, and Close would wait for Read
	if err != nil {
		t.Fatal(err)
	}
	ctlErr := rc.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || ctlErr != nil {
		t.Fatal(err, ctlErr)
	}
	if tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return user, tty
}

// A console is a commandTest on a pseudo-terminal. It collects the text that programs write there.
type console struct {
	commandTest
	keys, tty *os.File // the ends of the pseudo-terminal; the test writes keys to keys
	mu        sync.Mutex
	text      bytes.Buffer
}

func newConsole(t *testing.T) *console {
	keys, tty := openPTY(t)
	term := &console{commandTest: newCommandTest(t), keys: keys, tty: tty}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := keys.Read(b)
			term.mu.Lock()
			term.text.Write(b[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = keys.Close()
		_ = tty.Close()
		<-read
	})
	return term
}

// run starts a program with this terminal as its controlling terminal.
func (t *console) run(program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.tty, t.tty, t.tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	t.start(cmd)
	return cmd
}

func (t *console) press(keys string) {
	t.Helper()
	if _, err := t.keys.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// shows waits until the terminal has shown a match of pattern, and returns the last submatch.
func (t *console) shows(pattern string) string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	var m []string
	t.until("the terminal shows "+pattern, func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		m = re.FindStringSubmatch(t.text.String())
		return m != nil
	})
	return m[len(m)-1]
}

// On a terminal, a key such as Ctrl-C sends one signal to the command: the terminal signals ntrack
// and the command, and ntrack does not pass the signal on. ntrack does not end before the command.
func TestCommandTerminalKeys(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", term.args(term.listener()...)...)
	term.shows(`^listener \d+`)
	term.listed(1)
	// ntrack is stopped until the command has handled the key. So if ntrack passed the signal on, the
	// command would receive two signals, and the kernel could not merge them.
	for keys, shown := range map[string]string{"\x03": `interrupt\r`, "\x1c": `quit\r`} {
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		term.press(keys)
		term.shows(shown)
		_ = cmd.Process.Signal(syscall.SIGCONT)
	}
	// ntrack passes on signals that no key sends.
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		term.shows("^" + s.String())
	}
	term.ends(cmd, 3)
	term.listed(0)
	for _, s := range []string{"interrupt", "quit"} {
		if n := strings.Count(term.text.String(), s); n != 1 {
			t.Errorf("the command got %q %d times\n%s", s, n, &term.text)
		}
	}
	if strings.Contains(term.text.String(), "ntrack: ") {
		t.Errorf("ntrack printed a note\n%s", &term.text)
	}
}

// On a terminal, ntrack does not pass on the first signal of a kind that a key may have sent. It
// passes on the second one.
func TestCommandTerminalKill(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", term.args(term.listener()...)...)
	term.shows(`^listener \d+`)
	kinds := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH, syscall.SIGCONT}
	for _, last := range []syscall.Signal{64, syscall.SIGTERM} {
		for _, s := range append(kinds, last) {
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			if last == syscall.SIGTERM {
				term.shows("^" + s.String())
			}
		}
		term.shows("^" + last.String())
	}
	term.ends(cmd, 3)
	for _, s := range kinds {
		if n := strings.Count(term.text.String(), s.String()+"\r"); n != 1 {
			t.Errorf("the command got %q %d times\n%s", s, n, &term.text)
		}
	}
}

// In the background ntrack passes on each signal, because no key has sent it.
func TestCommandTerminalBackground(t *testing.T) {
	term := newConsole(t)
	script := `set -m; ntrack "$@" & echo "ntrack $!"; wait $!; echo "ended $?"`
	cmd := term.run("bash", append([]string{"-c", script, "bash"}, term.args(term.listener()...)...)...)
	pid, err := strconv.Atoi(term.shows(`^ntrack (\d+)`))
	if err != nil {
		t.Fatal(err)
	}
	term.shows(`^listener \d+`)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGWINCH, syscall.SIGTERM} {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		term.shows("^" + s.String())
	}
	term.shows(`^ended 3`)
	term.ends(cmd, 0)
}

// On a terminal, `ntrack serve` ends when the terminal is closed.
func TestServeTerminalClosed(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", "serve", "--listen", "127.0.0.1:0")
	term.shows(`ntrack list `)
	_ = term.keys.Close()
	term.ends(cmd, 129)
}

// Ctrl-Z stops ntrack and the command, and fg resumes both.
func TestCommandTerminalStop(t *testing.T) {
	term := newConsole(t)
	script := `set -m; ntrack "$@"; echo "stopped $?"; read x; fg; echo "ended $?"`
	cmd := term.run("bash", append([]string{"-c", script, "bash"}, term.args(term.listener()...)...)...)
	pid := term.shows(`^listener (\d+)`)
	term.listed(1)
	term.press("\x1a")
	term.shows(`^stopped 148`)
	term.state(pid, "T")
	term.press("\n")
	term.state(pid, "S")
	term.press("\x03")
	term.shows(`interrupt\r`)
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	term.shows(`^ended 3`)
	term.ends(cmd, 0)
	term.listed(0)
}

// A terminal that is closed sends a signal only to the leader of its session. If ntrack is this
// leader, the command ends, too.
func TestCommandTerminalClosed(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", append([]string{"announce", "--ready", "none"}, term.args("tail", "-f", "/dev/null")[1:]...)...)
	term.listed(1)
	_ = term.keys.Close()
	term.ends(cmd, 129)
	term.listed(0)
}

// On a terminal, `watch --min` shows who is there until all are. Then its COMMAND has the terminal for
// itself.
func TestJobTerminal(t *testing.T) {
	t.Parallel()
	term := newConsole(t)
	cmd := term.run("env", "TERM=xterm", "ntrack", "watch", term.tracker.HostPort(), "lobby", "--port", "4000", "--min", "2", "--on-leave", "kill", "--",
		"sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo begun; exec tail -f /dev/null")
	term.shows("1 of 2 peers")
	other := exec.Command("ntrack", "announce", term.tracker.HostPort(), "lobby", "--port", "4001", "--stay")
	term.start(other)
	term.shows("begun\r$")
	_ = other.Process.Kill()
	term.shows("ntrack: lost 127.0.0.1:4001: ending sh, because of --on-leave kill\r$")
	term.ends(cmd, 6)
}
