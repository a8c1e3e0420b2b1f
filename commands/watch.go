package commands

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/commands/process"
	"ntrack/output"
)

func watchCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "watch",
		Usage:     "show joins and leaves of a KEY, act on them, or wait for peers",
		UsageText: "ntrack watch [OPTIONS] [TRACKER] KEY [-- COMMAND ARGS...]",
		Description: "On a terminal it shows a table of the peers, as they come and go. Elsewhere, and\n" +
			"with -o text, it prints a line per change, `join IP:PORT` or `leave IP:PORT`.\n" +
			"The first lines are a join for each peer that is there. It joins only with\n" +
			"--port. A tracker that goes away does not end it, and does not make its peers\n" +
			"leave.\n\n" +
			"With --exec it runs CMD instead: first for the peers that are there, then after\n" +
			"each change, one run at a time. Changes during a run are for the next run, which\n" +
			"gets the newest list. If CMD fails, it runs again after 1s, 2s and so on up to\n" +
			"1m, until the list changes. CMD has NTRACK_EVENT, NTRACK_PEER, NTRACK_PEERS,\n" +
			"NTRACK_KEY and NTRACK_TRACKER, as `ntrack --help` says, and on standard input\n" +
			"  {\"event\":..,\"peer\":..,\"key\":..,\"tracker\":..,\"changes\":[..],\"peers\":[..]}\n\n" +
			"With --to it keeps FILE true: TEXT of --header, and a line by --format for each\n" +
			"other peer. A program that reads FILE gets the old list or the new one, never a\n" +
			"part. CMD of --exec runs at the start, and whenever FILE was replaced. A tracker\n" +
			"that is lost or restarted makes FILE no shorter, and the end of the watch leaves\n" +
			"it as it is.\n\n" +
			"With --min it is a barrier: it waits until N peers are there, itself included if\n" +
			"it joins by --port. Then it prints them, in the same order in each program, and\n" +
			"with -o json your rank among them. It stays for 2s more, so that the others see\n" +
			"N peers, too.\n\n" +
			"With --min and a COMMAND it runs COMMAND instead of printing, and stays a member\n" +
			"while COMMAND runs. COMMAND has NTRACK_RANK, NTRACK_SIZE, NTRACK_PEERS and\n" +
			"NTRACK_PORT, and for torch RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and\n" +
			"MASTER_PORT. Its signals and its exit code are as in ntrack announce.",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "port", Usage: "join while watching, with the `PORT` where your service is reached; with a COMMAND 0 is any free port"},
			&cli.BoolFlag{Name: "once", Usage: "wait for the first change, print the peers that are there then, and end"},
			&cli.StringFlag{Name: "exec", Usage: "run `CMD` by sh for each change, instead of printing it"},
			&cli.StringFlag{Name: "to", TakesFile: true, Usage: "with --format: keep `FILE` true, instead of printing each change: it has a line per peer, and is replaced as a whole after each change; then --exec runs"},
			&cli.StringFlag{Name: "header", Usage: "with --to: begin FILE with `TEXT`, which may have several lines"},
			&cli.DurationFlag{Name: "settle", Usage: "with --to or --exec: act `D` after a change, on all changes until then"},
			&cli.IntFlag{Name: "min", Usage: "wait until at least `N` peers are there, print them, and end"},
			&cli.BoolFlag{Name: "exactly", Usage: "with --min: more than N peers are an error"},
			&cli.DurationFlag{Name: "for", Usage: "with --min: wait `D` at most, even for a tracker that is away; then print the peers that are there, and exit with 5"},
			&cli.DurationFlag{Name: "every", Usage: "if the tracker has no event stream, look every `D`, at least 100ms, instead of at its interval"},
			&cli.StringFlag{Name: "on-leave", Value: "keep", Usage: "`WHAT` to do with COMMAND when one of those who met is gone for a second: keep or kill it, and exit with 6"},
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
	barrier     barrierOptions
	job         jobOptions
	request     announce.Request
	once, serve bool
	exec, shell string
	to          toFileOptions
	every       time.Duration
}

