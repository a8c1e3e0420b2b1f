package commands

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
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
		Usage:     "show who joins and leaves a KEY, act on it, or wait for peers",
		UsageText: "ntrack watch [OPTIONS] [TRACKER] KEY",
		Description: "On a terminal it shows a table of the peers, as they come and go. Elsewhere, and\n" +
			"with -o text, it prints a line per change, `join IP:PORT` or `leave IP:PORT`;\n" +
			"first a join for each peer there is. It only joins itself with --port. A tracker\n" +
			"that goes away does not end it, nor make it report leaves.\n\n" +
			"With --exec it runs CMD instead: first for the peers there are, then after each\n" +
			"change, one run at a time. What changes meanwhile is for the next run: that gets\n" +
			"the list as it is then. A run that fails is tried again after 1s, 2s and so on\n" +
			"up to 1m, until the list changes. The run's standard input is\n" +
			"  {\"event\":..,\"peer\":..,\"key\":..,\"tracker\":..,\"changes\":[..],\"peers\":[..]}\n" +
			"and it has NTRACK_EVENT (join or leave of NTRACK_PEER; or peers, for the first\n" +
			"list and for several changes), NTRACK_PEERS, NTRACK_KEY and NTRACK_TRACKER.\n\n" +
			"With --min it is a barrier: it waits until N peers are there, itself included if\n" +
			"it joins by --port, and prints them, sorted the same way for everybody; -o json\n" +
			"has your rank among them. It stays a member 2s more, so that the others see N.",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "port", Usage: "join while watching, with the `PORT` where your service is reached"},
			&cli.BoolFlag{Name: "once", Usage: "wait for the first change, print the peers there are then, and end"},
			&cli.StringFlag{Name: "exec", Usage: "run `CMD` by sh for each change, instead of printing it"},
			&cli.IntFlag{Name: "min", Usage: "wait until at least `N` peers are there, print them, and end"},
			&cli.BoolFlag{Name: "exactly", Usage: "with --min: more than N are an error"},
			&cli.DurationFlag{Name: "for", Usage: "with --min: wait so long, `D`, at most, for the tracker too; then print who is there, and exit with 5"},
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
	request              announce.Request
	once, serve, exactly bool
	exec, shell          string
	min                  int
	atMost, every        time.Duration
}

func (o *watchOptions) build(c *cli.Context, s Streams) error {
	if err := o.client.build(c, s); err != nil {
		return err
	}
	if err := o.needKey(c); err != nil {
		return err
	}
	o.request = announce.Request{Key: o.key}
	o.once, o.serve, o.exactly, o.exec = c.Bool("once"), c.Bool("serve"), c.Bool("exactly"), c.String("exec")
	o.min, o.atMost, o.every = c.Int("min"), c.Duration("for"), c.Duration("every")
	if c.IsSet("port") {
		port := c.Int("port")
		if port < 1 || port > 65535 {
			return usage(c, "--port %d: 1 to 65535", port)
		}
		o.request.Port = uint16(port)
	}
	if err := atLeast(c, "every", 100*time.Millisecond); err != nil {
		return err
	}
	barrier := c.IsSet("min")
	switch {
	case barrier && o.min < 1:
		return usage(c, "--min %d: 1 or more", o.min)
	case !barrier && (o.exactly || c.IsSet("for")):
		return usage(c, "--for and --exactly need --min: they say how to wait for peers")
	case c.IsSet("for") && o.atMost <= 0:
		return usage(c, "--for %v: a duration above 0, such as 60s", o.atMost)
	case barrier && (o.once || o.exec != "" || c.IsSet("every")):
		return usage(c, "--min goes with none of --once, --exec and --every")
	case barrier && len(o.trackers) > 1:
		return usage(c, "--min: everybody has to meet at one tracker, and %d are given", len(o.trackers))
	case c.IsSet("exec") && strings.TrimSpace(o.exec) == "":
		return usage(c, "--exec: the command is empty")
	case o.exec != "" && (o.once || c.IsSet("output") || o.format == output.Text):
		return usage(c, "--exec goes with none of --once, --output and --quiet: it prints nothing itself")
	case o.exec != "":
		var err error
		if o.shell, err = process.Find("sh"); err != nil {
			return fmt.Errorf("--exec: sh: %w", err)
		}
	}
	return nil
}

