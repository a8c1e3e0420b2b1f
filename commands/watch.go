package commands

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/output"
)

func watchCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "watch",
		Usage:     "print who joins and leaves a KEY, as it happens",
		UsageText: "ntrack watch [OPTIONS] [TRACKER] KEY",
		Description: "Prints a line per change, `join IP:PORT` or `leave IP:PORT`; first a join for\n" +
			"each peer there is. It does not join itself. A tracker that goes away does not\n" +
			"end it, nor make it print leaves.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "once", Usage: "wait for the first change, print the peers there are then, and end"},
			&cli.DurationFlag{Name: "every", Usage: "where the tracker has no event stream, look every `D`, at least 100ms, instead of at its interval"},
			serveFlag(),
		}, clientFlags()...),
		Action: func(c *cli.Context) error {
			var o watchOptions
			if err := o.build(c, s); err != nil {
				return err
			}
			return o.run(c, s)
		},
	}
}

type watchOptions struct {
	client
	once, serve bool
	every       time.Duration
}

func (o *watchOptions) build(c *cli.Context, s Streams) error {
	if err := o.client.build(c, s); err != nil {
		return err
	}
	if err := o.needKey(c); err != nil {
		return err
	}
	o.once, o.serve, o.every = c.Bool("once"), c.Bool("serve"), c.Duration("every")
	return atLeast(c, "every", 100*time.Millisecond)
}

func (o *watchOptions) run(c *cli.Context, s Streams) error {
	ctx, cancel := context.WithCancelCause(c.Context)
	defer cancel(nil)
	go func() {
		if waitReaderGone(s.Out) {
			cancel(errReaderGone)
		}
	}()
	there := presence{s: s, client: &o.client, serve: o.serve}
	defer there.end()
	if err := there.begin(c); err != nil {
		return err
	}
	started := false
	for ev, err := range o.Watch(ctx, o.trackers, announce.Request{Key: o.key}, o.every) {
		switch {
		case err != nil:
			if err := there.failed(ctx, ev.Tracker, err); err != nil {
				return err
			}
		case ev.Type == announce.EventPeers && started:
			there.answered(ev.Tracker)
		case ev.Type == announce.EventPeers:
			there.answered(ev.Tracker)
			started = true
			if o.once {
				continue
			}
			for _, p := range ev.Peers {
				if err := output.WriteEvent(s.Out, o.format, announce.EventJoin, p); err != nil {
					return err
				}
			}
		case o.once:
			return output.WritePeers(s.Out, o.format, o.trackers, o.key, ev.Peers)
		default:
			if err := output.WriteEvent(s.Out, o.format, ev.Type, ev.Peer); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}
