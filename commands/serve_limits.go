package commands

import (
	"math"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/tracker/server"
	"ntrack/tracker/store/memory"
)

// limitFlags are the options that limit what the tracker keeps and how long it waits.
func limitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "max-keys", Usage: "keep at most `N` keys; 0 for no limit, here and below", Value: 1_000_000},
		&cli.IntFlag{Name: "max-peers", Usage: "keep at most `N` peers", Value: 10_000_000},
		&cli.IntFlag{Name: "max-peers-per-key", Usage: "keep at most `N` peers of one key", Value: 1_000_000},
		&cli.IntFlag{Name: "max-per-addr", Usage: "keep at most `N` peers of one IPv4 address or IPv6 /64, of all keys together", Value: 10_000},
		&cli.IntFlag{Name: "max-conns", Usage: "accept at most `N` connections at a time, or fewer if the limit of open files (ulimit -n) is low", Value: server.DefaultMaxConns},
		&cli.IntFlag{Name: "max-conns-per-addr", Usage: "accept at most `N` connections from one IPv4 address or IPv6 /64, but any number from --exempt and --proxy", Value: server.DefaultMaxConnsPerAddr, DefaultText: "1000, or a quarter of all if that is less"},
		&cli.StringSliceFlag{Name: "exempt", Usage: "have no limits by address for the network `CIDR`, such as a gateway with many clients behind it; none for nobody; may be repeated", DefaultText: "127.0.0.0/8 and ::1"},
		&cli.DurationFlag{Name: "request-timeout", Value: server.DefaultTimeout, Usage: "close a connection whose request takes longer than `D`, or that takes nothing of a reply for that long"},
		&cli.DurationFlag{Name: "idle-timeout", Value: server.DefaultIdle, DefaultText: "2m", Usage: "close a connection that has had no request for `D`"},
	}
}

func (o *serveOptions) buildLimits(c *cli.Context) error {
	table := memory.New()
	for name, limit := range map[string]*int{
		"max-keys": &table.Limits.MaxKeys, "max-peers": &table.Limits.MaxPeers,
		"max-peers-per-key": &table.Limits.MaxPeersPerKey, "max-per-addr": &table.Limits.MaxPerAddr,
		"max-conns": &o.server.MaxConns, "max-conns-per-addr": &o.server.MaxConnsPerAddr,
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

// limitGarbage lets the process use little more memory than the table needs, unless the environment
// has settings for Go's garbage collector.
func limitGarbage() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(memory.GCPercent)
	}
}