func (o *watchOptions) build(c *cli.Context, s Streams) error {
	if err := o.client.build(c, s); err != nil {
		return err
	}
	if err := o.needKey(c); err != nil {
		return err
	}
	o.request = announce.Request{Key: o.key}
	o.once, o.serve, o.exec, o.every = c.Bool("once"), c.Bool("serve"), c.String("exec"), c.Duration("every")
	var err error
	if o.request.Port, o.job.anyPort, err = parsePortFlag(c, ""); err != nil {
		return err
	}
	if err := atLeast(c, "every", 100*time.Millisecond); err != nil {
		return err
	}
	if err := o.buildBarrier(c); err != nil {
		return err
	}
	if err := o.buildFormat(c, o.fields(c)...); err != nil {
		return err
	}
	if err := o.buildJob(c); err != nil {
		return err
	}
	switch {
	case c.IsSet("exec") && strings.TrimSpace(o.exec) == "":
		return usage(c, "--exec: the command is empty")
	case o.exec != "" && (o.once || c.IsSet("output") || c.Bool("quiet")):
		return usage(c, "--exec goes with none of --once, --output and --quiet: it prints nothing itself")
	case o.exec != "" && o.template != nil && !c.IsSet("to"):
		return usage(c, "--exec goes with --format only if there is --to FILE for its lines")
	case o.exec != "":
		if o.shell, err = process.Find("sh"); err != nil {
			return fmt.Errorf("--exec: sh: %w", err)
		}
	}
	return o.buildToFile(c)
}

// fields are the fields of a template that depend on what watch does.
func (o *watchOptions) fields(c *cli.Context) []string {
	switch {
	case o.barrier.min > 0:
		return []string{output.FieldRank}
	case o.once || c.IsSet("to"):
		return nil
	}
	return []string{output.FieldEvent}
}

func (o *watchOptions) run(c *cli.Context, s Streams) error {
	if err := o.awaitTracker(c.Context, s); err != nil {
		return err
	}
	free, err := pickPort(o.job.anyPort, &o.request)
	if err != nil {
		return err
	}
	defer free.Release()
	ctx, cancel := context.WithCancelCause(c.Context)
	defer cancel(nil)
	o.useLabels(ctx)
	ending := "ending"
	if o.request.Port != 0 {
		ending = "leaving"
		if o.anyClassic() {
			o.keepSecret(s)
		}
		defer o.enterMembers(ctx, s, o.request)()
	}
	// A COMMAND or a FILE is of use even if nobody reads the output any more.
	if o.job.command == nil && o.to.name == "" {
		go func() {
			if waitReaderGone(s.rawOut) {
				cancel(errReaderGone)
			}
		}()
	}
	show := o.printer(s)
	var table *liveTable
	var runs *runner
	switch {
	case o.exec != "":
		runs = startRunner(ctx, s, o)
		show = runs.show
	case !o.once && o.format == output.Table && isTerminal(s.rawOut):
		table = startLiveTable(&s, o.barrier.min)
		defer table.end(false)
		show = table.show
	}
	defer s.noteSlowEnd(c.Context, ending)()
	if runs != nil {
		defer func() {
			cancel(nil)
			runs.end()
		}()
	}
	if o.barrier.min == 0 && (o.to.name != "" || o.to.settle > 0) {
		keep, err := startKeeper(ctx, s, o, runs)
		if err != nil {
			return err
		}
		defer func() {
			cancel(nil)
			keep.end()
		}()
		show = keep.show
	}
	look := lookout{s: s, client: &o.client, serve: o.serve}
	defer look.end()
	if err := look.begin(c); err != nil {
		return err
	}
	news := func(ev announce.Event, err error) error {
		switch {
		case is[*announce.SharedError](err):
			s.note("%v", err)
			return nil
		case err != nil:
			return look.requestFailed(ev.Tracker, err)
		case ev.Type == announce.EventPeers:
			look.requestAnswered(ev.Tracker)
		}
		return show(ev)
	}
	if o.barrier.min > 0 {
		return o.runBarrier(c, ctx, s, table, free, news)
	}
	o.Poll = o.every
	for ev, err := range o.Watch(ctx, o.trackers, o.request) {
		if err := news(ev, err); err != nil || o.once && ev.Type != announce.EventPeers {
			return err
		}
	}
	return context.Cause(ctx)
}

// printer returns a function that prints events. It prints a join for each peer of the first list,
// and then a line for each change. With --once it prints only the list after the first change. For a
// barrier it prints nothing.
func (o *watchOptions) printer(s Streams) func(announce.Event) error {
	started := false
	return func(ev announce.Event) error {
		first := !started
		started = true
		defer o.labels.keep(ev.Peers)
		switch {
		case o.barrier.min > 0:
		case ev.Type != announce.EventPeers && o.once:
			return o.writeReply(s.Out, o.trackers, &announce.Reply{
				Key: o.key, Endpoints: ev.You, Peers: ev.Peers, Count: len(ev.You) + len(ev.Peers)})
		case ev.Type != announce.EventPeers:
			return o.writeChange(s.Out, ev.Type, ev.Peer)
		case first && !o.once:
			for _, p := range ev.Peers {
				if err := o.writeChange(s.Out, announce.EventJoin, p); err != nil {
					return err
				}
			}
		}
		return nil
	}
}
