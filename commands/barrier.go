package commands

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/output"
)

// This is `ntrack watch --min N`, a barrier: it waits until N peers are there and prints them.

type barrierOptions struct {
	min     int // 0 if there is no barrier
	exactly bool
	atMost  time.Duration // 0 for no limit
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

// runBarrier waits for peers and prints them. They replace the live table if there is one. waiting
// ends when the reader of the results is gone. That does not shorten the time that this member stays
// after it has printed them.
func (o *watchOptions) runBarrier(c *cli.Context, waiting context.Context, s Streams, table *liveTable, news func(announce.Event, error) error) error {
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
		case b.atMost == 0 || !mayMend(err): // only --for waits for a tracker that has not answered yet
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
	if surplus := len(g.Peers) - b.min; b.exactly && surplus > 0 {
		err = fmt.Errorf("%d peers are there, not exactly %d; surplus: %s", len(g.Peers), b.min, few(g.Peers[b.min:]))
	} else if err2 := output.WriteBarrier(s.Out, o.format, g.Rank, g.Peers); err2 != nil {
		err = err2
	}
	_ = g.Leave(c.Context)
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	return err
}

// mayMend reports whether another try may succeed: the tracker is away or has an error of its own.
func mayMend(err error) bool {
	f, refused := errors.AsType[*announce.RefusalError](err)
	return is[*announce.UnreachableError](err) || refused && f.Status >= 500
}

// few is a list of peers that is short enough for a message.
func few(peers []netip.AddrPort) string {
	const most = 10
	text := list(peers[:min(most, len(peers))])
	if n := len(peers) - most; n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}
