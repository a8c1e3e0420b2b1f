package commands

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/output"
)

// clientFlags are the options of every command that asks a tracker.
func clientFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "tracker", Aliases: []string{"t"}, Usage: "the `TRACKER`, if it is not an argument; repeat it, or use commas, to ask several at once [$NTRACK_TRACKER]"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: string(output.Table), Usage: "results as `FORM`: table, json or text"},
		&cli.StringFlag{Name: "format", Usage: "each peer as `TEMPLATE` (Go's text/template), such as '{{.IP}} {{.Port}}'; there are .IP, .Port, .Endpoint, .Scope and .Label, .Event in watch, and .Rank with --min"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "the same as -o text"},
		&cli.StringFlag{Name: "key-file", TakesFile: true, Usage: "read the KEY from `FILE` (- for standard input), which keeps it off the command line"},
		&cli.StringFlag{Name: "token-file", TakesFile: true, Usage: "read the tracker's access token from `FILE`"},
		&cli.StringFlag{Name: "ca", TakesFile: true, Usage: "trust the certificates in `FILE` (PEM) instead of the system's"},
		&cli.DurationFlag{Name: "timeout", Value: announce.DefaultTimeout, Usage: "give up a request after `D`"},
		&cli.DurationFlag{Name: "wait", Usage: "wait up to `D` for a tracker that is not there yet, instead of ending with 3", DefaultText: "not at all"},
	}
}

// A client holds the values of clientFlags and of the arguments [TRACKER] [KEY].
type client struct {
	announce.Client
	trackers []announce.Tracker             // at least one
	key      announce.Key                   // empty without a KEY, which only list accepts
	names    struct{ trackers, key string } // as the user wrote them; trackers may be ""
	format   output.Format
	template *output.Template // --format; nil without it, and otherwise format is Text
	labels   *labels          // nil unless the template uses labels
	wait     time.Duration    // --wait
	line     *line
}

