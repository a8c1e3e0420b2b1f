package commands

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/tracker/server/dns"
)

// dnsFlags are the options for names of the Domain Name System.
func dnsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "dns", Usage: "also answer DNS at `ADDR`, such as 192.0.2.1:53, over UDP and TCP: KEY.ZONE has the addresses of the peers of KEY; may be repeated"},
		&cli.StringFlag{Name: "dns-zone", Usage: "the `ZONE` of --dns, a domain for this alone, such as peers.example.org"},
	}
}

// buildDNS reads these options. It needs those of access.
func (o *serveOptions) buildDNS(c *cli.Context, s Streams) error {
	o.dnsAt = c.StringSlice("dns")
	for _, addr := range o.dnsAt {
		if err := checkListen(c, "dns", addr); err != nil {
			return err
		}
	}
	if c.IsSet("dns-zone") {
		zone, err := dns.ParseZone(c.String("dns-zone"))
		if err != nil {
			return usage(c, "--dns-zone %q: %v", shown(c.String("dns-zone")), err)
		}
		o.dns.Zone = zone
	}
	switch {
	case len(o.dnsAt) > 0 && o.dns.Zone == "":
		return usage(c, "--dns %s: needs the domain whose names it answers: --dns-zone ZONE, such as peers.example.org", shown(o.dnsAt[0]))
	case len(o.dnsAt) == 0 && o.dns.Zone != "":
		return usage(c, "--dns-zone %s: is for --dns ADDR, which is missing", o.dns.Zone)
	case len(o.dnsAt) > 0 && o.tokenFile != "":
		return usage(c, "--dns and --token-file exclude each other: a query of DNS has no token, so everybody could look")
	}
	return nil
}

// openDNS listens at each --dns. bound are the addresses at which this process already listens.
func (o *serveOptions) openDNS(bound []string) (endpoints []endpoint, err error) {
	for _, addr := range o.dnsAt {
		e, err := listenDNS(addr, bound)
		if err != nil {
			return endpoints, err
		}
		endpoints = append(endpoints, e)
		bound = append(bound, e.address)
	}
	return endpoints, nil
}

// listenDNS listens at addr over TCP, and over UDP at the same port.
func listenDNS(addr string, bound []string) (endpoint, error) {
	for attempts := 0; ; attempts++ {
		tcp, err := listen("--dns", addr, bound)
		if err != nil {
			return endpoint{}, err
		}
		e := endpoint{kind: dnsEndpoint, listener: tcp, option: addr, address: boundTo(tcp, addr)}
		udp, err := net.ListenUDP(map[string]string{"tcp": "udp", "tcp4": "udp4", "tcp6": "udp6"}[listenNetwork(addr)], udpAddr(tcp, addr))
		if err == nil {
			e.packets = udp
			return e, nil
		}
		_ = tcp.Close()
		if _, port, _ := net.SplitHostPort(addr); parsePort(port) != 0 || !errors.Is(err, syscall.EADDRINUSE) || attempts > 20 {
			return endpoint{}, dnsError(addr, err)
		}
		// A program uses the port that was free for TCP.
	}
}

// udpAddr is the address at which l listens.
func udpAddr(l net.Listener, addr string) *net.UDPAddr {
	at := l.Addr().(*net.TCPAddr)
	udp := &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone}
	if a := literalOf(addr); a.Zone() != "" {
		udp.Zone = a.Zone()
	}
	return udp
}

// dnsError explains why a --dns cannot have its port.
func dnsError(addr string, err error) error {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("--dns %s: another program has this port, such as a resolver; name one address of this machine, as in --dns 192.0.2.1:%d, or another port", shown(addr), n)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("--dns %s: not permitted; a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE", shown(addr))
	}
	return fmt.Errorf("--dns %s: %s", shown(addr), wire.Clean(reasonOf(err)))
}
