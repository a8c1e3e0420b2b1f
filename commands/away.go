package commands

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/tracker"
	"ntrack/tracker/door"
)

func serveFlag() cli.Flag {
	return &cli.BoolFlag{Name: "serve", Usage: "if no tracker listens at TRACKER, which is on this machine, run one inside this command"}
}

// presence is what a command that lasts knows of whether its tracker is there: it tells when that
// changes, and with --serve stands in for one that is not.
type presence struct {
	s       Streams
	tracker announce.Tracker
	serve   bool
	server  *door.Server // the stand-in, once there is one
	away    bool
}

// begin stands in from the start where --serve says so and nobody is there.
func (p *presence) begin(c *cli.Context) error {
	host, _, _ := net.SplitHostPort(p.tracker.HostPort())
	if !p.serve {
		return nil
	}
	_, ok, err := localAddress(c.Context, host)
	switch {
	case c.Context.Err() != nil:
		return context.Cause(c.Context)
	case err != nil:
		return &announce.UnreachableError{Tracker: p.tracker, Err: err}
	case !ok || p.tracker.TLS() || p.tracker.Classic():
		return usage(c, "--serve: tracker %s is not a plain one on this machine", p.tracker)
	}
	return p.standIn(c.Context)
}

// failed takes note of a request that has, tells the first one, and stands in if it can: whoever
// served may be gone.
func (p *presence) failed(ctx context.Context, err error) {
	if !p.away {
		p.s.note("%s; trying again until it is back", brief(err))
	}
	p.away = true
	if p.serve {
		_ = p.standIn(ctx)
	}
}

// answered takes note of one that has not.
func (p *presence) answered() {
	if p.away {
		p.s.note("the tracker is back")
	}
	p.away = false
}

// standIn serves the tracker from here, unless it is served already.
func (p *presence) standIn(ctx context.Context) error {
	host, port, _ := net.SplitHostPort(p.tracker.HostPort())
	ip, _, err := localAddress(ctx, host)
	if p.server != nil || err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(ip.String(), port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--serve: %w", err)
	}
	p.server = &door.Server{Tracker: &tracker.Tracker{}, Logf: p.s.note}
	go func() { _ = p.server.Serve(l) }()
	p.s.note("no tracker at %s: serving one from here until this command ends", p.tracker.HostPort())
	return nil
}

// end ends the stand-in.
func (p *presence) end() {
	if p.server != nil {
		shutdown(p.server)
	}
}

// localAddress is the address of this machine that host means.
func localAddress(ctx context.Context, host string) (netip.Addr, bool, error) {
	if host == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true, nil
	}
	limited, cancel := context.WithTimeout(ctx, announce.DefaultTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(limited, "ip", host)
	if ctx.Err() != nil {
		return netip.Addr{}, false, context.Cause(ctx)
	}
	if err != nil {
		return netip.Addr{}, false, err
	}
	mine, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		a = a.Unmap()
		if a.IsLoopback() {
			return a, true, nil
		}
		for _, m := range mine {
			if n, ok := m.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
				return a, true, nil
			}
		}
	}
	return netip.Addr{}, false, nil
}
