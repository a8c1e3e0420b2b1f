package commands

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
)

func announceCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "announce",
		Usage:     "join a KEY, and print your endpoint and the other peers",
		UsageText: "ntrack announce [OPTIONS] [TRACKER] KEY [-- COMMAND ARGS...]",
		Description: "Lists you under KEY with the address that the tracker sees, and prints the other\n" +
			"peers. The tracker forgets you after its ttl, such as 38 s, unless you announce\n" +
			"again. --stay does that for you.\n\n" +
			"With a COMMAND it runs COMMAND, and prints only notes. It joins once COMMAND can\n" +
			"be reached at the port. It leaves when COMMAND ends, and ends with the same exit\n" +
			"code. A tracker that is away does not disturb COMMAND. The environment of\n" +
			"COMMAND has NTRACK_TRACKER, NTRACK_KEY, NTRACK_PORT and NTRACK_SELF_FILE, a file\n" +
			"with its own IP:PORT. Signals reach COMMAND: Ctrl-C and the like from the\n" +
			"terminal, all others through ntrack. On Linux COMMAND is killed when ntrack is\n" +
			"killed, but not the programs that COMMAND has started.",
		Flags: slices.Concat([]cli.Flag{
			&cli.IntFlag{Name: "port", Usage: "the `PORT` where your service is reached; without it the tracker lists the random port of ntrack's own connection; with a COMMAND 0 is any free port"},
			&cli.StringFlag{Name: "from", Usage: "instead of --port: connect from `[IP:]PORT`, so that the tracker sees the port of your service"},
			&cli.IntFlag{Name: "numwant", Usage: "get at most `N` peers; 0 just joins", Value: wire.DefaultWant},
			&cli.StringFlag{Name: "label", Usage: "what you call yourself: a `TEXT` of at most 20 bytes, which everyone sees who lists the KEY"},
			&cli.BoolFlag{Name: "stay", Usage: "stay listed until Ctrl-C, then leave"},
			&cli.BoolFlag{Name: "leave", Usage: "leave the KEY instead; needs --port or --from"},
			serveFlag(),
		}, commandFlags(), clientFlags()),
		Action: func(c *cli.Context) error {
			var o announceOptions
			if err := o.build(c, s); err != nil {
				return err
			}
			return o.run(c, s)
		},
	}
}

type announceOptions struct {
	client
	commandOptions
	request            announce.Request
	stay, leave, serve bool
}

func (o *announceOptions) build(c *cli.Context, s Streams) error {
	if err := o.client.build(c, s); err != nil {
		return err
	}
	if err := o.needKey(c); err != nil {
		return err
	}
	o.stay, o.leave, o.serve = c.Bool("stay"), c.Bool("leave"), c.Bool("serve")
	o.request = announce.Request{Key: o.key, Want: c.Int("numwant")}
	var err error
	if o.request.Port, o.anyPort, err = parsePortFlag(c, " (to look without joining use `ntrack list`)"); err != nil {
		return err
	}
	if c.IsSet("from") {
		if o.From, err = parseFrom(c.String("from")); err != nil {
			return usage(c, "%v", err)
		}
	}
	switch {
	case o.request.Want < 0:
		return usage(c, "--numwant %d: 0 or more", o.request.Want)
	case o.request.Want == 0:
		o.request.Want = announce.NoPeers
	}
	if err := o.buildCommand(c); err != nil {
		return err
	}
	if err := o.buildFormat(c); err != nil {
		return err
	}
	if err := o.buildLabel(c); err != nil {
		return err
	}
	switch {
	case o.leave && o.template != nil:
		return usage(c, "--format and --leave exclude each other: leaving prints no peers")
	case o.stay && o.leave:
		return usage(c, "--stay and --leave exclude each other")
	case o.leave && o.request.Port == 0 && o.From.Port() == 0:
		return usage(c, "--leave needs --port or --from, to say which peer leaves")
	case o.serve && !o.stay && o.command == nil:
		return usage(c, "--serve needs --stay or a COMMAND: the tracker lives only as long as this command")
	}
	return nil
}

func (o *announceOptions) run(c *cli.Context, s Streams) error {
	if o.anyClassic() {
		o.keepSecret(s)
	}
	if o.command != nil {
		return o.runCommand(c, s)
	}
	if err := o.awaitTracker(c.Context, s); err != nil {
		return err
	}
	o.useLabels(c.Context)
	switch {
	case o.stay:
		return o.runStay(c, s)
	case o.leave:
		_, _, err := askAll(c.Context, &o.client, s, func(ctx context.Context, t announce.Tracker) (struct{}, error) {
			return struct{}{}, o.Leave(ctx, t, o.request)
		})
		return err
	}
	o.request.Labels = o.labels != nil
	trackers, reply, err := o.mergeAll(c.Context, s, o.request.Want, func(ctx context.Context, t announce.Tracker) (*announce.Reply, error) {
		return o.Announce(ctx, t, o.request)
	})
	if err != nil {
		return err
	}
	o.labels.know(reply)
	return o.print(s, trackers, reply)
}

