package commands

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/commands/process"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store/memory"
)

func serveCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "run a tracker, in memory, with nothing to configure",
		UsageText: "ntrack serve [OPTIONS]",
		Description: "Serves the native interface at /ntrk/KEY and the BitTorrent one at /announce\n" +
			"and /scrape, on 127.0.0.1:6969 for this machine alone. Nothing is written to\n" +
			"disk. SIGINT or SIGTERM ends it: it serves the requests that have begun, and\n" +
			"exits with 0. SIGHUP makes it read the token file again, but on a terminal\n" +
			"SIGHUP ends it.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "listen", Usage: "listen on `ADDR`, such as :6969 for everybody, 0.0.0.0:6969 over IPv4 alone, or 127.0.0.1:0 for any free port; may be repeated", Value: cli.NewStringSlice("127.0.0.1:6969")},
			&cli.StringFlag{Name: "addr-file", TakesFile: true, Usage: "write the addresses listened on to `FILE`, one per line"},
			&cli.IntFlag{Name: "max-rate", Value: tracker.DefaultMaxRate, Usage: "stay within `N` announces per second: the more peers there are, the less often they are asked to announce, every 15 s to 30 min; 0 for no limit"},
			&cli.DurationFlag{Name: "interval", DefaultText: "from --max-rate", Usage: "instead ask peers to announce every `D`, whole seconds from 1s to 1h; they lapse after 2.5 times that"},
			&cli.BoolFlag{Name: "index", Usage: "show everybody every key, at /ntrk/ and by full scrape"},
			&cli.StringFlag{Name: "token-file", TakesFile: true, Usage: "serve only clients that send the access token in `FILE`"},
			&cli.IntFlag{Name: "max-keys", Usage: "keep at most `N` keys; 0 for no limit, here and below", Value: 1_000_000},
			&cli.IntFlag{Name: "max-peers", Usage: "keep at most `N` peers", Value: 10_000_000},
			&cli.IntFlag{Name: "max-peers-per-key", Usage: "keep at most `N` peers of one key", Value: 1_000_000},
			&cli.IntFlag{Name: "max-per-addr", Usage: "keep at most `N` peers of one IPv4 address or IPv6 /64, of all keys together", Value: 10_000},
			&cli.IntFlag{Name: "max-conns", Usage: "accept at most `N` connections at a time, or fewer if the limit of open files (ulimit -n) is low", Value: server.DefaultMaxConns},
			&cli.IntFlag{Name: "max-conns-per-addr", Usage: "accept at most `N` connections from one IPv4 address or IPv6 /64, but any number from this machine and from a --proxy", Value: server.DefaultMaxConnsPerAddr, DefaultText: "1000, or a quarter of all if that is less"},
			&cli.DurationFlag{Name: "request-timeout", Value: server.DefaultTimeout, Usage: "close a connection whose request takes longer than `D`, or that takes nothing of a reply for that long"},
			&cli.DurationFlag{Name: "idle-timeout", Value: server.DefaultIdle, DefaultText: "2m", Usage: "close a connection that has had no request for `D`"},
			&cli.StringSliceFlag{Name: "proxy", Usage: "trust X-Forwarded-For from reverse proxies in the network `CIDR`; may be repeated"},
		},
		Action: func(c *cli.Context) error {
			var o serveOptions
			o.takeHangups(s)
			if err := o.build(c, s); err != nil {
				return err
			}
			return o.run(c.Context, s)
		},
	}
}

type serveOptions struct {
	tracker   tracker.Tracker
	server    server.Server
	listen    []string
	addrFile  string
	tokenFile string
	hangups   chan os.Signal // receives SIGHUP; nil if SIGHUP ends the tracker
}

