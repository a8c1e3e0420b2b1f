package commands

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/tracker"
)

// denyFlags is the option that says what the tracker refuses.
func denyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "deny", TakesFile: true, Usage: "refuse the keys and networks in `FILE`: on each line \"key KEY\", \"net CIDR\" or a comment that begins with #"},
	}
}

func (o *serveOptions) buildDeny(c *cli.Context, s Streams) error {
	if o.denyFile = c.String("deny"); o.denyFile == "" {
		return nil
	}
	if o.denyFile == "-" || o.denyFile == "/dev/stdin" {
		return usage(c, "--deny %s: name a file; standard input cannot be read again", o.denyFile)
	}
	var err error
	if o.tracker.Denial, err = readDenial(c.Context, o.denyFile); err != nil {
		return fmt.Errorf("--deny: %w", err)
	}
	return nil
}

func readDenial(ctx context.Context, file string) (*tracker.Denial, error) {
	text, err := readText(ctx, file, nil, 64<<20)
	if err != nil {
		return nil, err
	}
	d, err := tracker.ParseDenial(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return d, nil
}

// reloadDeny reads the --deny file again. If it cannot, the tracker keeps the old list.
func (o *serveOptions) reloadDeny(ctx context.Context, s Streams) {
	if o.denyFile == "" {
		return
	}
	d, err := readDenial(ctx, o.denyFile)
	if err == nil {
		err = o.tracker.SetDenial(ctx, d)
	}
	if err != nil {
		s.warn("SIGHUP: --deny: %v; the old list stays", err)
		return
	}
	keys, nets := d.Len()
	s.note("SIGHUP: the list of --deny has been read again from %s: keys %d, networks %d", wire.Clean(o.denyFile), keys, nets)
}
