package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// This is `ntrack announce KEY --port N -- COMMAND ARGS...`: the COMMAND is a member for as long as
// it runs and can be reached. ntrack lives as long as it does, never kills it unless --on-lost says
// so, and ends with its exit code.

// What the end of a command may take.
const (
	leaveTime = 2 * time.Second  // to leave after it; a tracker that is away must not hold its exit code back
	killTime  = 10 * time.Second // between asking it to end and killing it
)

func childFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ready", Value: "30s", Usage: "join once COMMAND accepts connections at the port, with a note if it does not within `D`; or udp: once the port is bound, or none: at once"},
		&cli.StringFlag{Name: "on-lost", Value: "keep", Usage: "`WHAT` to do with COMMAND when the tracker has been away for a whole ttl: keep or kill it"},
	}
}

// childOptions are what announce with a COMMAND has more than without.
type childOptions struct {
	command    []string // nil without
	ready      readiness
	killOnLost bool
}

func (o *announceOptions) buildChild(c *cli.Context) (err error) {
	o.command = lineOf(c).command
	if o.command == nil {
		for _, name := range []string{"ready", "on-lost"} {
			if c.IsSet(name) {
				return usage(c, "--%s is about a COMMAND, and there is none after `--`", name)
			}
		}
		return nil
	}
	for _, name := range []string{"leave", "numwant", "output", "quiet"} {
		if c.IsSet(name) {
			return usage(c, "--%s and a COMMAND exclude each other: standard output is the COMMAND's alone", name)
		}
	}
	port := o.request.Port
	if port == 0 {
		port = o.From.Port()
	}
	if port == 0 {
		return usage(c, "a COMMAND needs --port N, to say where it is reached")
	}
	if o.ready, err = parseReadiness(c.String("ready"), port); err != nil {
		return usage(c, "%v", err)
	}
	switch what := c.String("on-lost"); what {
	case "kill", "keep":
		o.killOnLost = what == "kill"
	default:
		return usage(c, "--on-lost %q: kill or keep", shown(what))
	}
	o.request.Want = announce.NoPeers
	return nil
}

func (o *announceOptions) runChild(c *cli.Context, s Streams) error {
	// It runs on whether a tracker answers or not: as if all had, each that does not is told.
	there := presence{s: s, client: &o.client, serve: o.serve, answers: true}
	defer there.end()
	if err := there.begin(c); err != nil {
		return err
	}
	self, err := newSelfFile()
	if err != nil {
		s.note("no NTRACK_SELF_FILE: %v", err)
	}
	defer self.remove()
	signals, ownGroup := make(chan os.Signal, 64), !onTerminal()
	if s.Signals != nil {
		// What is ignored while it starts is ignored in it, too.
		s.Signals(signals, slices.DeleteFunc(passedOn(ownGroup), signal.Ignored)...)
	}
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	ch, err := startChild(o.command, append(o.environ(), "NTRACK_SELF_FILE="+self.path()), s, ownGroup)
	if err != nil {
		return err
	}
	if s.Signals != nil {
		s.Signals(signals, passedOn(ownGroup)...) // it may not ignore them for long
	}

	ctx, leave := context.WithCancel(context.WithoutCancel(c.Context))
	defer leave()
	left, lost := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		tidySelfFiles()
		left <- o.beMember(ctx, s, &there, self, lost)
	}()
	told := c.Context.Done() // by a caller that hands no signals over
	var kill <-chan time.Time
	for {
		select {
		case sig := <-signals:
			ch.pass(sig)
		case <-told:
			told, kill = nil, time.After(killTime)
			ch.send(syscall.SIGTERM)
		case <-lost:
			if kill == nil {
				s.note("the tracker has been away for a whole ttl: ending %s, as --on-lost kill says", ch.name())
				kill = time.After(killTime)
				ch.send(syscall.SIGTERM)
			}
		case <-kill:
			ch.send(syscall.SIGKILL)
		case err := <-ch.ended:
			leave()
			awaitLeft(s, signals, left)
			return ch.result(err)
		}
	}
}

