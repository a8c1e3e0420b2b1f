package commands

import (
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/output"
)

// buildFormat reads --format. more are the fields of a template that this command has, besides those
// that every peer has.
func (o *client) buildFormat(c *cli.Context, more ...string) error {
	if !c.IsSet("format") {
		return nil
	}
	for _, name := range []string{"output", "quiet"} {
		if c.IsSet(name) {
			return usage(c, "--format and --%s exclude each other", name)
		}
	}
	text := c.String("format")
	var err error
	if o.template, err = output.ParseTemplate(text, more...); err != nil {
		meant := ""
		switch output.Format(text) {
		case output.Table, output.JSON, output.Text:
			meant = "; did you mean -o " + text + "?"
		}
		return &usageError{command: c.Command.Name, text: fmt.Sprintf("--format: %v%s", err, meant), shows: meant != ""}
	}
	o.format = output.Text // what is true of it, such as that a program reads it, is true here, too
	return nil
}

// writeReply writes the peers of a reply as the user wants them.
func (o *client) writeReply(w io.Writer, trackers []announce.Tracker, r *announce.Reply) error {
	if o.template == nil {
		return output.WriteReply(w, o.format, trackers, r)
	}
	return o.writeRows(w, output.Rows(slices.SortedFunc(slices.Values(r.Peers), netip.AddrPort.Compare)))
}

// writeChange writes a peer that has joined or left as the user wants it.
func (o *client) writeChange(w io.Writer, event announce.EventType, peer netip.AddrPort) error {
	if o.template == nil {
		return output.WriteChange(w, o.format, event, peer)
	}
	return o.writeRows(w, []output.Row{{Peer: peer, Event: event}})
}

func (o *client) writeRows(w io.Writer, rows []output.Row) error {
	o.labels.fill(rows)
	if err := o.template.Write(w, rows...); err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	return nil
}
