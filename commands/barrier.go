package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/commands/process"
	"ntrack/output"
)

// `ntrack watch --min N` is a barrier: it waits until N peers are there, and prints them.

type barrierOptions struct {
	min     int // 0 without a barrier
	exactly bool
	atMost  time.Duration // how long to wait; 0 for no limit
}

func (o *watchOptions) buildBarrier(c *cli.Context) error {
	b := barrierOptions{c.Int("min"), c.Bool("exactly"), c.Duration("for")}
	o.barrier = b
	given := c.IsSet("min")
	switch {
	case given && b.min < 1:
		return usage(c, "--min %d: 1 or more", b.min)
	case !given && (b.exactly || c.IsSet("for")):
		return usage(c, "--for and --exactly need --min: they say how to wait for peers")
	case c.IsSet("for") && b.atMost <= 0:
		return usage(c, "--for %v: a duration above 0, such as 60s", b.atMost)
	case given && (o.once || o.exec != "" || c.IsSet("every")):
		return usage(c, "--min goes with none of --once, --exec and --every")
	case given && len(o.trackers) > 1:
		return usage(c, "--min: all peers have to meet at one tracker, and %d are given", len(o.trackers))
	}
	return nil
}

// runBarrier waits for peers, and prints them in the place of the live table, which may be nil. With a
// COMMAND it runs that instead, and gives it the port that was held free, which may be nil. The
// context waiting limits only the time until the peers are there; it also ends when the reader of the
// results is gone. After that this member stays a while for the others, until c.Context ends at most.
func (o *watchOptions) runBarrier(c *cli.Context, waiting context.Context, s Streams, table *liveTable, free *process.HeldPort, news func(announce.Event, error) error) error {
	b := o.barrier
	if b.atMost > 0 {
		limited, cancel := context.WithTimeoutCause(waiting, b.atMost, errTimeUp)
		defer cancel()
		waiting = limited
	}
	waiting, giveUp := context.WithCancelCause(waiting)
	defer giveUp(nil)
	answered, noted := false, false
	g, err := o.Gather(waiting, o.trackers[0], o.request, b.min, func(ev announce.Event, err error) {
		answered = answered || err == nil
		switch {
		case answered || is[*announce.SharedError](err):
			_ = news(ev, err)
		case b.atMost == 0 || !mayRecover(err): // only with --for, a tracker may be away at the start
			giveUp(err)
		case !noted:
			noted = true
			s.note("%s; trying again for %v", brief(err), b.atMost)
		}
	})
	switch {
	case errors.Is(err, errTimeUp):
		err = fmt.Errorf("%d of %d peers after %v: %w", len(g.Peers), b.min, b.atMost, err)
	case err != nil:
		return err
	}
	table.end(true)
	switch surplus := len(g.Peers) - b.min; {
	case b.exactly && surplus > 0:
		err = fmt.Errorf("%d peers are there, not exactly %d; surplus: %s", len(g.Peers), b.min, shortList(g.Peers[b.min:]))
	case o.job.command == nil:
		if err2 := o.writeBarrier(s.Out, g.Rank, g.Peers); err2 != nil {
			err = err2
		}
	case err == nil:
		if o.to.name != "" {
			if err = o.writeOnce(g.Peers); err != nil {
				break
			}
		}
		free.Release()
		return o.runJob(c, s, g, news)
	}
	_ = g.Leave(c.Context)
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	return err
}

// writeBarrier writes all peers of the barrier as the user wants them.
func (o *watchOptions) writeBarrier(w io.Writer, rank int, peers []netip.AddrPort) error {
	switch {
	case o.template == nil:
		return output.WriteBarrier(w, o.format, rank, peers)
	case o.to.name != "":
		return o.writeOnce(peers)
	}
	return o.writeRows(w, output.Rows(peers))
}

// mayRecover reports whether a later request may succeed, because the tracker was unreachable or had
// an internal error.
func mayRecover(err error) bool {
	f, refused := errors.AsType[*announce.RefusalError](err)
	return is[*announce.UnreachableError](err) || refused && f.Status >= 500
}

// shortList is a list of at most ten peers, and says how many more there are.
func shortList(peers []netip.AddrPort) string {
	const most = 10
	text := commaList(peers[:min(most, len(peers))])
	if n := len(peers) - most; n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}
