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

// These tests run a COMMAND by `ntrack announce`, and do what the scripts cannot: they send all kinds
// of signals and kill ntrack.

// A commandTest is a test with a tracker, and with a port for the COMMAND.
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

// args returns the arguments of ntrack that make it run the command.
func (t commandTest) args(command ...string) []string {
	return append([]string{"announce", t.tracker.HostPort(), "lobby", "--port", t.port, "--"}, command...)
}

func (t commandTest) listener() []string { return []string{"listener", "tcp", "127.0.0.1:" + t.port} }

// start runs a program, and kills it when the test ends. Without this GODEBUG, Go's runtime would
// send SIGURG to its own process, but the program and the service must receive only the signals of
// the test.
func (t commandTest) start(cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "LC_ALL=C")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() }) // so that a test that waits for cmd fails
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

// until waits until holds returns true. A failure shows the text condition.
func (t commandTest) until(condition string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", condition, patience)
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

// state waits until a process is in a state of /proc, such as T for a stopped process.
func (t commandTest) state(pid, want string) {
	t.Helper()
	t.until("process "+pid+" is in state "+want, func() bool {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		return err == nil && strings.HasPrefix(rest, want)
	})
}

// Without a terminal, ntrack passes each signal on once, to the whole process group of the command.
// It does not pass on signals that are about ntrack itself, such as SIGCHLD.
func TestCommandSignals(t *testing.T) {
	ct := newCommandTest(t)
	// The shell ignores the signals except SIGTERM. The service in its process group prints them.
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

// allSignals returns the signals that one process may send to another, except those that kill or stop
// it.
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

// Without a terminal, the signals that stop a program stop only the command, because no shell waits
// for ntrack to stop.
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

// The command ignores the signals that were ignored when ntrack started. But if it handles such a
// signal, ntrack passes the signal on.
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
	ct.listed(1) // by now ntrack handles SIGHUP
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		ct.line(lines, s.String())
	}
	ct.ends(cmd, 3)
}

// asFirst makes cmd the first process of a new PID namespace, as in a container.
func asFirst(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
}

// children returns the process ids of all children of a process, zombies included.
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

// No child of ntrack stays a zombie, even if ntrack has not started it. The first process of a
// container becomes the parent of all orphans. A program that a shell runs by exec has the children
// of the shell.
func TestOrphans(t *testing.T) {
	const orphan = "(sh -c 'echo orphan; read end <go' &); " // the orphan ends at a write to the pipe go
	for name, c := range map[string]struct {
		args  []string
		first bool // ntrack is the first process of a container
		own   int  // the number of children that ntrack has started and that do not end
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

// A second Ctrl-C ends ntrack even as the first process of a container, for which signals have no
// default action.
func TestFirstProcessSecondInterrupt(t *testing.T) {
	t.Parallel()
	at := frozenTracker(t)
	for range 5 {
		cmd := exec.Command("ntrack", "announce", at, "k", "--port", "4000", "--stay", "-q")
		asFirst(cmd)
		if secondInterrupt(t, cmd, "127.0.0.1:1\n", "ntrack: leaving; Ctrl-C again ends ntrack at once\n") {
			return
		}
	}
	t.Error("in every try ntrack ended before the second Ctrl-C")
}

// As the first process, ntrack reaps orphans, but its exit code is always that of the command.
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

// The tests about signals pass even if nohup or a shell's & has made the test binary ignore signals.
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

// If Streams.Signals is nil, the end of the context ends a COMMAND. A context that has already ended
// prevents the start.
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
		t.Errorf("interrupted before the start: exit code %d, results %q", code, &out)
	}
}

// When ntrack is killed, the command is killed, too, even if it ignores all other signals.
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
