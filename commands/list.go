package commands

import (
	"context"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/output"
)

func listCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "list",
		Usage:     "print the peers of a KEY without joining it, or print all keys",
		UsageText: "ntrack list [OPTIONS] [TRACKER] [KEY]",
		Description: "Prints the peers of KEY, sorted. A single argument is the KEY. Without a KEY,\n" +
			"as in ntrack list -t TRACKER, it prints every key, if the tracker shows them.",
		Flags: clientFlags(),
		Action: func(c *cli.Context) error {
			var o listOptions
			if err := o.build(c, s); err != nil {
				return err
			}
			if err := o.buildFormat(c); err != nil {
				return err
			}
			if o.template != nil && len(o.key.Bytes()) == 0 {
				return usage(c, "--format needs a KEY: it is for peers; for keys use -o")
			}
			return o.run(c, s)
		},
	}
}

type listOptions struct{ client }

// maxList is the number of peers for which list asks. It is also the most that an event stream
// reports.
const maxList = 10_000

func (o *listOptions) run(c *cli.Context, s Streams) error {
	if err := o.awaitTracker(c.Context, s); err != nil {
		return err
	}
	if len(o.key.Bytes()) == 0 {
		return o.index(c, s)
	}
	o.useLabels(c.Context)
	request := announce.Request{Key: o.key, Want: maxList, Labels: o.format != output.Text || o.labels != nil}
	trackers, reply, err := o.mergeAll(c.Context, s, maxList, func(ctx context.Context, t announce.Tracker) (*announce.Reply, error) {
		return o.List(ctx, t, request)
	})
	if err != nil {
		return err
	}
	o.labels.know(reply)
	if len(reply.Peers) == 0 && o.format == output.Table {
		s.note("no peers under %s", shown(o.key.String()))
		s.notes(lineOf(c).guessAlone()) // the only argument may have been meant as the TRACKER
	}
	if err := o.writeReply(s.Out, trackers, reply); err != nil {
		return err
	}
	sampleNote(s, reply)
	if len(reply.Peers) > maxLabels && len(reply.Labels) > 0 {
		s.note("of %d peers only %d have their labels here: a tracker sends no more", len(reply.Peers), maxLabels)
	}
	return nil
}

func (o *listOptions) index(c *cli.Context, s Streams) error {
	trackers, indexes, err := askAll(c.Context, &o.client, s, func(ctx context.Context, t announce.Tracker) ([]announce.Track, error) {
		tracks, err := o.Index(ctx, t)
		if f, ok := err.(*announce.RefusalError); ok && f.Status == 404 {
			err = &hiddenIndexError{f}
		}
		return tracks, err
	})
	if err != nil {
		return err
	}
	tracks := wire.MergeTracks(indexes...)
	if len(tracks) == 0 && o.format == output.Table {
		s.note("the tracker has no keys")
	}
	return output.WriteIndex(s.Out, o.format, trackers, tracks)
}
