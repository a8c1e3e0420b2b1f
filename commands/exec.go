package commands

import (
	"bytes"
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"ntrack/announce"
	"ntrack/commands/process"
	"ntrack/output"
)

// A runner runs the command of --exec after each change of the list of peers, but never twice at the
// same time. It repeats a run that fails. It keeps only the newest list and the lists of the last
// runs, so a slow command neither delays the watch nor fills the memory.
type runner struct {
	*watchOptions
	s      Streams
	newest chan []netip.AddrPort
	ended  chan struct{}
}

func startRunner(ctx context.Context, s Streams, o *watchOptions) *runner {
	r := &runner{o, s, make(chan []netip.AddrPort, 1), make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.loop(ctx)
	}()
	return r
}

// show gives the runner the newest list. It drops an older list that still waits for a run.
func (r *runner) show(ev announce.Event) error {
	select {
	case <-r.newest:
	default:
	}
	r.newest <- ev.Peers
	return nil
}

// end waits for the last run. The caller must have ended the context, which ends this run.
func (r *runner) end() { <-r.ended }

func (r *runner) loop(ctx context.Context) {
	var now, done []netip.AddrPort // the list of the last run; the list of the last run that succeeded
	var pause time.Duration        // before a run that has failed is tried again
	var again <-chan time.Time
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case list := <-r.newest:
			if !first && slices.Equal(list, now) {
				continue // a peer joined and left during the run, so the list is the same as before
			}
			now, pause = append([]netip.AddrPort{}, list...), 0
		case <-again:
		}
		err := r.run(ctx, output.NewExecInput(r.trackers, r.key, done, now))
		if again = nil; err == nil {
			done = now
		} else if ctx.Err() == nil {
			pause = longer(pause)
			again = time.After(pause)
			r.s.note("--exec: %v; trying again in %v, or when the list changes", err, pause)
		}
	}
}

// longer returns the pause before the next try, if pause was the pause before the last one. A pause
// of 0 means that there was only one try. The result is 1s, 2s, 4s and so on up to 1m.
func longer(pause time.Duration) time.Duration {
	return min(max(2*pause, time.Second), time.Minute)
}

const (
	// killAfter is how long a run may take to end after its context has ended. After a run has ended,
	// its children may keep its streams open for the same time.
	killAfter = 2 * time.Second
	// maxVariable bounds NTRACK_PEERS, in bytes. Linux runs no command with a variable above 128 KiB.
	maxVariable = 64 << 10
)

func (r *runner) run(ctx context.Context, in output.ExecInput) error {
	var stdin bytes.Buffer
	if err := output.WriteExecInput(&stdin, in); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, r.shell, "-c", r.exec)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &stdin, r.s.rawOut, r.s.Err
	peer := ""
	if in.Peer != nil {
		peer = *in.Peer
	}
	cmd.Env = append(r.environ(), "NTRACK_EVENT="+in.Event, "NTRACK_PEER="+peer)
	cmd.Env = withPeers(cmd.Env, in.Peers)
	return process.Run(ctx, cmd, killAfter, r.s.reaper)
}
