package commands

import (
	"strings"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/output"
)

func listCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "list",
		Usage:     "print the peers of a KEY without joining, or every key",
		UsageText: "ntrack list [OPTIONS] [TRACKER] [KEY]",
		Description: "Prints the peers of KEY, sorted. One argument is the KEY; without a KEY it\n" +
			"prints the tracker's index (ntrack list -t TRACKER), where it shows one.",
		Flags: clientFlags(),
		Action: func(c *cli.Context) error {
			var o listOptions
			if err := o.build(c, s); err != nil {
				return err
			}
			return o.run(c, s)
		},
	}
}

type listOptions struct{ client }

// maxList is how many peers list asks for: a tracker's usual most.
const maxList = 1000

func (o *listOptions) run(c *cli.Context, s Streams) error {
	if len(o.key.Bytes()) == 0 {
		return o.index(c, s)
	}
	reply, err := o.List(c.Context, o.tracker, o.key, maxList)
	if err != nil {
		return err
	}
	if len(reply.Peers) == 0 && o.format == output.Table {
		s.note("no peers under %s", o.key)
		if c.NArg() == 1 && looksLikeTracker(o.key.String()) {
			s.note("one argument is the KEY; for the index of a tracker: ntrack list -t %s", o.key)
		}
	}
	if err := output.WriteReply(s.Out, o.format, o.tracker, reply); err != nil {
		return err
	}
	sampleNote(s, reply)
	return nil
}

// looksLikeTracker says that a key was perhaps meant as a tracker's name.
func looksLikeTracker(key string) bool {
	t, err := announce.ParseTracker(key)
	_, _, hasPort := strings.Cut(key, ":")
	return err == nil && (hasPort || t.Loopback())
}

// A hiddenIndexError says that the tracker shows no index, which is the usual way.
type hiddenIndexError struct{ *announce.Failure }

func (e *hiddenIndexError) Unwrap() error { return e.Failure }

func (o *listOptions) index(c *cli.Context, s Streams) error {
	tracks, err := o.Index(c.Context, o.tracker)
	if f, ok := err.(*announce.Failure); ok && f.Status == 404 {
		return &hiddenIndexError{f}
	}
	if err != nil {
		return err
	}
	if len(tracks) == 0 && o.format == output.Table {
		s.note("the tracker has no keys")
	}
	return output.WriteIndex(s.Out, o.format, o.tracker, tracks)
}
