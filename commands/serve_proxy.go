package commands

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// proxyFlags are the options for trackers behind reverse proxies.
func proxyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "proxy", Usage: "trust X-Forwarded-For from reverse proxies in the network `CIDR`; may be repeated"},
		&cli.BoolFlag{Name: "proxy-protocol", Usage: "require the PROXY protocol, version 1 or 2, on every connection from a --proxy and by a Unix socket"},
	}
}

func (o *serveOptions) buildProxies(c *cli.Context, s Streams) error {
	for _, p := range c.StringSlice("proxy") {
		network, err := parseNetwork(p)
		if err != nil {
			return usage(c, "--proxy %q: a network such as 10.0.0.0/8 or an address", shown(p))
		}
		if strings.Contains(p, "%") {
			s.note("--proxy %s: trusted on every network interface, because ntrack ignores the zone", shown(p))
		}
		if network.Bits() == 0 {
			s.warn("--proxy %s: every client may name any address as its own; name only your proxies", shown(p))
		}
		o.tracker.Proxies = append(o.tracker.Proxies, network)
	}
	isUnix := func(addr string) bool { return strings.HasPrefix(addr, unixPrefix) }
	o.server.ProxyProtocol = c.Bool("proxy-protocol")
	if o.server.ProxyProtocol && len(o.tracker.Proxies) == 0 && !slices.ContainsFunc(o.listen, isUnix) {
		return usage(c, "--proxy-protocol: also name the proxies that send it, by --proxy CIDR or --listen unix:PATH")
	}
	return nil
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
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() && p.Bits() < 96 {
		return p, errors.New("IPv4-mapped addresses have 96 bits before the IPv4 address")
	}
	return p, err
}
