// Package process runs programs: it finds and starts them, waits until they are ready, passes
// signals on to them, and reports how they end. It prints nothing. [Start] starts a program that may
// run as long as this process. [Run] runs a short program to its end.
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

// streamDelay is how long the children of a program that has ended may keep its streams open. Nothing
// waits for streams that are files.
const streamDelay = time.Second

// A Program is what [Start] runs.
type Program struct {
	// Args are the command, which [Find] looks up, and its arguments.
	Args []string
	// Env is the environment of the program, as in [exec.Cmd].
	Env []string
	// In, Out and Err are the standard streams of the program. A nil stream is the null device.
	In       io.Reader
	Out, Err io.Writer
	// OwnGroup makes the program the leader of a new process group. Leave it false on a terminal: then
	// the program is in the group of this process, like all programs of one shell command. The
	// terminal sends its signals to both, stops and resumes both, and both can read from it.
	OwnGroup bool
	// Reaper is the Reaper of this process, or nil if it has none.
	Reaper *Reaper
}

// A Child is a program that [Start] has started. On Linux the kernel kills it when this process dies.
type Child struct {
	cmd      *exec.Cmd
	ownGroup bool
	withheld map[os.Signal]bool // signals that Forward has withheld once
	ended    chan struct{}
	err      error // of cmd.Wait; set before ended is closed
}

// Start starts a program. The error says why the program cannot run. [exec.ErrNotFound] and
// [fs.ErrNotExist] mean that there is no program with that name.
func Start(p Program) (*Child, error) {
	path, err := Find(p.Args[0])
	if err != nil {
		return nil, err
	}
	c := &Child{ownGroup: p.OwnGroup, withheld: make(map[os.Signal]bool), ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux kills the child when the thread that started it ends (go.dev/issue/27505). The lock
		// keeps this thread alive until the child has ended.
		runtime.LockOSThread()
		err := c.start(p, path, p.Args)
		if errors.Is(err, syscall.ENOEXEC) { // a script without #!, which sh runs, as in execvp(3)
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

// start starts the file at path. If p.In is not a file, start copies it to the program itself. Package
// os/exec would also wait for the end of p.In, which may never come.
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

// Ended returns a channel that is closed when the program has ended.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// ExitCode waits until the program has ended. It returns the exit code, or 128+n if signal n ended the
// program. An error means that the exit code is not known.
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
// signal to the program. A process cannot see the sender of a signal. So Forward withholds the first
// signal of each kind that a terminal can send, such as SIGINT, because the program probably has it
// already. It passes on every later one.
func (c *Child) Forward(sig os.Signal) {
	if !c.ownGroup && fromTerminal(sig) && inForeground() && !c.withheld[sig] {
		c.withheld[sig] = true
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

// Run runs cmd in a new process group and waits until it has ended. cmd must come from
// [exec.CommandContext] with the same ctx. When ctx ends, Run sends SIGTERM to the group, and kills
// what is left of the group after grace.
//
// A program with exit code 0 has succeeded even if its children keep its streams open: Run waits for
// them no longer than grace. On a terminal the program can write but not read, because its group is
// in the background.
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
