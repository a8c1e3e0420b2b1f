package commands

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"ntrack/announce/wire"
)

// greet prints where the tracker listens and who can reach it, and commands that the user can try.
// If only programs on this machine reach the tracker, greet prints its URL. Otherwise one line has
// everything that is open, so that an operator sees it at a glance.
func (o *serveOptions) greet(s Streams, endpoints []endpoint) {
	if o.records {
		s.log.LogAttrs(context.Background(), slog.LevelInfo, "open", joinKeys(o.openAttrs(endpoints))...)
		return
	}
	isOpen := func(e endpoint) bool { return e.kind != plainEndpoint || e.port() == 0 || e.reach() != thisMachine }
	if o.denyFile != "" || len(o.tracker.Proxies) > 0 || slices.ContainsFunc(endpoints, isOpen) {
		s.note("open: %s", o.openText(endpoints))
	} else {
		where := "in memory"
		if o.store.config.URL != "" {
			where = "in " + o.storeText()
		}
		for _, e := range endpoints {
			s.note("tracker at http://%s/ntrk/, %s; Ctrl-C ends it", e.address, where)
		}
	}
	i := slices.IndexFunc(endpoints, func(e endpoint) bool { return e.kind == plainEndpoint && e.port() != 0 })
	if i < 0 {
		return
	}
	at := "" // the TRACKER argument that the commands below need
	if ap, err := netip.ParseAddrPort(endpoints[i].address); err == nil {
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

// openText is the greeting's line: each endpoint and its audience, and then what the tracker demands
// and shows. For example "http :6969 to everybody; token none; index off".
func (o *serveOptions) openText(endpoints []endpoint) string {
	var parts []string
	for _, a := range o.openAttrs(endpoints) {
		parts = append(parts, a.Key+" "+a.Value.String())
	}
	return strings.Join(parts, "; ")
}

// openAttrs is the greeting as attributes.
func (o *serveOptions) openAttrs(endpoints []endpoint) []slog.Attr {
	var attrs []slog.Attr
	for _, e := range endpoints {
		attrs = append(attrs, slog.String(e.kind.scheme(), e.shownAddress()+" to "+e.reach()))
	}
	token, index := "none", "off"
	if o.tokenFile != "" {
		token = "needed"
	}
	if o.tracker.Index {
		index = "on"
	}
	if o.dns.Zone != "" {
		attrs = append(attrs, slog.String("dns-zone", o.dns.Zone))
	}
	attrs = append(attrs, slog.String("token", token), slog.String("index", index))
	if o.tracker.Page != nil && !o.tracker.PageLocal {
		attrs = append(attrs, slog.String("page", "on"))
	}
	if o.store.config.URL != "" {
		attrs = append(attrs, slog.String("store", o.storeText()))
	}
	if keys, nets := o.tracker.Denial.Len(); o.denyFile != "" {
		attrs = append(attrs, slog.String("denied", fmt.Sprintf("keys %d, networks %d", keys, nets)))
	}
	if len(o.tracker.Proxies) > 0 {
		var proxies []string
		for _, p := range o.tracker.Proxies {
			proxies = append(proxies, p.String())
		}
		by := ""
		if o.server.ProxyProtocol {
			by = " by the PROXY protocol"
		}
		attrs = append(attrs, slog.String("proxies", strings.Join(proxies, ",")+by))
	}
	return attrs
}

// joinKeys joins the values of attributes that have the same key, because the keys of a record in
// JSON should differ.
func joinKeys(attrs []slog.Attr) []slog.Attr {
	var joined []slog.Attr
	for _, a := range attrs {
		i := slices.IndexFunc(joined, func(j slog.Attr) bool { return j.Key == a.Key })
		if i < 0 {
			joined = append(joined, a)
			continue
		}
		joined[i].Value = slog.StringValue(joined[i].Value.String() + ", " + a.Value.String())
	}
	return joined
}

// scheme names a kind as operators do: by what a client writes before the address.
func (k endpointKind) scheme() string {
	switch k {
	case plainEndpoint:
		return "http"
	case "tls":
		return "https"
	}
	return string(k)
}

// The audiences that the address of an endpoint implies.
const (
	thisMachine = "this machine"
	itsNetwork  = "its network"
	everybody   = "everybody"
)

// reach says who can reach an endpoint, as far as its address limits that. A private or link-local
// address is reached only from the network that it belongs to.
func (e endpoint) reach() string {
	implied := everybody
	switch a, err := netip.ParseAddrPort(e.address); {
	case err != nil, a.Addr().IsLoopback(): // an address without a port is that of a Unix socket
		implied = thisMachine
	case a.Addr().IsPrivate(), a.Addr().IsLinkLocalUnicast():
		implied = itsNetwork
	}
	return cmp.Or(e.audience, implied)
}

// port is the TCP port of an endpoint, or 0 if it has none.
func (e endpoint) port() uint16 {
	ap, _ := netip.ParseAddrPort(e.address)
	return ap.Port()
}

// shownAddress is where an endpoint listens, in the form of --listen. There, :6969 stands for every
// address of both families, and [::]:6969 for the IPv6 addresses alone.
func (e endpoint) shownAddress() string {
	ap, err := netip.ParseAddrPort(e.address)
	if err == nil && ap.Addr().IsUnspecified() && listenNetwork(e.option) == "tcp" {
		return fmt.Sprintf(":%d", ap.Port())
	}
	return e.address
}
