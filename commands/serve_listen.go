package commands

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// listenFlags are the options that say where the tracker listens.
func listenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "listen", Usage: "listen on `ADDR`, such as :6969 for everybody, 0.0.0.0:6969 over IPv4 alone, or 127.0.0.1:0 for any free port; unix:PATH is a Unix socket for a reverse proxy on this machine; may be repeated", Value: cli.NewStringSlice("127.0.0.1:6969")},
		&cli.StringFlag{Name: "addr-file", TakesFile: true, Usage: "write the addresses listened on to `FILE`, one per line"},
	}
}

func (o *serveOptions) buildListen(c *cli.Context) error {
	o.listen, o.listenIsSet, o.addrFile = c.StringSlice("listen"), c.IsSet("listen"), c.String("addr-file")
	if !o.listenIsSet && c.IsSet("listen-tls") {
		o.listen = nil // the operator has said where to listen, and the default is not among it
	}
	for _, addr := range o.listen {
		if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
			if err := checkUnixPath(c, path); err != nil {
				return err
			}
			continue
		}
		if err := checkListen(c, "listen", addr); err != nil {
			return err
		}
	}
	return nil
}

// checkListen checks the form of an address for option.
func checkListen(c *cli.Context, option, addr string) error {
	if _, port, err := net.SplitHostPort(addr); err != nil || parsePort(port) < 0 {
		example := map[string]string{"listen": ":6969", "listen-tls": ":443", "dns": "192.0.2.1:53"}[option]
		return usage(c, "--%s %q: [HOST]:PORT, such as %s or 127.0.0.1:0", option, shown(addr), example)
	}
	return nil
}

// An endpoint is a socket at which serve listens.
type endpoint struct {
	kind     endpointKind
	listener net.Listener
	packets  *net.UDPConn // of a dnsEndpoint
	option   string       // the value of --listen or --listen-tls that it comes from
	address  string       // where it listens
	audience string       // who can reach it; "" if the address says that (see reach)
}

// An endpointKind says what an endpoint serves.
type endpointKind string

const (
	plainEndpoint endpointKind = "plain" // the tracker without TLS
	tlsEndpoint   endpointKind = "tls"   // the tracker over TLS
	adminEndpoint endpointKind = "admin" // what only the operator may see
	dnsEndpoint   endpointKind = "dns"   // names, over UDP and TCP
)

// openEndpoints listens at all addresses, and writes them to the --addr-file. If systemd passes
// sockets, it does not listen at the default address.
func (o *serveOptions) openEndpoints() (endpoints []endpoint, err error) {
	defer func() {
		if err != nil {
			closeAll(endpoints)
		}
	}()
	if endpoints, err = activatedEndpoints(); err != nil {
		return nil, err
	}
	var bound []string
	for _, e := range endpoints {
		if err := o.serves(e.kind); err != nil {
			return endpoints, err
		}
		if e.kind != adminEndpoint {
			bound = append(bound, e.address)
		}
	}
	activated := endpoints
	if len(activated) > 0 && !o.listenIsSet {
		o.listen = nil
	}
	for _, group := range []struct {
		kind   endpointKind
		option string
		addrs  []string
	}{{plainEndpoint, "--listen", o.listen}, {tlsEndpoint, "--listen-tls", o.tls.listen}} {
		for _, addr := range group.addrs {
			l, err := listen(group.option, addr, bound)
			if errors.Is(err, errTaken) && len(activated) > 0 {
				err = fmt.Errorf("%w; if systemd opened it, remove %s, or its ListenStream= from the .socket unit", err, group.option)
			}
			if err != nil {
				return endpoints, err
			}
			endpoints = append(endpoints, endpoint{kind: group.kind, listener: l, option: addr, address: boundTo(l, addr)})
			bound = append(bound, boundTo(l, addr))
		}
	}
	if err := o.checkTLSEndpoint(endpoints); err != nil {
		return endpoints, err
	}
	if o.addrFile != "" {
		if err := writeFile(o.addrFile, strings.Join(bound, "\n")+"\n", 0o666); err != nil {
			return endpoints, fmt.Errorf("--addr-file %s: %s", wire.Clean(o.addrFile), reasonOf(err))
		}
	}
	admin, err := o.openAdmin(bound)
	if endpoints = append(endpoints, admin...); err != nil {
		return endpoints, err
	}
	names, err := o.openDNS(bound)
	return append(endpoints, names...), err
}

// serves returns an error if a socket of this kind came from systemd and the options do not say how to
// serve it.
func (o *serveOptions) serves(kind endpointKind) error {
	if kind == tlsEndpoint && o.tls.config == nil {
		return fmt.Errorf("systemd socket %q needs a certificate: "+certOptions, kind)
	}
	return nil
}

func closeAll(endpoints []endpoint) {
	for _, e := range endpoints {
		_ = e.listener.Close()
		if e.packets != nil {
			_ = e.packets.Close()
		}
	}
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
	if strings.HasPrefix(addr, unixPrefix) {
		return addr
	}
	at, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	return netip.AddrPortFrom(at.Addr().WithZone(literalOf(addr).Zone()), at.Port()).String()
}

// errTaken ends the message about an address at which this process already listens.
var errTaken = errors.New("already")

// listen listens at addr, the value of option: a Unix socket, an IP address, only a port for all
// addresses, or a name. Of a name it uses the first address, IPv4 before IPv6. bound are the
// addresses at which this process already listens.
func listen(option, addr string, bound []string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		if slices.Contains(bound, addr) {
			return nil, fmt.Errorf("%s %s: another %s has this path %w", option, shown(addr), option, errTaken)
		}
		return listenUnix(path)
	}
	at, a := wire.UnescapeZone(addr), literalOf(addr)
	host, port, _ := net.SplitHostPort(at)
	if t, err := announce.ParseTracker(host); host != "" && !a.IsValid() && err == nil && t.Loopback() {
		at = net.JoinHostPort(loopback4().String(), port)
	}
	l, err := net.Listen(listenNetwork(addr), at)
	addr = shown(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && slices.ContainsFunc(bound, func(b string) bool { return strings.HasSuffix(b, ":"+port) }):
		return nil, fmt.Errorf("%s %s: another listener of this tracker has this port %w", option, addr, errTaken)
	case option == "--dns" && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)):
		return nil, dnsError(addr, err)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %s is in use at %s: if `ntrack serve` runs there already, use it; else choose another by %s 127.0.0.1:0", port, addr, option)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s %s: not permitted; ports below 1024 are for root, choose a higher one", option, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s: not an address of this machine; use one, or :%s for all of them", option, addr, port)
	case errors.Is(err, syscall.EINVAL) && a.Is6() && a.IsLinkLocalUnicast():
		return nil, fmt.Errorf("%s %s: a link-local address needs a network interface of this machine, as in [fe80::1%%eth0]:6969", option, addr)
	case isNoHost(err):
		return nil, fmt.Errorf("%s %s: this name has no address; use an address of this machine, or :%s for all of them", option, addr, port)
	case is[*net.DNSError](err):
		return nil, fmt.Errorf("%s %s: DNS fails; check whether this machine reaches its name server, or use an address of it", option, addr)
	case err != nil:
		return nil, fmt.Errorf("%s %s: %s", option, addr, wire.Clean(errors.Unwrap(err).Error()))
	}
	return l, nil
}
