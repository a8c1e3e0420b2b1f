package commands

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/page"
	"ntrack/tracker/server"
	"ntrack/tracker/server/admin"
	"ntrack/tracker/server/dns"
)

func serveCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "run a tracker, in memory, with nothing to configure",
		UsageText: "ntrack serve [OPTIONS]",
		Description: "Serves the native interface at /ntrk/KEY and the BitTorrent one at /announce\n" +
			"and /scrape, on 127.0.0.1:6969 for this machine alone. Nothing is written to\n" +
			"disk. SIGINT or SIGTERM ends it: it serves the requests that have begun, and\n" +
			"exits with 0. SIGHUP makes it read its files again, but on a terminal\n" +
			"SIGHUP ends it.\n\n" +
			"Every option may be in the environment instead: NTRACK_MAX_RATE=500 is\n" +
			"--max-rate 500, NTRACK_INDEX=true is --index, and commas separate the values of\n" +
			"an option that may be repeated. The command line takes precedence.",
		Flags: slices.Concat(listenFlags(), tlsFlags(), trackerFlags(), accessFlags(), denyFlags(), limitFlags(), storeFlags(), proxyFlags(), adminFlags(), dnsFlags(), drainFlags(), logFlags()),
		Action: func(c *cli.Context) error {
			var o serveOptions
			o.takeHangups(s)
			s, err := o.buildLog(c, s)
			if err != nil {
				return err
			}
			if err := o.build(c, s); err != nil {
				return o.logged(err, s)
			}
			return o.logged(o.run(c.Context, s), s)
		},
	}
}

// trackerFlags are the options that say how the tracker behaves.
func trackerFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "max-rate", Value: tracker.DefaultMaxRate, Usage: "stay within `N` announces per second: the more peers there are, the less often they are asked to announce, every 15 s to 30 min; 0 for no limit"},
		&cli.DurationFlag{Name: "interval", DefaultText: "from --max-rate", Usage: "instead ask peers to announce every `D`, whole seconds from 1s to 1h; they lapse after 2.5 times that"},
		&cli.BoolFlag{Name: "index", Usage: "show everybody every key, at /ntrk/ and by full scrape"},
		&cli.BoolFlag{Name: "page", Usage: "show every browser a page about a key and its peers; by default only browsers on this machine get it, or all with --index; --page=false turns it off"},
	}
}

type serveOptions struct {
	tracker     tracker.Tracker
	server      server.Server
	memory      memorySplit
	store       storeOptions
	admin       admin.Server
	adminAt     string // --admin; "" without it
	dns         dns.Server
	dnsAt       []string // --dns
	tls         tlsOptions
	listen      []string
	listenIsSet bool // listen is not the default
	addrFile    string
	drain       time.Duration
	tokenFile   string
	denyFile    string
	records     bool           // log records instead of notes
	hangups     chan os.Signal // receives SIGHUP; nil if SIGHUP ends the tracker
}