func (o *watchOptions) run(c *cli.Context, s Streams) error {
	ctx, cancel := context.WithCancelCause(c.Context)
	defer cancel(nil)
	if o.request.Port != 0 {
		o.keepSecret(s)
		defer o.stayTogether(ctx, s, o.request)()
	}
	go func() {
		if waitReaderGone(s.Out) {
			cancel(errReaderGone)
		}
	}()
	show := o.printer(s)
	var table *view
	var runs *runner
	switch {
	case o.exec != "":
		runs = startRunner(ctx, s, o)
		show = runs.tell
	case !o.once && o.format == output.Table && isTerminal(s.Out):
		table = startView(&s, o.min)
		defer table.end(false)
		show = table.tell
	}
	ending := "ending"
	if o.request.Port != 0 {
		ending = "leaving"
	}
	defer s.noteSlowEnd(c.Context, ending)()
	if runs != nil {
		defer func() {
			cancel(nil)
			runs.end()
		}()
	}
	there := presence{s: s, client: &o.client, serve: o.serve}
	defer there.end()
	if err := there.begin(c); err != nil {
		return err
	}
	news := func(ev announce.Event, err error) error {
		if is[*announce.SharedError](err) {
			s.note("%v", err)
			return nil
		}
		if err != nil {
			return there.failed(ctx, ev.Tracker, err)
		}
		if ev.Type == announce.EventPeers {
			there.answered(ev.Tracker)
		}
		return show(ev)
	}
	if o.min > 0 {
		return o.gather(c, ctx, s, table, news)
	}
	for ev, err := range o.Watch(ctx, o.trackers, o.request, o.every) {
		if err := news(ev, err); err != nil || o.once && ev.Type != announce.EventPeers {
			return err
		}
	}
	return context.Cause(ctx)
}

// printer prints a line for each change, and first one for each peer there is; with --once only
// the list after the first change; while waiting for peers nothing.
func (o *watchOptions) printer(s Streams) func(announce.Event) error {
	started := false
	return func(ev announce.Event) error {
		first := !started
		started = true
		switch {
		case o.min > 0:
		case ev.Type != announce.EventPeers && o.once:
			return output.WritePeers(s.Out, o.format, o.trackers, o.key, ev.You, ev.Peers)
		case ev.Type != announce.EventPeers:
			return output.WriteEvent(s.Out, o.format, ev.Type, ev.Peer)
		case first && !o.once:
			for _, p := range ev.Peers {
				if err := output.WriteEvent(s.Out, o.format, announce.EventJoin, p); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// errTimeUp ends a wait of --for.
var errTimeUp = errors.New("time is up")

// gather waits for peers and prints them, in place of the live table, if there is one. That nobody
// reads the results any more ends the waiting, but not the staying after it.
func (o *watchOptions) gather(c *cli.Context, waiting context.Context, s Streams, table *view, news func(announce.Event, error) error) error {
	if o.atMost > 0 {
		limited, cancel := context.WithTimeoutCause(waiting, o.atMost, errTimeUp)
		defer cancel()
		waiting = limited
	}
	gather := func() (*announce.Gathering, error) {
		return o.Gather(waiting, o.trackers[0], o.request, o.min, func(ev announce.Event, err error) { _ = news(ev, err) })
	}
	g, err := gather()
	for pause := time.Duration(0); o.atMost > 0 && mayMend(err); g, err = gather() {
		if pause == 0 {
			s.note("%s; trying again for %v", brief(err), o.atMost)
		}
		pause = min(longer(pause), 15*time.Second)
		select {
		case <-waiting.Done():
		case <-time.After(pause/2 + rand.N(pause/2)): // not all who wait at the same moment
		}
	}
	switch {
	case errors.Is(err, errTimeUp):
		err = fmt.Errorf("%d of %d peers after %v: %w", len(g.Peers), o.min, o.atMost, err)
	case err != nil:
		return err
	}
	table.end(true)
	if surplus := len(g.Peers) - o.min; o.exactly && surplus > 0 {
		err = fmt.Errorf("%d peers are there, not exactly %d; surplus: %s", len(g.Peers), o.min, few(g.Peers[o.min:]))
	} else if err2 := output.WriteGathering(s.Out, o.format, g.Rank, g.Peers); err2 != nil {
		err = err2
	}
	g.Leave(c.Context)
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	return err
}

// mayMend says that a tracker may answer later as it did not this time: it is not there, or cannot.
func mayMend(err error) bool {
	f, refused := errors.AsType[*announce.RefusalError](err)
	return is[*announce.UnreachableError](err) || refused && f.Status >= 500
}

// few is a list of peers that fits into a message.
func few(peers []netip.AddrPort) string {
	const most = 10
	var names []string
	for _, p := range peers[:min(most, len(peers))] {
		names = append(names, p.String())
	}
	if n := len(peers) - most; n > 0 {
		names = append(names, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
}
