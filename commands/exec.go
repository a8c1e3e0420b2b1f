package commands

import (
	"bytes"
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"ntrack/announce"
	"ntrack/commands/process"
	"ntrack/output"
)

// A runner runs the command of --exec, one run at a time, and again where it fails. It remembers
// three lists, the newest and those that runs were given last, so that a slow command holds up
// nothing and costs nothing.
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

func (r *runner) tell(ev announce.Event) error {
	select {
	case <-r.newest:
	default:
	}
	r.newest <- ev.Peers
	return nil
}

// end waits for the end of the last run, which the end of the context brings about.
func (r *runner) end() { <-r.ended }

func (r *runner) loop(ctx context.Context) {
	var now, done []netip.AddrPort // the last run's list, and that of the last one that succeeded
	var pause time.Duration        // before the next try of one that has failed
	var again <-chan time.Time
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case list := <-r.newest:
			if !first && slices.Equal(list, now) {
				continue // who came during a run and left again is no change
			}
			now, pause = append([]netip.AddrPort{}, list...), 0
		case <-again:
		}
		err := r.run(ctx, output.NewChange(r.trackers, r.key, done, now))
		if again = nil; err == nil {
			done = now
		} else if ctx.Err() == nil {
			pause = longer(pause)
			again = time.After(pause)
			r.s.note("--exec: %v; trying again in %v, or when the list changes", err, pause)
		}
	}
}

// longer is how long to wait for the next try after one that was waited for as long as pause.
func longer(pause time.Duration) time.Duration {
	return min(max(2*pause, time.Second), time.Minute)
}

const (
	// killAfter is how long a run that is told to end may take, and how long one that has ended may
	// leave its standard input open.
	killAfter = 2 * time.Second
	// maxVariable bounds NTRACK_PEERS. Linux refuses to run a command with a variable above 128 KiB.
	maxVariable = 64 << 10
)

func (r *runner) run(ctx context.Context, change output.Change) error {
	var stdin bytes.Buffer
	if err := output.WriteChange(&stdin, change); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, r.shell, "-c", r.exec)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &stdin, r.s.Out, r.s.Err
	if f, ok := file(r.s.Out); ok {
		cmd.Stdout = f
	}
	peer := ""
	if change.Peer != nil {
		peer = *change.Peer
	}
	cmd.Env = append(r.environ(), "NTRACK_EVENT="+change.Event, "NTRACK_PEER="+peer)
	if peers := "NTRACK_PEERS=" + strings.Join(change.Peers, " "); len(peers) <= maxVariable {
		cmd.Env = append(cmd.Env, peers)
	} else { // nor that of a watch around this one
		cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "NTRACK_PEERS=") })
	}
	return process.Run(ctx, cmd, killAfter, r.s.reaper)
}
