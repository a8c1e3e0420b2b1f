package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/announce"
	"ntrack/commands"
	"ntrack/tracker"
)

// What scripts cannot do about a command under `ntrack announce`: terminals, signals of every kind,
// and what is left when ntrack is killed.

// commandTest is a tracker, and a port for a service.
type commandTest struct {
	*testing.T
	tracker announce.Tracker
	port    string
}

func newCommandTest(t *testing.T) commandTest {
	srv := httptest.NewServer(tracker.Handler(new(tracker.Tracker)))
	t.Cleanup(srv.Close)
	at, err := announce.ParseTracker(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return commandTest{t, at, port}
}

// args is the command line that runs the command.
func (t commandTest) args(command ...string) []string {
	return append([]string{"announce", t.tracker.HostPort(), "lobby", "--port", t.port, "--"}, command...)
}

func (t commandTest) listener() []string { return []string{"listener", "tcp", "127.0.0.1:" + t.port} }

// start runs a program until the test ends. Neither it nor the service may get signals that are not
// sent: Go's runtime does not preempt.
func (t commandTest) start(cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GORACE=atexit_sleep_ms=0", "LC_ALL=C")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() }) // whoever waits for it fails
	t.Cleanup(func() {
		timer.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// ends waits until it ends.
func (t commandTest) ends(cmd *exec.Cmd, code int) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); exitCode(err) != code {
		t.Fatalf("ended with %v, want exit code %d", err, code)
	}
}

// listed waits until the tracker lists so many peers.
func (t commandTest) listed(n int) {
	t.Helper()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		t.Fatal(err)
	}
	var c announce.Client
	defer c.Close()
	t.until(fmt.Sprint(n, " peers are listed"), func() bool {
		reply, err := c.List(t.Context(), t.tracker, key, 0)
		return err == nil && len(reply.Peers) == n
	})
}

func (t commandTest) until(what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// line is the next line that is read; it returns the last submatch.
func (t commandTest) line(r *bufio.Reader, want string) string {
	t.Helper()
	line, err := r.ReadString('\n')
	m := regexp.MustCompile("^" + want + "$").FindStringSubmatch(strings.TrimSpace(line))
	if err != nil || m == nil {
		t.Fatalf("read %q, %v; want %s", line, err, want)
	}
	return m[len(m)-1]
}

// state waits until a process is in a state: T when it is stopped.
func (t commandTest) state(pid, want string) {
	t.Helper()
	t.until("process "+pid+" is in state "+want, func() bool {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		return err == nil && strings.HasPrefix(rest, want)
	})
}

// Without a terminal each signal comes on, to all of the command's process group, once. Those that
// are about ntrack itself do not.
func TestCommandSignals(t *testing.T) {
	ct := newCommandTest(t)
	// The shell of this command ignores what it is sent; the service next to it does not.
	ignore := "for s in " + numbers(allSignals()) + "; do [ $s = 15 ] || trap '' $s; done; "
	cmd := exec.Command("ntrack", ct.args("sh", "-c", ignore+`"$@"; exit 5`, "sh", "listener", "tcp", "127.0.0.1:"+ct.port)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ct.start(cmd)
	lines := bufio.NewReader(out)
	ct.line(lines, `listener \d+`)
	ct.listed(1)
	for _, s := range append(allSignals(), syscall.SIGINT, syscall.SIGUSR2, syscall.SIGUSR2) {
		if s == syscall.SIGTERM {
			continue
		}
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		switch s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGXFSZ, syscall.SIGPROF:
		default:
			ct.line(lines, s.String())
		}
	}
	ct.listed(1)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ct.line(lines, "terminated")
	ct.ends(cmd, 143) // the shell, which does not ignore that
	ct.listed(0)
}

// allSignals are those that a process can get while nothing is wrong with it, but for those that
// stop it.
func allSignals() []syscall.Signal {
	var signals []syscall.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		switch {
		case s == syscall.SIGKILL, s == syscall.SIGSTOP, s == syscall.SIGTSTP, s == syscall.SIGTTIN, s == syscall.SIGTTOU:
		case s == syscall.SIGSEGV, s == syscall.SIGBUS, s == syscall.SIGFPE, s == syscall.SIGILL, s == syscall.SIGTRAP,
			s == syscall.SIGSYS, s == syscall.SIGSTKFLT:
		case s >= 32 && s <= 34: // the C library's
		default:
			signals = append(signals, s)
		}
	}
	return signals
}

func numbers(signals []syscall.Signal) string {
	var text []string
	for _, s := range signals {
		text = append(text, strconv.Itoa(int(s)))
	}
	return strings.Join(text, " ")
}

// Without a terminal there is no shell that stops ntrack: it is the command that stops.
func TestCommandStop(t *testing.T) {
	ct := newCommandTest(t)
	cmd := exec.Command("ntrack", ct.args(ct.listener()...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ct.start(cmd)
	lines := bufio.NewReader(out)
	pid := ct.line(lines, `listener (\d+)`)
	for _, s := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		ct.state(pid, "T")
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		ct.line(lines, "continued")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ct.line(lines, "terminated")
	ct.ends(cmd, 3)
}

// What is ignored when ntrack starts is ignored in the command, which may have it otherwise.
func TestCommandNohup(t *testing.T) {
	ct := newCommandTest(t)
	cmd := exec.Command("nohup", append([]string{"ntrack"}, ct.args(ct.listener()...)...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ct.start(cmd)
	lines := bufio.NewReader(out)
	ct.line(lines, `listener \d+`)
	ct.listed(1) // by now ntrack has taken over what was ignored
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		ct.line(lines, s.String())
	}
	ct.ends(cmd, 3)
}

// asFirst has the command be the first process of a namespace, as in a container.
func asFirst(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
}

// children are the process ids of all that a process has to wait for.
func (t commandTest) children(pid int) (pids []string) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d has %d threads, %v", pid, len(threads), err)
	}
	for _, thread := range threads {
		text, _ := os.ReadFile(thread) // a thread may have ended
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

// The first process of a container gets all orphans, and every process by exec the children of the
// one before: none of them stays a zombie.
func TestOrphans(t *testing.T) {
	const orphan = "(sh -c 'echo orphan; read end <go' &); " // has lost its parent by the next command
	for name, c := range map[string]struct {
		args  []string
		first bool
		own   int // how many children ntrack has itself
	}{
		"COMMAND": {[]string{"announce", "TRACKER", "lobby", "--port", "4000", "--", "sh", "-c", orphan + "echo >go; exec tail -f /dev/null"}, true, 1},
		"exec":    {[]string{"watch", "TRACKER", "lobby", "--exec", orphan + "echo >go; exec tail -f /dev/null"}, true, 1},
		"exec 0":  {[]string{"watch", "TRACKER", "lobby", "--exec", orphan + "echo >go"}, true, 0},
		"serve":   {[]string{"serve", "--listen", "127.0.0.1:0"}, true, 0},
		"no init": {[]string{"serve", "--listen", "127.0.0.1:0"}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ct := newCommandTest(t)
			for i := range c.args {
				c.args[i] = strings.Replace(c.args[i], "TRACKER", ct.tracker.HostPort(), 1)
			}
			before := "mkfifo go && "
			if c.args[0] == "serve" {
				before += orphan + "(echo >go &); sh -c 'echo brother' & "
			}
			cmd := exec.Command("sh", append([]string{"-c", before + `exec ntrack "$@"`, "sh"}, c.args...)...)
			cmd.Dir = t.TempDir()
			if c.first {
				asFirst(cmd)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			ct.start(cmd)
			lines := bufio.NewReader(out)
			ct.line(lines, "orphan|brother")
			if c.args[0] == "serve" {
				ct.line(lines, "orphan|brother")
			}
			ct.until(fmt.Sprint("it has ", c.own, " children"), func() bool { return len(ct.children(cmd.Process.Pid)) == c.own })
		})
	}
}

// To a first process signals do nothing by default. The second one ends it all the same.
func TestFirstProcessSecondInterrupt(t *testing.T) {
	t.Parallel()
	at := frozen(t)
	for range 5 {
		cmd := exec.Command("ntrack", "announce", at, "k", "--port", "4000", "--stay", "-q")
		asFirst(cmd)
		if secondInterrupt(t, cmd, "127.0.0.1:1\n", "ntrack: leaving; Ctrl-C again ends it at once\n") {
			return
		}
	}
	t.Error("it has always ended by itself")
}

// What a first process reaps is never the command, whose exit code is its own.
func TestOrphansExitCode(t *testing.T) {
	ct := newCommandTest(t)
	for range 20 {
		cmd := exec.Command("ntrack", ct.args("sh", "-c", "(true &); exit 7")...)
		asFirst(cmd)
		ct.start(cmd)
		ct.ends(cmd, 7)
	}
	cmd := exec.Command("ntrack", "watch", ct.tracker.HostPort(), "lobby", "--exec", "(true &); exit 7")
	asFirst(cmd)
	notes, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	ct.start(cmd)
	ct.line(bufio.NewReader(notes), "ntrack: --exec: exit status 7; .*")
}

// What runs the tests may ignore signals, as nohup and a shell's & do. The tests do not.
func TestTestsUnderNohup(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `trap "" HUP INT QUIT; exec "$@"`, "sh",
		self, "-test.run", "^(TestCommandSignals|TestCommandTerminalClosed)$", "-test.v")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if n := bytes.Count(out, []byte("--- PASS")); err != nil || n != 2 {
		t.Errorf("%d tests passed, %v\n%s", n, err, out)
	}
}

// Whoever runs a command without handing signals over ends it by its context, and before it has
// begun, too.
func TestCommandContext(t *testing.T) {
	ct := newCommandTest(t)
	run := func(ctx context.Context, out io.Writer) int {
		args := append([]string{"ntrack"}, ct.args("sh", "-c", "echo ran; exec tail -f /dev/null")...)
		return commands.Main(ctx, args, commands.Streams{Out: out, Err: io.Discard})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	ran := make(chan int)
	go func() { ran <- run(ctx, w) }()
	ct.line(bufio.NewReader(r), "ran")
	cancel(commands.Interrupted{Signal: syscall.SIGINT})
	select {
	case code := <-ran:
		if code != 143 {
			t.Errorf("exit code %d, want that of SIGTERM", code)
		}
	case <-time.After(patience):
		t.Fatalf("the command is not ended within %v", patience)
	}
	var out bytes.Buffer
	if code := run(ctx, &out); code != 130 || out.Len() > 0 {
		t.Errorf("interrupted before: exit code %d, results %q", code, &out)
	}
}

// When ntrack is killed the command dies, whatever signals it ignores.
func TestCommandNoOrphan(t *testing.T) {
	ct := newCommandTest(t)
	cmd := exec.Command("ntrack", ct.args("listener", "-stubborn", "tcp", "127.0.0.1:"+ct.port)...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	ct.start(cmd)
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(patience))
	lines := bufio.NewReader(r)
	ct.line(lines, `listener \d+`)
	ct.listed(1)
	_ = cmd.Process.Kill()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Fatalf("the command still holds its output: %q, %v", rest, err)
	}
}

// openPTY makes a pseudo-terminal: the end of who sits before it, and that of the programs.
func openPTY(t *testing.T) (user, tty *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	rc, err := user.SyscallConn() // Fd would make it block, and Close wait for a Read
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

// A console is a pseudo-terminal, and all that has been read from it.
type console struct {
	commandTest
	keys, tty *os.File
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

// run starts a program that the terminal controls.
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

// shows waits until what is on the terminal matches, and returns the last submatch.
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

// On a terminal its keys reach the command once, by the terminal itself, and ntrack lives on.
func TestCommandTerminalKeys(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", term.args(term.listener()...)...)
	term.shows(`^listener \d+`)
	term.listed(1)
	// The command has acted upon a key before ntrack does: two signals would not be taken for one.
	for keys, shown := range map[string]string{"\x03": `interrupt\r`, "\x1c": `quit\r`} {
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		term.press(keys)
		term.shows(shown)
		_ = cmd.Process.Signal(syscall.SIGCONT)
	}
	// What the terminal does not send comes on.
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
		t.Errorf("ntrack had something to say\n%s", &term.text)
	}
}

// A signal that somebody sends to ntrack alone is no key: the second one of a kind comes on.
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
		term.shows("^" + last.String()) // which comes last
	}
	term.ends(cmd, 3)
	for _, s := range kinds {
		if n := strings.Count(term.text.String(), s.String()+"\r"); n != 1 {
			t.Errorf("the command got %q %d times\n%s", s, n, &term.text)
		}
	}
}

// In the background a terminal's keys are for others, and every signal comes on.
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

// A server on a terminal ends when that is closed.
func TestServeTerminalClosed(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", "serve", "--listen", "127.0.0.1:0")
	term.shows(`ntrack list `)
	_ = term.keys.Close()
	term.ends(cmd, 129)
}

// Ctrl-Z stops and fg resumes both.
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

// A terminal that is closed tells only the leader of its session, which ntrack may be.
func TestCommandTerminalClosed(t *testing.T) {
	term := newConsole(t)
	cmd := term.run("ntrack", append([]string{"announce", "--ready", "none"}, term.args("tail", "-f", "/dev/null")[1:]...)...)
	term.listed(1)
	_ = term.keys.Close()
	term.ends(cmd, 129)
	term.listed(0)
}
