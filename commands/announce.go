package commands

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/output"
)

func announceCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "announce",
		Usage:     "join a KEY, and print your endpoint and the other peers",
		UsageText: "ntrack announce [OPTIONS] [TRACKER] KEY [-- COMMAND ARGS...]",
		Description: "Lists you under KEY with the address the tracker sees, and prints who else is\n" +
			"there. The tracker forgets you after the ttl unless you announce again.\n\n" +
			"With a COMMAND it runs that and prints nothing. It joins once COMMAND can be\n" +
			"reached at the port, leaves when it ends, and ends with its exit code. A tracker\n" +
			"that is away does not disturb COMMAND, which finds $NTRACK_TRACKER, $NTRACK_KEY\n" +
			"and, once it has joined, its own IP:PORT in the file $NTRACK_SELF_FILE. Signals\n" +
			"reach it: Ctrl-C and the like from the terminal, all others through ntrack. On\n" +
			"Linux COMMAND, though not what it has started in turn, is killed when ntrack is.",
		Flags: slices.Concat([]cli.Flag{
			&cli.IntFlag{Name: "port", Usage: "the `PORT` where your service is reached; without it the port of origin of this connection is listed"},
			&cli.StringFlag{Name: "from", Usage: "connect from `[IP:]PORT`, so that the port of origin is your service's"},
			&cli.IntFlag{Name: "numwant", Usage: "at most `N` peers; 0 just joins", Value: wire.DefaultWant},
			&cli.BoolFlag{Name: "stay", Usage: "keep announced until interrupted, then leave"},
			&cli.BoolFlag{Name: "leave", Usage: "leave the KEY instead; needs --port or --from"},
			serveFlag(),
		}, childFlags(), clientFlags()),
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
	childOptions
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
	if c.IsSet("port") {
		port := c.Int("port")
		if port < 1 || port > 65535 {
			return usage(c, "--port %d: 1 to 65535 (to look without joining use `ntrack list`)", port)
		}
		o.request.Port = uint16(port)
	}
	if c.IsSet("from") {
		from, err := parseFrom(c.String("from"))
		if err != nil {
			return usage(c, "%v", err)
		}
		o.From = from
	}
	switch {
	case o.request.Want < 0:
		return usage(c, "--numwant %d: 0 or more", o.request.Want)
	case o.request.Want == 0:
		o.request.Want = announce.NoPeers
	}
	if err := o.buildChild(c); err != nil {
		return err
	}
	switch {
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
	ctx := c.Context
	o.keepSecret(s)
	if o.command != nil {
		return o.runChild(c, s)
	}
	if o.leave {
		_, _, err := askAll(ctx, &o.client, s, func(ctx context.Context, t announce.Tracker) (struct{}, error) {
			return struct{}{}, o.Leave(ctx, t, o.request)
		})
		return err
	}
	if !o.stay {
		trackers, reply, err := o.mergeAll(ctx, s, o.request.Want, func(ctx context.Context, t announce.Tracker) (*announce.Reply, error) {
			return o.Announce(ctx, t, o.request)
		})
		if err != nil {
			return err
		}
		return o.print(s, trackers, reply)
	}
	defer s.noteSlowEnd(ctx, "leaving")()
	there := presence{s: s, client: &o.client, serve: o.serve}
	defer there.end()
	if err := there.begin(c); err != nil {
		return err
	}
	defer o.stayTogether(ctx, s, o.request)()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var you []netip.AddrPort
	started := false
	err := o.Join(ctx, o.trackers, o.request, func(ev announce.Event, err error) {
		switch {
		case err != nil:
			if err := there.failed(ctx, ev.Tracker, err); err != nil {
				cancel(err)
			}
			return
		case ev.Type != announce.EventPeers:
			return
		}
		there.answered(ev.Tracker)
		if !started {
			if err := o.print(s, o.trackers, o.replied(ev)); err != nil {
				cancel(err)
			}
		} else if !slices.Equal(you, ev.You) {
			s.note("the tracker sees you as %s now", join(ev.You))
		}
		you, started = ev.You, true
	})
	s.couldNotLeave(err)
	return context.Cause(ctx)
}

// replied is a reply that says what the first event of a stay does.
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
	told := announce.Reply{Count: r.Count, Sample: r.Sample}
	for _, e := range ev.Peers {
		told.Peers = append(told.Peers, announce.Peer{Endpoint: e})
	}
	rand.Shuffle(len(told.Peers), func(i, j int) { told.Peers[i], told.Peers[j] = told.Peers[j], told.Peers[i] })
	r.Merge(&told, o.request.Want)
	return &r
}

func join(endpoints []netip.AddrPort) string {
	var s []string
	for _, e := range endpoints {
		s = append(s, e.String())
	}
	return strings.Join(s, ", ")
}

// print shows the reply to the first announce, with the notes that go with it.
func (o *announceOptions) print(s Streams, trackers []announce.Tracker, reply *announce.Reply) error {
	if err := output.WriteReply(s.Out, o.format, trackers, reply); err != nil {
		return err
	}
	if o.request.Want != announce.NoPeers {
		sampleNote(s, reply)
	}
	switch {
	case !reply.You.IsValid():
		s.note("this tracker does not tell which address it has listed")
	case o.request.Port == 0 && o.From.Port() == 0:
		s.note("port %d is where this connection came from, an ephemeral port nobody can dial; give your service's by --port N, or announce from it by --from :N", reply.You.Port())
	}
	return nil
}