// runStay keeps this process listed until the context ends.
func (o *announceOptions) runStay(c *cli.Context, s Streams) error {
	defer s.noteSlowEnd(c.Context, "leaving")()
	look := lookout{s: s, client: &o.client, serve: o.serve}
	defer look.end()
	if err := look.begin(c); err != nil {
		return err
	}
	defer o.enterMembers(c.Context, s, o.request)()
	ctx, cancel := context.WithCancelCause(c.Context)
	defer cancel(nil)
	var you []netip.AddrPort
	started := false
	m, err := o.Join(ctx, o.trackers, o.request, func(ev announce.Event, err error) {
		switch {
		case is[*announce.SharedError](err): // it may be the program that this one replaces
			s.note("%v", err)
			return
		case err != nil:
			if err := look.requestFailed(ev.Tracker, err); err != nil {
				cancel(err)
			}
			return
		case ev.Type != announce.EventPeers:
			return
		}
		look.requestAnswered(ev.Tracker)
		if !started {
			if err := o.print(s, o.trackers, o.replied(ev)); err != nil {
				cancel(err)
			}
		} else if !slices.Equal(you, ev.You) {
			s.note("the tracker sees you as %s now", commaList(ev.You))
		}
		you, started = ev.You, true
	})
	if err != nil {
		return err
	}
	// m ends when ctx does. It also ends if every tracker refuses, but then requestFailed has
	// returned an error, and this has ended ctx, too.
	<-m.Done()
	s.noteLeaveErrors(m.Leave(ctx))
	return context.Cause(ctx)
}

// replied turns the first event of a membership into a reply, which has at most o.request.Want peers.
func (o *announceOptions) replied(ev announce.Event) *announce.Reply {
	r := announce.Reply{Count: len(ev.Peers) + len(ev.You)}
	if ev.Reply != nil {
		r = *ev.Reply
		r.Peers = nil
	}
	r.Key, r.Endpoints = o.key, ev.You
	if len(ev.You) > 0 {
		r.You = ev.You[0]
	}
	others := announce.Reply{Count: r.Count, Sample: r.Sample, Peers: slices.Clone(ev.Peers)}
	// The peers are sorted. If Merge shortens the list, the rest has to be a random sample.
	rand.Shuffle(len(others.Peers), func(i, j int) { others.Peers[i], others.Peers[j] = others.Peers[j], others.Peers[i] })
	r.Merge(&others, o.request.Want)
	return &r
}

func commaList(endpoints []netip.AddrPort) string {
	var s []string
	for _, e := range endpoints {
		s = append(s, e.String())
	}
	return strings.Join(s, ", ")
}

// print writes the reply to the first announce as the result, and prints notes about it.
func (o *announceOptions) print(s Streams, trackers []announce.Tracker, reply *announce.Reply) error {
	if err := o.writeReply(s.Out, trackers, reply); err != nil {
		return err
	}
	if o.request.Want != announce.NoPeers {
		sampleNote(s, reply)
	}
	switch {
	case !reply.You.IsValid():
		s.note("this tracker does not report which address it lists")
	case o.request.Port == 0 && o.From.Port() == 0:
		s.note("port %d is where this connection came from, an ephemeral port that nobody can dial; give your service's port by --port N, or announce from it by --from :N", reply.You.Port())
	}
	return nil
}

// sampleNote prints the warning of the tracker. If there is none, it prints a note if the tracker may
// have more peers than it has sent.
func sampleNote(s Streams, r *announce.Reply) {
	switch {
	case r.Warning != "":
		s.note("the tracker warns: %s", r.Warning)
	case r.Sample && r.Count >= 0:
		s.note("%d of %d peers: the tracker gave a sample", len(r.Peers), r.Others())
	case r.Sample:
		s.note("%d peers: the tracker may have given a sample", len(r.Peers))
	}
}

// parseFrom reads [IP:]PORT.
func parseFrom(s string) (netip.AddrPort, error) {
	if n := parsePort(strings.TrimPrefix(s, ":")); n > 0 {
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
	}
	from, err := netip.ParseAddrPort(wire.UnescapeZone(s))
	if err != nil || from.Port() == 0 {
		return from, fmt.Errorf("--from %q: [IP:]PORT, such as :4000 or [2001:db8::1]:4000", shown(s))
	}
	return from, nil
}
