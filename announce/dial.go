package announce

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ntrack/announce/wire"
)

// How a client connects to a name with several addresses (RFC 8305).
const (
	// headStart is how long a client tries one address before it also tries the next one. With many
	// addresses the time is shorter, so that the client tries all within half of the timeout.
	headStart = 200 * time.Millisecond
	// maxAddrs bounds the number of addresses, and so the connections that a DNS reply can cause.
	maxAddrs = 32
	// maxResolved bounds for how many names a client keeps the addresses. Redirects may lead to many.
	maxResolved = 16
)

// dial connects to a tracker within the timeout of a request, from c.From if that is set.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	// ctx has no deadline: the transport of net/http has removed the deadline of the request.
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	if c.network != "" {
		network = c.network
	}
	if c.Dial != nil {
		return c.Dial(ctx, network, addr)
	}
	if from := c.From.Addr(); from.IsValid() {
		network = networkOf(from)
	}
	addrs, err := c.resolve(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return race(ctx, addrs, c.connect)
}

// dialTLS is dial for https. If the host is an address with a zone, dialTLS checks the certificate
// for the address without the zone.
func (c *Client) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	cn, err := c.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := c.TLS.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		host, _, _ := net.SplitHostPort(addr)
		config.ServerName, _, _ = strings.Cut(host, "%")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	secure := tls.Client(cn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = cn.Close()
		return nil, err
	}
	return secure, nil
}

// resolve returns the addresses of a name. If network allows both families, the addresses of the two
// alternate. resolve does not ask DNS for names of this machine (RFC 6761, section 6.3).
func (c *Client) resolve(ctx context.Context, network, addr string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, net.InvalidAddrError("port " + wire.Quote(service) + " is not 1 to 65535")
	}
	var found []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		found = []netip.Addr{literal}
	} else if wire.IsLoopbackName(host) {
		found = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	} else {
		if found, err = c.lookUp(ctx, strings.Replace(network, "tcp", "ip", 1), host); err != nil {
			return nil, err
		}
	}
	var families [2][]netip.AddrPort // families[0] is the family of the first address
	for _, a := range found {
		e := netip.AddrPortFrom(a.Unmap(), uint16(port))
		if network != "tcp" && network != networkOf(a) {
			continue
		}
		family := &families[0]
		if len(*family) > 0 && networkOf((*family)[0].Addr()) != networkOf(a) {
			family = &families[1]
		}
		if !slices.Contains(*family, e) {
			*family = append(*family, e)
		}
	}
	var addrs []netip.AddrPort
	for i := range min(len(found), maxAddrs) {
		for _, family := range families {
			if i < len(family) && len(addrs) < maxAddrs {
				addrs = append(addrs, family[i])
			}
		}
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: "no suitable address found", Addr: host}
	}
	return addrs, nil
}

// lookUp asks DNS for the addresses of a name. If DNS fails, it returns those of the last time: a member
// has to renew, even if DNS and its connection break together. If DNS answers that the name has no
// address, that counts. The lookup takes only a part of the timeout, so that the error can name DNS, or
// there is time to connect to an address of the last time.
func (c *Client) lookUp(ctx context.Context, network, host string) ([]netip.Addr, error) {
	c.mu.Lock()
	last := c.resolved[network+" "+host]
	c.mu.Unlock()
	limit := c.timeout() / 10 * 9
	if len(last) > 0 {
		limit = c.timeout() / 10 * 6 // a resolver asks the next server after 5 seconds
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lookup := c.lookup
	if lookup == nil {
		lookup = lookupZoned
	}
	found, err := lookup(ctx, network, host)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsNotFound && len(last) > 0 {
		return last, nil
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resolved == nil || len(c.resolved) >= maxResolved {
		c.resolved = make(map[string][]netip.Addr)
	}
	c.resolved[network+" "+host] = found
	return found, nil
}

// lookupZoned asks the system's resolver, and keeps the zones from /etc/hosts and mDNS. LookupNetIP
// drops zones. LookupIPAddr keeps them, but waits for both families, so lookupZoned calls it only if
// there is a link-local address.
func lookupZoned(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if !slices.ContainsFunc(addrs, netip.Addr.IsLinkLocalUnicast) {
		return addrs, err
	}
	all, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	addrs = nil
	for _, ip := range all {
		a, _ := netip.AddrFromSlice(ip.IP)
		addrs = append(addrs, a.WithZone(ip.Zone))
	}
	return addrs, nil
}

// race connects to several addresses, and returns the first connection that succeeds. It tries the
// next address after the head start, or as soon as an attempt fails. If all fail, race returns the
// error that says most.
func race(ctx context.Context, addrs []netip.AddrPort, connect func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	pause := headStart
	if deadline, ok := ctx.Deadline(); ok {
		pause = min(pause, time.Until(deadline)/time.Duration(2*len(addrs)))
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	underWay := 0
	defer func() {
		cancel()
		for range underWay {
			if r := <-results; r.conn != nil {
				_ = r.conn.Close()
			}
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var failed error
	for next := 0; next < len(addrs) || underWay > 0; {
		var start <-chan time.Time
		if next < len(addrs) {
			start = timer.C
		}
		select {
		case <-start:
			to := addrs[next]
			next++
			underWay++
			go func() {
				conn, err := connect(ctx, to)
				results <- result{conn, err}
			}()
			timer.Reset(pause)
		case r := <-results:
			underWay--
			if r.err == nil {
				return r.conn, nil
			}
			failed = moreInformative(failed, r.err)
			timer.Reset(0)
		}
	}
	return nil, failed
}

// connect connects to one address.
func (c *Client) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	if c.From.Addr().IsValid() || c.From.Port() != 0 {
		local := &net.TCPAddr{Port: int(c.From.Port())}
		if a := c.From.Addr(); a.IsValid() {
			local.IP, local.Zone = a.Unmap().AsSlice(), a.Zone()
		}
		d.LocalAddr = local
		if local.Port != 0 {
			d.Control = reusePort
		}
	}
	cn, err := d.DialContext(ctx, networkOf(to.Addr()), to.String())
	if err != nil {
		if zoneErr := wrongZone(to.Addr(), c.From.Addr(), err); zoneErr != nil {
			err = zoneErr
		}
		return nil, err
	}
	if d.Control != nil {
		if cn.LocalAddr().String() == cn.RemoteAddr().String() {
			// Nothing listens on this port, and TCP has connected it with itself.
			_ = cn.Close()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		}
		// Without this, TIME_WAIT would keep the same two endpoints from connecting for a minute.
		_ = cn.(*net.TCPConn).SetLinger(0)
	}
	return cn, nil
}

// wrongZone returns a clear error if a zone made the connection fail, or else nil. The error of the
// system is only "invalid argument".
func wrongZone(to, from netip.Addr, err error) error {
	for _, a := range []netip.Addr{to, from} {
		zone := a.Zone()
		_, notNumber := strconv.ParseUint(zone, 10, 32)
		if _, missing := net.InterfaceByName(zone); zone != "" && missing != nil && notNumber != nil {
			return net.InvalidAddrError(fmt.Sprintf("this machine has no network interface %s", wire.Quote(zone)))
		}
	}
	if to.Is6() && to.IsLinkLocalUnicast() && to.Zone() == "" && errors.Is(err, syscall.EINVAL) {
		return net.InvalidAddrError(fmt.Sprintf("a link-local address needs the interface that leads there, such as %s%%eth0", to))
	}
	return nil
}

// networkOf returns the network for connections to or from a.
func networkOf(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "tcp4"
	}
	return "tcp6"
}
