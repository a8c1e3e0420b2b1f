package commands

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/commands/process"
	"ntrack/tracker"
	"ntrack/tracker/server"
)

func serveFlag() cli.Flag {
	return &cli.BoolFlag{Name: "serve", Usage: "if no tracker listens at TRACKER, which is on this machine, run one inside this command"}
}

// presence is what a command that lasts knows of whether its trackers are there: it tells when that
// changes, and with --serve stands in for one that is not.
type presence struct {
	s       Streams
	client  *client
	serve   bool
	mu      sync.Mutex
	server  *server.Server // the stand-in, once there is one
	answers bool           // one tracker has answered
	guessed bool           // nothing is to be said any more of what was meant, if that was no tracker
	away    map[announce.Tracker]error
}

// begin stands in from the start where --serve says so and nobody is there.
func (p *presence) begin(c *cli.Context) error {
	if !p.serve {
		return nil
	}
	if len(p.client.trackers) > 1 {
		return usage(c, "--serve: it runs one tracker, and %d are given", len(p.client.trackers))
	}
	t := p.client.trackers[0]
	_, ok, err := localAddress(c.Context, t)
	switch {
	case c.Context.Err() != nil:
		return context.Cause(c.Context)
	case err != nil:
		return &announce.UnreachableError{Tracker: t, Err: err}
	case !ok || t.TLS() || t.Classic():
		return usage(c, "--serve: tracker %s is not a plain one on this machine", t)
	}
	return p.standIn(c.Context)
}

// failed takes note of a request that has, tells the first one, and stands in if it can: whoever
// served may be gone. While no tracker has answered it tells nothing; once all have failed, it
// returns why the first of them has.
func (p *presence) failed(ctx context.Context, t announce.Tracker, err error) error {
	if p.away == nil {
		p.away = make(map[announce.Tracker]error)
	}
	known := p.away[t] != nil
	p.away[t] = p.client.named(t, err)
	switch trackers := p.client.trackers; {
	case !p.answers && len(p.away) == len(trackers):
		for _, t := range trackers[1:] {
			p.s.note("%s", brief(p.away[t]))
		}
		return p.away[trackers[0]]
	case p.answers && !known:
		p.missing(t)
	}
	if p.serve {
		_ = p.standIn(ctx)
	}
	return nil
}

func (p *presence) missing(t announce.Tracker) {
	err := p.away[t]
	if is[*announce.RefusalError](err) { // it is there
		p.s.note("%s; trying again", brief(err))
		return
	}
	p.s.note("%s; trying again until it is back", brief(err))
	if !p.guessed {
		p.s.lines(p.client.line.guessAt(err))
	}
	p.guessed = true
}

// answered takes note of one that has not.
func (p *presence) answered(t announce.Tracker) {
	away := p.away[t] != nil
	p.guessed = true
	delete(p.away, t)
	switch {
	case !p.answers:
		p.answers = true
		for _, t := range p.client.trackers {
			if p.away[t] != nil {
				p.missing(t)
			}
		}
	case away && len(p.client.trackers) > 1:
		p.s.note("tracker %s is back", t.HostPort())
	case away:
		p.s.note("the tracker is back")
	}
}

// standIn serves the tracker from here, unless it is served already.
func (p *presence) standIn(ctx context.Context) error {
	_, port, _ := net.SplitHostPort(p.client.trackers[0].HostPort())
	ip, _, err := localAddress(ctx, p.client.trackers[0])
	p.mu.Lock()
	defer p.mu.Unlock()
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
	p.server = &server.Server{Tracker: &tracker.Tracker{}, Logf: p.s.note}
	go func() { _ = p.server.Serve(l) }()
	p.s.note("no tracker at %s: serving one until this command ends", p.client.trackers[0].HostPort())
	return nil
}

// end ends the stand-in.
func (p *presence) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		shutdown(p.server)
	}
}

// localAddress is the address of this machine that a tracker's name means.
func localAddress(ctx context.Context, t announce.Tracker) (netip.Addr, bool, error) {
	host, _, _ := net.SplitHostPort(t.HostPort())
	if _, err := netip.ParseAddr(host); err != nil && t.Loopback() {
		return loopback4(), true, nil
	}
	limited, cancel := context.WithTimeout(ctx, announce.DefaultTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupIPAddr(limited, host)
	if ctx.Err() != nil {
		return netip.Addr{}, false, context.Cause(ctx)
	}
	if err != nil {
		return netip.Addr{}, false, err
	}
	mine := process.LocalAddrs()
	for _, ip := range addrs {
		a, _ := netip.AddrFromSlice(ip.IP)
		a = a.Unmap().WithZone(ip.Zone)
		if a.IsLoopback() || slices.ContainsFunc(mine, func(m netip.Addr) bool { return m.WithZone("") == a.WithZone("") }) {
			return a, true, nil
		}
	}
	return netip.Addr{}, false, nil
}
