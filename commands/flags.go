package commands

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/output"
)

// The options of every command that speaks to a tracker.
func clientFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "tracker", Aliases: []string{"t"}, Usage: "the `TRACKER`, where it is no argument; repeat it, or use commas, to ask several at once [$NTRACK_TRACKER]"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: string(output.Table), Usage: "results as `FORM`: table, json or text"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "the same as -o text"},
		&cli.StringFlag{Name: "key-file", TakesFile: true, Usage: "read the KEY from `FILE` (- for standard input), so that it shows on no command line"},
		&cli.StringFlag{Name: "token-file", TakesFile: true, Usage: "read the tracker's access token from `FILE`"},
		&cli.StringFlag{Name: "ca", TakesFile: true, Usage: "trust the certificates in `FILE` (PEM) instead of the system's"},
		&cli.DurationFlag{Name: "timeout", Value: announce.DefaultTimeout, Usage: "give up a request after `D`"},
	}
}

// client is what those options come to.
type client struct {
	announce.Client
	trackers []announce.Tracker // one at least
	key      announce.Key       // empty where the command may go without
	// names are the trackers' and the key's as they were given.
	names  struct{ trackers, key string }
	format output.Format
	line   *line
}

// build reads the options and the arguments [TRACKER] [KEY].
func (o *client) build(c *cli.Context, s Streams) error {
	if err := readOnce(c); err != nil {
		return err
	}
	args := c.Args().Slice()
	o.line = lineOf(c)
	names, from, wanted := c.StringSlice("tracker"), "", "[TRACKER] KEY"
	if !c.IsSet("tracker") {
		names, from = strings.Split(os.Getenv("NTRACK_TRACKER"), ","), "$NTRACK_TRACKER: "
	}
	if c.IsSet("key-file") {
		wanted = "[TRACKER], with the KEY in --key-file"
		key, err := readLine(c.Context, c.String("key-file"), s.In)
		if err != nil {
			return fmt.Errorf("--key-file: %w", err)
		}
		args = append(args, key)
	}
	if len(args) > 2 {
		if c.IsSet("key-file") {
			return usage(c, "too many arguments: they are %s", wanted) // without the secret that was read
		}
		return o.line.tooMany(fmt.Sprintf("too many arguments at %q: they are %s", shown(args[2]), wanted))
	}
	if len(args) == 2 {
		if c.IsSet("tracker") {
			return o.line.tooMany("the tracker is given twice, as argument " + quote(args[0]) + " and by --tracker")
		}
		names, from, args = strings.Split(args[0], ","), "", args[1:]
	}
	for i, name := range names {
		if name = strings.TrimSpace(name); name == "" && len(names) > 1 {
			continue // after a last comma
		}
		t, err := announce.ParseTracker(name)
		if rest := strings.Join(names[i:], ","); err != nil && strings.Contains(rest, "@") && !strings.Contains(name, "@") {
			return usage(c, "%stracker %q: a comma inside a password has to be percent-encoded: %%2C", from, shown(rest))
		}
		if err != nil {
			return usage(c, "%s%v", from, err)
		}
		if !slices.ContainsFunc(o.trackers, t.Equal) {
			o.trackers = append(o.trackers, t)
		}
	}
	if len(o.trackers) == 0 {
		o.trackers = []announce.Tracker{{}}
	}
	if given := strings.Join(names, ""); from == "" && strings.TrimSpace(given) == "" {
		return usage(c, "the tracker is empty: host, host:port or a URL; leave it out for localhost:%d", wire.LocalPort)
	}
	o.names.trackers = strings.Join(names, ",")
	var err error
	if len(args) == 1 {
		if o.key, err = announce.ParseKey(args[0]); err != nil {
			return usage(c, "%v", err)
		}
		o.names.key = args[0]
	}
	o.format = output.Format(c.String("output"))
	switch o.format {
	case output.Table, output.JSON, output.Text:
	default:
		return usage(c, "--output %q: table, json or text", shown(string(o.format)))
	}
	if c.Bool("quiet") {
		if c.IsSet("output") && o.format != output.Text {
			return usage(c, "--quiet and --output %s exclude each other", o.format)
		}
		o.format = output.Text
	}
	if o.Timeout = c.Duration("timeout"); o.Timeout <= 0 {
		return usage(c, "--timeout %v: a duration above 0, such as 10s", o.Timeout)
	}
	if file := c.String("token-file"); file != "" {
		if o.Token, err = readToken(c.Context, file, s.In); err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
	}
	if file := c.String("ca"); file != "" {
		pem, err := readText(c.Context, file, s.In, 16<<20)
		if err != nil {
			return fmt.Errorf("--ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(pem)) {
			return fmt.Errorf("--ca: %s holds no certificate in PEM form", file)
		}
		o.TLS = &tls.Config{RootCAs: pool}
	}
	return nil
}

// readOnce refuses two options that would both read standard input: the second would find nothing.
func readOnce(c *cli.Context) error {
	first := ""
	for _, name := range []string{"key-file", "token-file", "ca"} {
		if file := c.String(name); file != "-" && file != "/dev/stdin" {
			continue
		}
		if first != "" {
			return usage(c, "--%s and --%s both read standard input, which is there once: name a file for one", first, name)
		}
		first = name
	}
	return nil
}

// needKey is for the commands that cannot go without.
func (o *client) needKey(c *cli.Context) error {
	if len(o.key.Bytes()) == 0 {
		return usage(c, "the KEY is missing: ntrack %s [TRACKER] KEY", c.Command.Name)
	}
	return nil
}

// environ is the environment of a command that is run: ntrack finds the same track in it.
func (o *client) environ() []string {
	trackers := o.names.trackers
	if trackers == "" {
		trackers = o.trackers[0].HostPort()
	}
	return append(os.Environ(), "NTRACK_TRACKER="+trackers, "NTRACK_KEY="+o.names.key)
}

// parsePort reads a port, in decimal, and is -1 for what is none.
func parsePort(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return -1
	}
	return int(n)
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

// sampleNote tells that the peers shown are not all there are.
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

func isCertificate(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

func isTimeout(err error) bool {
	u, ok := errors.AsType[*announce.UnreachableError](err)
	return ok && strings.HasPrefix(u.Err.Error(), "no answer within") || errors.Is(err, os.ErrDeadlineExceeded)
}

func isNoHost(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

// atLeast checks a duration that is given.
func atLeast(c *cli.Context, name string, least time.Duration) error {
	if d := c.Duration(name); c.IsSet(name) && d < least {
		return usage(c, "--%s %v: %v or more", name, d, least)
	}
	return nil
}
