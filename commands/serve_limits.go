package commands

import (
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/tracker/server"
	"ntrack/tracker/store/memory"
)

// limitFlags are the options that limit what the tracker keeps and how long it waits.
func limitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "max-memory", Usage: "take at most `SIZE` of memory, such as 512M or 2G; a full tracker refuses new keys, then new peers, and evicts nobody", DefaultText: "half of what the machine or its cgroup has"},
		&cli.IntFlag{Name: "max-per-addr", Usage: "keep at most `N` peers of one IPv4 address or IPv6 /64, of all keys together; 0 for no limit, here and below", Value: 10_000},
		&cli.IntFlag{Name: "max-conns", Usage: "accept at most `N` connections at a time, or fewer if --max-memory or the limit of open files (ulimit -n) is low", Value: server.DefaultMaxConns},
		&cli.IntFlag{Name: "max-conns-per-addr", Usage: "accept at most `N` connections from one IPv4 address or IPv6 /64, but any number from --exempt and --proxy", Value: server.DefaultMaxConnsPerAddr, DefaultText: "1000, or a quarter of all if that is less"},
		&cli.StringSliceFlag{Name: "exempt", Usage: "have no limits by address for the network `CIDR`, such as a gateway with many clients behind it; none for nobody; may be repeated", DefaultText: "127.0.0.0/8 and ::1"},
		&cli.DurationFlag{Name: "request-timeout", Value: server.DefaultTimeout, Usage: "close a connection whose request takes longer than `D`, or that takes nothing of a reply for that long"},
		&cli.DurationFlag{Name: "idle-timeout", Value: server.DefaultIdle, DefaultText: "2m", Usage: "close a connection that has had no request for `D`"},
	}
}

func (o *serveOptions) buildLimits(c *cli.Context, s Streams) error {
	if err := o.buildMemory(c, s, os.DirFS("/")); err != nil {
		return err
	}
	table := memory.New()
	table.Limits.MaxBytes, o.server.MaxMemory, o.tracker.MaxIndex = o.memory.table, o.memory.connections, o.memory.index()
	for name, limit := range map[string]*int{
		"max-per-addr": &table.Limits.MaxPerAddr,
		"max-conns":    &o.server.MaxConns, "max-conns-per-addr": &o.server.MaxConnsPerAddr,
	} {
		if *limit = c.Int(name); *limit < 0 {
			return usage(c, "--%s %d: 0 or more", name, *limit)
		}
	}
	if n := table.Limits.MaxPerAddr; n > math.MaxUint16 {
		return usage(c, "--max-per-addr %d: 65535 at most, or 0 for no limit", n)
	}
	o.tracker.Store = table
	for _, name := range []string{"request-timeout", "idle-timeout"} {
		if err := atLeast(c, name, time.Second); err != nil {
			return err
		}
	}
	o.server.Timeout, o.server.Idle = c.Duration("request-timeout"), c.Duration("idle-timeout")
	// For the fields of a Server, 0 means the default and -1 no limit.
	for name, limit := range map[string]*int{"max-conns": &o.server.MaxConns, "max-conns-per-addr": &o.server.MaxConnsPerAddr} {
		switch {
		case !c.IsSet(name):
			*limit = 0
		case *limit == 0:
			*limit = -1
		}
	}
	return o.buildExempt(c)
}

// buildExempt reads the networks without limits by address.
func (o *serveOptions) buildExempt(c *cli.Context) error {
	values := c.StringSlice("exempt")
	if slices.Equal(values, []string{"none"}) {
		o.tracker.Exempt = []netip.Prefix{}
		return nil
	}
	for _, v := range values {
		if v == "none" {
			return usage(c, "--exempt none: not together with other values, which exempt somebody")
		}
		network, err := parseNetwork(v)
		if err != nil {
			return usage(c, "--exempt %q: a network such as 10.0.0.0/8, an address, or none", shown(v))
		}
		o.tracker.Exempt = append(o.tracker.Exempt, network)
	}
	return nil
}
