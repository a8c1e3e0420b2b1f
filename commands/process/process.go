// Package process runs programs: it finds and starts them, waits until they are ready, passes
// signals on to them, and reports how they end. It returns values and errors and prints nothing.
// Enter by [Start] for a program that shares this process's life, and by [Run] for one short run.
package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// streamDelay is how long a program that has ended may leave a stream open to its own children. It
// counts only for streams that are not files.
const streamDelay = time.Second

// A Program is what [Start] runs.
type Program struct {
	// Args are the command and its arguments. [Find] looks the command up.
	Args []string
	// Env is the whole environment, as in [exec.Cmd].
	Env []string
	// In, Out and Err are the program's streams. A nil stream is the null device.
	In       io.Reader
	Out, Err io.Writer
	// OwnGroup makes the program lead a process group of its own. On a terminal it should stay in the
	// group of this process, like everything that a shell starts in one line. Then the terminal sends
	// its signals to both, stops and resumes them together, and lets both read.
	OwnGroup bool
	// Reaper, which may be nil, waits for the program.
	Reaper *Reaper
}

// A Child is a program that runs. On Linux the kernel kills it when this process dies.
type Child struct {
	cmd      *exec.Cmd
	ownGroup bool
	seen     map[os.Signal]bool // signals that the terminal may have sent to both processes
	ended    chan struct{}
	err      error // once ended is closed
}

// Start starts a program. The error says why the program cannot run: [exec.ErrNotFound] and
// [fs.ErrNotExist] mean that there is none of that name.
func Start(p Program) (*Child, error) {
	path, err := Find(p.Args[0])
	if err != nil {
		return nil, err
	}
	c := &Child{ownGroup: p.OwnGroup, seen: make(map[os.Signal]bool), ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux kills the child when the thread that started it ends (go.dev/issue/27505). So this
		// thread stays until the child has ended.
		runtime.LockOSThread()
		err := c.start(p, path, p.Args)
		if errors.Is(err, syscall.ENOEXEC) { // execvp(3) gives a script without an interpreter to sh
			if strings.HasPrefix(path, "-") {
				path = "./" + path
			}
			err = c.start(p, "/bin/sh", append([]string{"sh", path}, p.Args[1:]...))
		}
		started <- err
		if err == nil {
			c.err = p.Reaper.wait(c.cmd)
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// start starts the file at path. Where the input is not a file, start copies it, because package
// os/exec would wait for a reader that never ends.
func (c *Child) start(p Program, path string, args []string) error {
	c.cmd = &exec.Cmd{Path: path, Args: args, Env: p.Env, Stdout: p.Out, Stderr: p.Err,
		WaitDelay: streamDelay, SysProcAttr: new(syscall.SysProcAttr)}
	if p.OwnGroup {
		leadGroup(c.cmd.SysProcAttr)
	}
	dieWithParent(c.cmd.SysProcAttr)
	if f, isFile := p.In.(*os.File); isFile || p.In == nil {
		if isFile {
			c.cmd.Stdin = f
		}
		return p.Reaper.start(c.cmd)
	}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := p.Reaper.start(c.cmd); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, p.In)
		_ = in.Close()
	}()
	return nil
}

// Ended is closed when the program has ended.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// ExitCode waits for the end of the program and returns its exit code: 128+n if signal n has ended
// it. The error says that this process could not learn the exit code.
func (c *Child) ExitCode() (int, error) {
	<-c.ended
	state := c.cmd.ProcessState
	if state == nil {
		return 0, c.err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// Forward passes on a signal that this process has received, unless the terminal has sent the same
// signal to the program. A process cannot see the sender of a signal. So the first signal of each
// kind that a terminal can send counts as the terminal's: to lose it does no harm. A second one
// shows that somebody means it.
func (c *Child) Forward(sig os.Signal) {
	if !c.ownGroup && fromTerminal(sig) && inForeground() && !c.seen[sig] {
		c.seen[sig] = true
		return
	}
	c.Signal(sig)
}

// Signal sends a signal to the program, and to the rest of its group if it leads one.
func (c *Child) Signal(sig os.Signal) {
	if c.ownGroup {
		signalGroup(c.cmd.Process, sig)
	} else {
		signalProcess(c.cmd.Process, sig)
	}
}

// Run runs cmd, which comes from [exec.CommandContext] with the same ctx, in a process group of its
// own. When ctx ends, Run asks the group to end and kills what is left after grace. A program that
// has ended has succeeded even if its own children never read what it was given. On a terminal the
// program can write but not read.
func Run(ctx context.Context, cmd *exec.Cmd, grace time.Duration, r *Reaper) error {
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	leadGroup(cmd.SysProcAttr)
	cmd.Cancel = func() error { signalGroup(cmd.Process, syscall.SIGTERM); return nil }
	cmd.WaitDelay = grace
	err := r.start(cmd)
	if err == nil {
		err = r.wait(cmd)
	}
	if ctx.Err() != nil && cmd.Process != nil {
		killGroup(cmd.Process, grace)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}