func (o *client) build(c *cli.Context, s Streams) error {
	if err := checkStdin(c); err != nil {
		return err
	}
	o.line = lineOf(c)
	if err := o.buildTrack(c, s); err != nil {
		return err
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
	if o.wait = c.Duration("wait"); c.IsSet("wait") && o.wait <= 0 {
		return usage(c, "--wait %v: a duration above 0, such as 30s", o.wait)
	}
	if o.wait > 0 && c.Bool("serve") {
		return usage(c, "--wait and --serve exclude each other: with --serve the tracker is there at once")
	}
	if file := c.String("token-file"); file != "" {
		var err error
		if o.Token, err = readToken(c.Context, file, s); err != nil {
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

// buildTrack reads the trackers and the KEY. The trackers are in an argument or in --tracker, or else
// in $NTRACK_TRACKER. Without any of these, the tracker is localhost:6969.
func (o *client) buildTrack(c *cli.Context, s Streams) error {
	args := c.Args().Slice()
	names, fromEnv, expected := c.StringSlice("tracker"), false, "[TRACKER] KEY"
	if !c.IsSet("tracker") {
		names, fromEnv = strings.Split(os.Getenv("NTRACK_TRACKER"), ","), true
	}
	if c.IsSet("key-file") {
		expected = "[TRACKER], with the KEY in --key-file"
		key, err := readLine(c.Context, c.String("key-file"), s.In)
		if err != nil {
			return fmt.Errorf("--key-file: %w", err)
		}
		args = append(args, key)
	}
	if len(args) > 2 {
		if c.IsSet("key-file") {
			return usage(c, "too many arguments; expected %s", expected) // args[2] may be the secret KEY
		}
		return o.line.tooMany(fmt.Sprintf("too many arguments at %q; expected %s", shown(args[2]), expected))
	}
	if len(args) == 2 {
		if c.IsSet("tracker") {
			return o.line.tooMany("the tracker is given twice, as argument " + quote(args[0]) + " and by --tracker")
		}
		names, fromEnv, args = strings.Split(args[0], ","), false, args[1:]
	}
	// A comma at the end leaves an empty name. An empty variable means the same as an unset one.
	names = slices.DeleteFunc(names, func(name string) bool { return strings.TrimSpace(name) == "" })
	if len(names) == 0 && !fromEnv {
		return usage(c, "the tracker is empty: host, host:port or a URL; leave it out for localhost:%d", wire.LocalPort)
	}
	o.names.trackers = strings.Join(names, ",")
	var err error
	if o.trackers, err = announce.ParseTrackers(o.names.trackers); err != nil {
		if fromEnv {
			err = fmt.Errorf("$NTRACK_TRACKER: %w", err)
		}
		return usage(c, "%v", err)
	}
	if len(args) == 1 {
		if o.key, err = announce.ParseKey(args[0]); err != nil {
			return usage(c, "%v", err)
		}
		o.names.key = args[0]
	}
	return nil
}

// checkStdin refuses two options that both read standard input: the second one would get no data.
func checkStdin(c *cli.Context) error {
	first := ""
	for _, name := range []string{"key-file", "token-file", "ca"} {
		if file := c.String(name); file != "-" && file != "/dev/stdin" {
			continue
		}
		if first != "" {
			return usage(c, "--%s and --%s both read standard input, which can be read once: name a file for one of them", first, name)
		}
		first = name
	}
	return nil
}

// needKey returns an error if the user gave no KEY.
func (o *client) needKey(c *cli.Context) error {
	if len(o.key.Bytes()) == 0 {
		return usage(c, "the KEY is missing: ntrack %s [TRACKER] KEY", c.Command.Name)
	}
	return nil
}

func (o *client) anyClassic() bool { return slices.ContainsFunc(o.trackers, announce.Tracker.Classic) }

// environ is the environment of a program that ntrack runs. It has the KEY, and the trackers, which
// an ntrack that this program starts uses by default.
func (o *client) environ() []string {
	trackers := o.names.trackers
	if trackers == "" {
		trackers = o.trackers[0].HostPort()
	}
	return append(os.Environ(), "NTRACK_TRACKER="+trackers, "NTRACK_KEY="+o.names.key)
}

// atLeast refuses a duration that the user gave and that is shorter than least.
func atLeast(c *cli.Context, name string, least time.Duration) error {
	if d := c.Duration(name); c.IsSet(name) && d < least {
		return usage(c, "--%s %v: %v or more", name, d, least)
	}
	return nil
}

// parsePort reads a decimal port from 0 to 65535. It returns -1 for any other text.
func parsePort(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// askAll asks all trackers at the same time. It returns the trackers that answered, and their answers
// in the same order. If at least one tracker answered, askAll prints the errors of the others as
// notes. If none did, it returns the first error and prints the others.
func askAll[T any](ctx context.Context, o *client, s Streams, ask func(context.Context, announce.Tracker) (T, error)) ([]announce.Tracker, []T, error) {
	all, errs := make([]T, len(o.trackers)), make([]error, len(o.trackers))
	var wg sync.WaitGroup
	for i, t := range o.trackers {
		wg.Go(func() { all[i], errs[i] = ask(ctx, t) })
	}
	wg.Wait()
	// If ctx has ended, errors say nothing about the trackers. But an answer of the first tracker
	// counts.
	if ctx.Err() != nil && errs[0] != nil {
		return nil, nil, context.Cause(ctx)
	}
	var trackers []announce.Tracker
	var answers []T
	var failures []error
	for i, t := range o.trackers {
		if errs[i] == nil {
			trackers, answers = append(trackers, t), append(answers, all[i])
		} else {
			failures = append(failures, o.named(t, errs[i]))
		}
	}
	for i, err := range failures {
		if len(answers) > 0 || i > 0 {
			s.note("%s", brief(err))
		}
	}
	if len(answers) == 0 {
		return nil, nil, failures[0]
	}
	return trackers, answers, nil
}

// named adds the tracker's name to an error that does not have it, if there are several trackers.
func (o *client) named(t announce.Tracker, err error) error {
	if len(o.trackers) > 1 && is[*announce.RefusalError](err) {
		return fmt.Errorf("tracker %s: %w", t.HostPort(), err)
	}
	return err
}

// mergeAll asks all trackers about one track and merges their replies.
func (o *client) mergeAll(ctx context.Context, s Streams, want int, ask func(context.Context, announce.Tracker) (*announce.Reply, error)) ([]announce.Tracker, *announce.Reply, error) {
	trackers, replies, err := askAll(ctx, o, s, ask)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range replies[1:] {
		replies[0].Merge(r, want)
	}
	return trackers, replies[0], nil
}