// takeHangups makes SIGHUP read the token file again, as is usual for daemons. On a terminal, SIGHUP
// means that the terminal was closed. Then it ends the tracker, unless nohup made ntrack ignore it.
func (o *serveOptions) takeHangups(s Streams) {
	if s.Signals != nil && (signal.Ignored(syscall.SIGHUP) || !process.OnTerminal()) {
		o.hangups = make(chan os.Signal, 1)
		s.Signals(o.hangups, syscall.SIGHUP)
	}
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
		return usage(c, "serve takes no arguments, and %q is one; keys need no setting up", shown(arg))
	}
	o.listen, o.addrFile = c.StringSlice("listen"), c.String("addr-file")
	for _, addr := range o.listen {
		if _, port, err := net.SplitHostPort(addr); err != nil || parsePort(port) < 0 {
			return usage(c, "--listen %q: [HOST]:PORT, such as :6969 or 127.0.0.1:0", shown(addr))
		}
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
	if err := o.buildLimits(c); err != nil {
		return err
	}
	for _, name := range []string{"request-timeout", "idle-timeout"} {
		if err := atLeast(c, name, time.Second); err != nil {
			return err
		}
	}
	o.server.Timeout, o.server.Idle = c.Duration("request-timeout"), c.Duration("idle-timeout")
	for _, p := range c.StringSlice("proxy") {
		network, err := parseNetwork(p)
		if err != nil {
			return usage(c, "--proxy %q: a network such as 10.0.0.0/8 or an address", shown(p))
		}
		if strings.Contains(p, "%") {
			s.note("--proxy %s: trusted on every network interface, because ntrack ignores the zone", shown(p))
		}
		o.tracker.Proxies = append(o.tracker.Proxies, network)
	}
	if file := c.String("token-file"); file != "" {
		token, err := readToken(c.Context, file, s.In)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		o.tracker.Token, o.tokenFile = token, file
	}
	return nil
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
	// For the fields of a Server, 0 means the default and -1 no limit.
	for name, limit := range map[string]*int{"max-conns": &o.server.MaxConns, "max-conns-per-addr": &o.server.MaxConnsPerAddr} {
		switch {
		case !c.IsSet(name):
			*limit = 0
		case *limit == 0:
			*limit = -1
		}
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

func (o *serveOptions) run(ctx context.Context, s Streams) error {
	limitGarbage()
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	var bound []string
	for _, addr := range o.listen {
		l, err := listen(addr, bound)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
		bound = append(bound, boundTo(l, addr))
	}
	if o.addrFile != "" {
		if err := writeFile(o.addrFile, strings.Join(bound, "\n")+"\n", 0o666); err != nil {
			return fmt.Errorf("--addr-file: %w", err)
		}
	}
	o.greet(s, bound)
	o.server.Tracker, o.server.Logf = &o.tracker, s.note
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- o.server.Serve(l) }()
	}
	for ctx.Err() == nil {
		select {
		case err := <-failed:
			return err
		case <-o.hangups:
			o.reload(ctx, s)
		case <-ctx.Done():
		}
	}
	shutdown(&o.server)
	if interruptedBy(syscall.SIGHUP)(context.Cause(ctx)) {
		return context.Cause(ctx)
	}
	return nil
}

// reload reads the token file again. If it cannot, the tracker keeps the old token.
func (o *serveOptions) reload(ctx context.Context, s Streams) {
	switch o.tokenFile {
	case "":
		s.note("SIGHUP: there is no --token-file to read again")
		return
	case "-":
		s.note("SIGHUP: --token-file -: standard input cannot be read again; the token stays")
		return
	}
	token, err := readToken(ctx, o.tokenFile, nil)
	if err != nil {
		s.note("SIGHUP: --token-file: %v; the token stays", err)
		return
	}
	o.tracker.SetToken(token)
	s.note("SIGHUP: the token has been read again from %s", wire.Clean(o.tokenFile))
}

