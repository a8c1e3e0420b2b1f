package commands_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/commands"
	"ntrack/commands/commandstest"
	"ntrack/tracker/trackertest"
)

// These tests run a COMMAND by `ntrack announce`, where a script is not enough: signals of every kind,
// terminals, and an ntrack that is killed.

// A commandTest has a tracker, and a port for a service.
type commandTest struct {
	*testing.T
	tracker announce.Tracker
	port    string
}

func newCommandTest(t *testing.T) commandTest {
	local := trackertest.New()
	t.Cleanup(local.Close)
	port, err := commandstest.FreePort(23_000)
	if err != nil {
		t.Fatal(err)
	}
	return commandTest{t, local.Tracker, port}
}

// args returns the arguments with which ntrack runs the command.
func (t commandTest) args(command ...string) []string {
	return append([]string{"announce", t.tracker.HostPort(), "lobby", "--port", t.port, "--"}, command...)
}

func (t commandTest) listener() []string { return []string{"listener", "tcp", "127.0.0.1:" + t.port} }

// start runs a program, which is killed when the test ends. The setting of GODEBUG keeps Go's runtime
// from sending signals: neither the program nor the service may get any but the test's.
func (t commandTest) start(cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "LC_ALL=C")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() }) // a test that waits for it then fails
	t.Cleanup(func() {
		timer.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// ends waits until cmd ends, and requires this exit code.
func (t commandTest) ends(cmd *exec.Cmd, code int) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != code {
		t.Fatalf("ended with %v, want exit code %d", err, code)
	}
}

// listed waits until the tracker lists n peers.
func (t commandTest) listed(n int) {
	t.Helper()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		t.Fatal(err)
	}
	var c announce.Client
	defer c.Close()
	t.until(fmt.Sprint(n, " peers are listed"), func() bool {
		reply, err := c.List(t.Context(), t.tracker, announce.Request{Key: key})
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

// line reads a line, which has to match want, and returns the last submatch.
func (t commandTest) line(r *bufio.Reader, want string) string {
	t.Helper()
	line, err := r.ReadString('\n')
	m := regexp.MustCompile("^" + want + "$").FindStringSubmatch(strings.TrimSpace(line))
	if err != nil || m == nil {
		t.Fatalf("read %q, %v; want %s", line, err, want)
	}
	return m[len(m)-1]
}

// state waits until a process is in a state, which is T for a stopped one.
func (t commandTest) state(pid, want string) {
	t.Helper()
	t.until("process "+pid+" is in state "+want, func() bool {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		return err == nil && strings.HasPrefix(rest, want)
	})
}

// Without a terminal ntrack passes each signal on once, to the whole process group of the command. It
// does not pass on signals about ntrack itself.
func TestCommandSignals(t *testing.T) {
	ct := newCommandTest(t)
	// The shell ignores the signals; the service in its process group does not.
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
	ct.ends(cmd, 143) // the exit code of the shell, which does not ignore SIGTERM
	ct.listed(0)
}

// allSignals returns all signals that another process would send, except for those that kill or stop.
func allSignals() []syscall.Signal {
	var signals []syscall.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		switch {
		case s == syscall.SIGKILL, s == syscall.SIGSTOP, s == syscall.SIGTSTP, s == syscall.SIGTTIN, s == syscall.SIGTTOU:
		case s == syscall.SIGSEGV, s == syscall.SIGBUS, s == syscall.SIGFPE, s == syscall.SIGILL, s == syscall.SIGTRAP,
			s == syscall.SIGSYS, s == syscall.SIGSTKFLT:
		case s >= 32 && s <= 34: // the C library uses these
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

// Without a terminal no shell waits for ntrack to stop, so only the command stops.
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

// The command ignores the signals that were ignored when ntrack started, unless it decides otherwise.
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
	ct.listed(1) // ntrack now handles the signal that was ignored
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		ct.line(lines, s.String())
	}
	ct.ends(cmd, 3)
}

// asFirst makes the program the first process of a namespace, as in a container.
func asFirst(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
}

// children returns the ids of all processes that a process has to wait for.
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

// No child stays a zombie. The first process of a container gets all orphans, and a program started
// by exec inherits the children of the program before it.
func TestOrphans(t *testing.T) {
	const orphan = "(sh -c 'echo orphan; read end <go' &); " // it is an orphan before the next command starts
	for name, c := range map[string]struct {
		args  []string
		first bool
		own   int // the number of ntrack's own children
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

// The default action of a signal does not end the first process of a container. A second Ctrl-C must
// end it even so.
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
	t.Error("it always ended before the second Ctrl-C")
}

// As a first process ntrack reaps orphans, but never takes the exit code of one for the command's.
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

// The tests pass even if nohup or a shell's & has made them ignore signals.
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

// A caller of Main that passes no signals on ends a command by its context. That works before the
// command starts, too.
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
		t.Fatalf("the command has not ended within %v", patience)
	}
	var out bytes.Buffer
	if code := run(ctx, &out); code != 130 || out.Len() > 0 {
		t.Errorf("interrupted before: exit code %d, results %q", code, &out)
	}
}

// When ntrack is killed, the command dies, even if it ignores all signals.
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