// awaitLeft waits until the peer has left, but not for long, nor after an interruption. The one that
// has ended the command may come as late as that end: only those after the note count.
func awaitLeft(s Streams, signals <-chan os.Signal, left <-chan error) {
	slow, over := time.After(slowEnd), time.After(leaveTime)
	noted := false
	for {
		select {
		case err := <-left:
			s.couldNotLeave(err)
			return
		case <-slow:
			noted = true
			s.note("leaving; Ctrl-C ends it at once")
		case sig := <-signals:
			if noted && (sig == syscall.SIGINT || sig == syscall.SIGTERM || sig == syscall.SIGQUIT || sig == syscall.SIGHUP) {
				return
			}
		case <-over:
			s.note("could not leave within %v, the tracker forgets you after the ttl", leaveTime)
			return
		}
	}
}

// beMember joins once the child is ready, until ctx ends. With --on-lost kill it tells when the
// tracker has been away for too long.
func (o *announceOptions) beMember(ctx context.Context, s Streams, there *presence, self *selfFile, lost chan<- struct{}) error {
	if !o.ready.wait(ctx, s.note) {
		return nil
	}
	defer o.stayTogether(ctx, s, o.request)()
	absence := absence{lost: lost}
	return o.Join(ctx, o.trackers, o.request, func(ev announce.Event, err error) {
		switch {
		case err != nil:
			_ = there.failed(ctx, ev.Tracker, err)
			if len(there.away) == len(o.trackers) {
				absence.begin()
			}
			return
		case ev.Type != announce.EventPeers:
			return
		}
		there.answered(ev.Tracker)
		absence.end()
		if o.killOnLost {
			absence.ttl = o.ttl(ctx, ev)
		}
		if err := self.write(ev.You); err != nil {
			s.note("NTRACK_SELF_FILE: %v", err)
		}
	})
}

// An absence says that no tracker has been there for a whole ttl. One that restarts is away for a
// moment, and watchers give its peers a ttl to come back: so does this. What is lost has been there
// before.
type absence struct {
	ttl  time.Duration // 0 where nothing can be lost
	over *time.Timer   // nil while a tracker is there
	lost chan<- struct{}
}

func (a *absence) begin() {
	if a.ttl == 0 || a.over != nil {
		return
	}
	a.over = time.AfterFunc(a.ttl, func() {
		select {
		case a.lost <- struct{}{}:
		default: // said already
		}
	})
}

func (a *absence) end() {
	if a.over != nil {
		a.over.Stop()
		a.over = nil
	}
}

// ttl is how long the tracker that has told of this event keeps a peer. A stream does not say.
func (o *announceOptions) ttl(ctx context.Context, ev announce.Event) time.Duration {
	reply := ev.Reply
	if reply == nil {
		var err error
		if reply, err = o.List(ctx, ev.Tracker, o.key, announce.NoPeers); err != nil {
			return 150 * time.Second // docs/PROTOCOL.md 12.7
		}
	}
	return max(reply.TTL, reply.Interval*5/2)
}

// A child is a COMMAND that runs.
type child struct {
	cmd     *exec.Cmd
	command string // as it was given
	// ownGroup says that it leads a process group of its own. On a terminal it is in ntrack's, as
	// what a shell starts in one line is: the terminal sends its signals to all of them, stops and
	// resumes them together, and lets them read.
	ownGroup bool
	// got are the signals that ntrack has got and the terminal may have sent.
	got   map[os.Signal]bool
	ended chan error
}