// greet prints the addresses of the tracker, and commands that the user can try.
func (o *serveOptions) greet(s Streams, bound []string) {
	for i, addr := range bound {
		if ap, err := netip.ParseAddrPort(addr); err == nil && ap.Addr().IsUnspecified() {
			which := map[string]string{"tcp": "every", "tcp4": "every IPv4", "tcp6": "every IPv6"}[listenNetwork(o.listen[i])]
			s.note("tracker at port %d of %s address of this machine, in memory; Ctrl-C ends it", ap.Port(), which)
			continue
		}
		s.note("tracker at http://%s/ntrk/, in memory; Ctrl-C ends it", addr)
	}
	at := "" // the TRACKER argument that the commands below need
	if ap, err := netip.ParseAddrPort(bound[0]); err == nil {
		switch a := ap.Addr(); {
		case !a.IsUnspecified() && a != netip.IPv6Loopback() && a != loopback4():
			at = ap.String() + " "
		case ap.Port() != wire.LocalPort:
			at = fmt.Sprintf("localhost:%d ", ap.Port())
		}
	}
	if o.tokenFile != "" {
		at += "--token-file " + o.tokenFile + " "
	}
	s.note("try: ntrack announce %slobby --port 4000", at)
	s.note("     ntrack list %slobby", at)
}

// parseNetwork reads a network or an address. It ignores a zone.
func parseNetwork(s string) (netip.Prefix, error) {
	if address, zone, zoned := strings.Cut(s, "%"); zoned {
		s = address
		if _, bits, ok := strings.Cut(zone, "/"); ok {
			s += "/" + bits
		}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// loopback4 is the IPv4 address that localhost stands for.
func loopback4() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// listenNetwork is the network of a --listen, for [net.Listen]. An IP address is used for its own
// family only, so :: does not include IPv4.
func listenNetwork(addr string) string {
	switch a := literalOf(addr); {
	case a.Is4():
		return "tcp4"
	case a.Is6():
		return "tcp6"
	}
	return "tcp"
}

// literalOf is the IP address in a --listen. It is not valid if the --listen has a name or only a
// port.
func literalOf(addr string) netip.Addr {
	host, _, _ := net.SplitHostPort(wire.UnescapeZone(addr))
	a, _ := netip.ParseAddr(host)
	return a.Unmap()
}

// boundTo is the address at which l listens. Its zone comes from addr, the --listen, because a
// listener does not report a zone.
func boundTo(l net.Listener, addr string) string {
	at, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	return netip.AddrPortFrom(at.Addr().WithZone(literalOf(addr).Zone()), at.Port()).String()
}

// listen listens at addr, a --listen: an IP address, only a port for all addresses, or a name. Of a
// name it uses the first address, IPv4 before IPv6. bound are the addresses at which this process
// already listens.
func listen(addr string, bound []string) (net.Listener, error) {
	at, a := wire.UnescapeZone(addr), literalOf(addr)
	host, port, _ := net.SplitHostPort(at)
	if t, err := announce.ParseTracker(host); host != "" && !a.IsValid() && err == nil && t.Loopback() {
		at = net.JoinHostPort(loopback4().String(), port)
	}
	l, err := net.Listen(listenNetwork(addr), at)
	addr = shown(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && slices.ContainsFunc(bound, func(b string) bool { return strings.HasSuffix(b, ":"+port) }):
		return nil, fmt.Errorf("--listen %s: another --listen has this port already", addr)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %s is in use at %s: if `ntrack serve` runs there already, use it; else choose another by --listen 127.0.0.1:0", port, addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("--listen %s: not permitted; ports below 1024 are for root, choose a higher one", addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("--listen %s: not an address of this machine", addr)
	case errors.Is(err, syscall.EINVAL) && a.Is6() && a.IsLinkLocalUnicast():
		return nil, fmt.Errorf("--listen %s: a link-local address needs a network interface of this machine, as in [fe80::1%%eth0]:6969", addr)
	case err != nil:
		return nil, fmt.Errorf("--listen %s: %s", addr, wire.Clean(errors.Unwrap(err).Error()))
	}
	return l, nil
}

// shutdown stops a tracker. Requests that it has begun to serve may take five more seconds.
func shutdown(srv *server.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = srv.Shutdown(ctx)
}
