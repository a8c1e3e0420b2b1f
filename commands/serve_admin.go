package commands

import (
	"context"
	"errors"
	"net"

	"github.com/urfave/cli/v2"
)

// adminFlags are the options for what the operator sees.
func adminFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "admin", Usage: "serve /metrics for Prometheus, /healthz, /readyz and, to this machine alone, /debug/pprof at `ADDR`, such as 127.0.0.1:9696; it needs no token, so keep it from the public"},
	}
}

func (o *serveOptions) buildAdmin(c *cli.Context) error {
	o.adminAt = c.String("admin")
	if _, port, err := net.SplitHostPort(o.adminAt); c.IsSet("admin") && (err != nil || parsePort(port) < 0) {
		return usage(c, "--admin %q: [HOST]:PORT, such as 127.0.0.1:9696 or 127.0.0.1:0", shown(o.adminAt))
	}
	return nil
}

// openAdmin listens at --admin. bound are the addresses at which this process already listens.
func (o *serveOptions) openAdmin(bound []string) ([]endpoint, error) {
	if o.adminAt == "" {
		return nil, nil
	}
	l, err := listen("--admin", o.adminAt, bound)
	if err != nil {
		return nil, err
	}
	return []endpoint{{kind: adminEndpoint, listener: l, option: o.adminAt, address: boundTo(l, o.adminAt)}}, nil
}

// prepareAdmin prepares what --admin serves. The tracker is ready until ctx ends, while
// its table answers.
func (o *serveOptions) prepareAdmin(ctx context.Context, s Streams, endpoints []endpoint) {
	o.admin.Server, o.admin.Log = &o.server, o.server.Log
	if o.store.opened != nil {
		o.admin.Store = o.store.opened.Stats
	}
	if len(o.dnsAt) > 0 {
		o.admin.DNS = o.dns.Stats
	}
	o.admin.Ready = func() error {
		if ctx.Err() != nil {
			return errors.New("the tracker is about to end")
		}
		return o.checkStore()
	}
	for _, e := range endpoints {
		if e.kind == adminEndpoint && e.reach() != thisMachine {
			s.warn("--admin %s: other machines can read the metrics without a token; "+
				"use 127.0.0.1:%d, unless a firewall keeps others away", e.shownAddress(), e.port())
		}
	}
}
