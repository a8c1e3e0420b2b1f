package commands

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/commands/process"
)

// Two verbs run a COMMAND as long as they are members: announce (run.go), and watch --min (job.go).
// This file has what both do with it.

const (
	// leaveTime is how long leaving may take after the COMMAND has ended. Without a limit, a tracker
	// that is away would delay the exit code.
	leaveTime = 2 * time.Second

	// killTime is how long the COMMAND may take to end after SIGTERM. Then ntrack kills it.
	killTime = 10 * time.Second
)

// A running is a COMMAND that has started.
type running struct {
	s       Streams
	name    string
	child   *process.Child
	signals chan os.Signal // those that ntrack passes on to the COMMAND
}

// startCommand starts a COMMAND. From then on signals no longer end ctx: [running.await] passes them
// on. On a terminal the COMMAND stays in the process group of ntrack. After an error, only stay and
// awaitLeft of the running are of use.
func startCommand(ctx context.Context, s Streams, command, env []string) (*running, error) {
	r := &running{s: s, name: wire.Clean(command[0]), signals: make(chan os.Signal, 64)}
	p := process.Program{Args: command, Env: env, In: s.In, Out: s.rawOut, Err: s.rawErr, OwnGroup: !process.OnTerminal(), Reaper: s.reaper}
	forwarded := process.Forwarded(p.OwnGroup)
	if s.Signals != nil {
		// The COMMAND inherits the ignored signals, so ntrack does not handle them before it has
		// started.
		s.Signals(r.signals, slices.DeleteFunc(slices.Clone(forwarded), signal.Ignored)...)
	}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	var err error
	if r.child, err = process.Start(p); err != nil {
		return r, &cannotRun{command[0], err}
	}
	if s.Signals != nil {
		s.Signals(r.signals, forwarded...) // the ignored ones, too, because the COMMAND may handle them
	}
	return r, nil
}

// An ending is why ntrack itself ends a COMMAND, and the option that asks for that.
type ending struct{ why, option string }

// await passes signals on to the COMMAND until it has ended. If a reason to end it arrives, a note says
// so, the COMMAND gets SIGTERM, and killTime later SIGKILL, and await returns true.
func (r *running) await(ctx context.Context, reasons <-chan ending) (stopped bool) {
	cancelled := ctx.Done() // without Streams.Signals, the caller ends the COMMAND through the context
	var kill <-chan time.Time
	for {
		select {
		case sig := <-r.signals:
			r.child.Forward(sig)
		case <-cancelled:
			cancelled, kill = nil, time.After(killTime)
			r.child.Signal(syscall.SIGTERM)
		case reason := <-reasons:
			if kill == nil {
				r.s.note("%s: ending %s, because of %s kill", reason.why, r.name, reason.option)
				stopped, kill = true, time.After(killTime)
				r.child.Signal(syscall.SIGTERM)
			}
		case <-kill:
			r.child.Signal(syscall.SIGKILL)
		case <-r.child.Ended():
			return stopped
		}
	}
}

// result is the end of the COMMAND as an error, with which ntrack ends in the same way.
func (r *running) result() error {
	code, err := r.child.ExitCode()
	if err != nil {
		return err
	}
	return commandEnded{code}
}

// stay waits until the time end, or until a signal asks to end.
func (r *running) stay(ctx context.Context, end time.Time) {
	over := time.After(time.Until(end))
	for {
		select {
		case sig := <-r.signals:
			if asksToEnd(sig) {
				return
			}
		case <-ctx.Done():
			return
		case <-over:
			return
		}
	}
}

// awaitLeft waits until the peer has left, but not longer than leaveTime, and only until a signal
// interrupts it. Signals have no effect before the note that asks for one, because the signal that
// ended the COMMAND may arrive after its end.
func (r *running) awaitLeft(left <-chan error) {
	slow, over := time.After(slowEnd), time.After(leaveTime)
	noted := false
	for {
		select {
		case err := <-left:
			r.s.noteLeaveErrors(err)
			return
		case <-slow:
			noted = true
			r.s.note("leaving; Ctrl-C ends ntrack at once")
		case sig := <-r.signals:
			if noted && asksToEnd(sig) {
				return
			}
		case <-over:
			r.s.note("could not leave within %v; the tracker forgets you after the ttl", leaveTime)
			return
		}
	}
}

func asksToEnd(sig os.Signal) bool {
	return sig == syscall.SIGINT || sig == syscall.SIGTERM || sig == syscall.SIGQUIT || sig == syscall.SIGHUP
}

// parsePortFlag reads --port of a verb that may run a COMMAND. The port 0 means any free port, which
// only a COMMAND can use. lookHint says what to do without a COMMAND to look without joining.
func parsePortFlag(c *cli.Context, lookHint string) (port uint16, anyPort bool, err error) {
	n := c.Int("port")
	switch {
	case !c.IsSet("port"):
		return 0, false, nil
	case n == 0 && lineOf(c).command != nil:
		return 0, true, nil
	case n == 0 && lineOf(c).showMissingKey(c.Args().Slice()) != "":
		return 0, false, &usageError{shows: true, text: missingKey + lineOf(c).showMissingKey(c.Args().Slice())}
	case n == 0:
		return 0, false, usage(c, "--port 0: 1 to 65535; 0 is any free port, and only for a COMMAND%s", lookHint)
	case n < 1 || n > 65535:
		return 0, false, usage(c, "--port %d: 1 to 65535%s", n, lookHint)
	}
	return uint16(n), false, nil
}

// pickPort chooses a free port if anyPort is true, and returns it for the caller to release just before
// the COMMAND starts. Otherwise it returns nil.
func pickPort(anyPort bool, r *announce.Request) (*process.HeldPort, error) {
	if !anyPort {
		return nil, nil
	}
	held, err := process.HoldPort()
	if err != nil {
		return nil, fmt.Errorf("--port 0: %w", err)
	}
	r.Port = held.Port
	return held, nil
}

func portVariable(port uint16) string { return "NTRACK_PORT=" + strconv.Itoa(int(port)) }

// withPeers adds NTRACK_PEERS to an environment, unless the list is too long.
func withPeers(env, peers []string) []string {
	if text := "NTRACK_PEERS=" + strings.Join(peers, " "); len(text) <= maxVariable {
		return append(env, text)
	}
	// An ntrack that runs this one may have set the variable.
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "NTRACK_PEERS=") })
}