// startChild runs the command with the streams as they are.
func startChild(command, environ []string, s Streams, ownGroup bool) (*child, error) {
	path, err := findCommand(command[0])
	if err != nil {
		return nil, &cannotRun{command[0], err}
	}
	prepare := func(path string, args ...string) *exec.Cmd {
		cmd := &exec.Cmd{Path: path, Args: args, Env: environ, Stdin: s.In, Stdout: s.Out, Stderr: s.Err}
		if _, isFile := s.In.(*os.File); !isFile {
			cmd.Stdin = nil // see start
		}
		if r, ok := s.Out.(results); ok {
			cmd.Stdout = r.Writer
		}
		cmd.WaitDelay = time.Second // where a stream is no file, and what the child has started still holds it
		cmd.SysProcAttr = new(syscall.SysProcAttr)
		if ownGroup {
			leadGroup(cmd.SysProcAttr)
		}
		dieWithParent(cmd.SysProcAttr)
		return cmd
	}
	ch := &child{cmd: prepare(path, command...), command: command[0], ownGroup: ownGroup, got: make(map[os.Signal]bool), ended: make(chan error, 1)}
	started := make(chan error)
	go func() {
		// To Linux the parent is the thread, and the child dies with that (go.dev/issue/27505). This
		// one is kept for as long as the child lives.
		runtime.LockOSThread()
		err := ch.start(s)
		if errors.Is(err, syscall.ENOEXEC) { // a script that names no interpreter is for sh, says execvp(3)
			if strings.HasPrefix(path, "-") {
				path = "./" + path
			}
			ch.cmd = prepare("/bin/sh", append([]string{"sh", path}, command[1:]...)...)
			err = ch.start(s)
		}
		started <- err
		if err == nil {
			ch.ended <- s.reaper.wait(ch.cmd)
		}
	}()
	if err := <-started; err != nil {
		return nil, &cannotRun{command[0], err}
	}
	return ch, nil
}

// start starts the command, and copies its input where that is no file. Package os/exec would wait
// for a reader that never ends.
func (ch *child) start(s Streams) error {
	if s.In == nil || ch.cmd.Stdin != nil {
		return s.reaper.start(ch.cmd)
	}
	in, err := ch.cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := s.reaper.start(ch.cmd); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, s.In)
		_ = in.Close()
	}()
	return nil
}

func (ch *child) name() string { return wire.Clean(ch.command) }

// pass passes on a signal that ntrack has got, unless the terminal has sent it to both. A process
// does not learn who has sent it a signal: the first one of a kind that the terminal sends is taken
// for the terminal's, and does no harm where it is not. With the second one somebody means it.
func (ch *child) pass(sig os.Signal) {
	if !ch.ownGroup && fromTerminal(sig) && inForeground() && !ch.got[sig] {
		ch.got[sig] = true
		return
	}
	ch.send(sig)
}

// send sends a signal to the child and, where it has a group, to that.
func (ch *child) send(sig os.Signal) {
	if ch.ownGroup {
		signalGroup(ch.cmd.Process, sig)
	} else {
		signalProcess(ch.cmd.Process, sig)
	}
}

// result is the child's exit code as an error, after Wait.
func (ch *child) result(err error) error {
	state := ch.cmd.ProcessState
	if state == nil {
		return err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return commandEnded{128 + int(ws.Signal())}
	}
	return commandEnded{state.ExitCode()}
}

// commandEnded says that a COMMAND has run; its exit code is ours.
type commandEnded struct{ code int }

func (e commandEnded) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// cannotRun says that a COMMAND has not run at all.
type cannotRun struct {
	command string
	err     error
}

func (e *cannotRun) notFound() bool {
	return errors.Is(e.err, exec.ErrNotFound) || errors.Is(e.err, fs.ErrNotExist)
}

func (e *cannotRun) Error() string {
	cause := e.err
	if lookup, ok := errors.AsType[*exec.Error](cause); ok {
		cause = lookup.Err
	}
	if path, ok := errors.AsType[*fs.PathError](cause); ok {
		cause = path.Err
	}
	return fmt.Sprintf("cannot run %s: %v", wire.Clean(e.command), cause)
}