func (o *serveOptions) build(c *cli.Context, s Streams) error {
	if c.Args().Present() {
		arg := c.Args().First()
		if i := strings.LastIndexByte(arg, ':'); parsePort(arg[i+1:]) >= 0 && !strings.Contains(arg, "/") {
			if i < 0 {
				arg = "127.0.0.1:" + arg
			}
			return &usageError{shows: true, text: "serve takes no arguments; did you mean\n  ntrack serve --listen " + quote(arg)}
		}
		if options := lineOf(c).options; len(options) > 0 && !options[len(options)-1].takesValue() {
			for meant, words := range map[string]string{"": "yes on true", "=false": "no off false"} {
				if slices.Contains(strings.Fields(words), strings.ToLower(arg)) { // as in --page no
					typed := options[len(options)-1].typed
					return &usageError{shows: true, text: "serve takes no arguments; did you mean " + typed + meant + "?"}
				}
			}
		}
		return usage(c, "serve takes no arguments, and %q is one; keys need no setting up", shown(arg))
	}
	if err := o.buildListen(c); err != nil {
		return err
	}
	if err := o.buildTLS(c); err != nil {
		return err
	}
	if c.IsSet("interval") {
		o.tracker.Interval = c.Duration("interval")
		if d := o.tracker.Interval; d < time.Second || d > wire.MaxInterval || d%time.Second != 0 {
			return usage(c, "--interval %v: whole seconds from 1s to 1h", d)
		}
		if c.IsSet("max-rate") {
			return usage(c, "--interval and --max-rate exclude each other")
		}
	}
	switch n := c.Int("max-rate"); {
	case n < 0:
		return usage(c, "--max-rate %d: 0 or more", n)
	case n == 0:
		o.tracker.MaxRate = -1
	default:
		o.tracker.MaxRate = n
	}
	o.tracker.Index = c.Bool("index")
	if c.Bool("page") || !c.IsSet("page") {
		o.tracker.Page = page.Files()
		o.tracker.PageLocal = !c.Bool("page") && !o.tracker.Index
	}
	if err := o.buildLimits(c, s); err != nil {
		return err
	}
	if err := o.buildStore(c, s); err != nil {
		return err
	}
	if err := o.buildProxies(c, s); err != nil {
		return err
	}
	if err := o.buildAdmin(c); err != nil {
		return err
	}
	if err := o.buildDeny(c, s); err != nil {
		return err
	}
	if err := o.buildDrain(c); err != nil {
		return err
	}
	if err := o.buildAccess(c, s); err != nil {
		return err
	}
	return o.buildDNS(c, s)
}

func (o *serveOptions) run(ctx context.Context, s Streams) error {
	o.memory.limitGarbage(o.store.config.URL != "")
	if err := o.openStore(ctx, s); err != nil {
		if ctx.Err() != nil {
			return endedBy(ctx)
		}
		return err
	}
	defer o.closeStore()
	endpoints, err := o.openEndpoints()
	if err != nil {
		return err
	}
	defer closeAll(endpoints)
	o.greet(s, endpoints)
	s.log.Debug(o.memory.String())
	o.server.Tracker, o.server.Log = &o.tracker, s.log
	o.prepareAdmin(ctx, s, endpoints)
	defer o.admin.Close()
	o.dns.Tracker, o.dns.Log = &o.tracker, s.log
	defer o.dns.Close()
	o.runTLS(ctx, endpoints)
	failed := make(chan error, len(endpoints))
	for _, e := range endpoints {
		go func() {
			failed <- fmt.Errorf("the socket at %s accepts no more connections: %s; start the tracker again", e.shownAddress(), reasonOf(o.serveEndpoint(e)))
		}()
	}
	notifyReady(o.server.Log)
	watched, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go watchdog(watched, o.server.Log, o.server.Check)
	go o.watchStore(watched, s)
	for ctx.Err() == nil {
		select {
		case err := <-failed: // what still works ends as after a signal, so that its clients come back
			notifyStopping(o.server.Log, shutdownTime)
			shutdown(&o.server)
			return err
		case <-o.hangups:
			notifyReloading(o.server.Log)
			o.reload(ctx, s)
			notifyReady(o.server.Log)
		case <-ctx.Done():
		}
	}
	o.end(ctx)
	return endedBy(ctx)
}

// endedBy returns the result of serve after a signal: success, unless the terminal was closed.
func endedBy(ctx context.Context) error {
	if interruptedBy(syscall.SIGHUP)(context.Cause(ctx)) {
		return context.Cause(ctx)
	}
	return nil
}

// serveEndpoint serves an endpoint until the tracker ends or an accept fails.
func (o *serveOptions) serveEndpoint(e endpoint) error {
	switch e.kind {
	case adminEndpoint:
		return o.admin.Serve(e.listener)
	case dnsEndpoint:
		return o.dns.Serve(e.packets, e.listener)
	case tlsEndpoint:
		return o.server.ServeTLS(e.listener, o.tls.config)
	}
	return o.server.Serve(e.listener)
}
