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
	return &cli.BoolFlag{Name: "serve", Usage: "if no tracker listens at TRACKER, which must be on this machine, run one inside this command"}
}

// A lookout is for commands that last. It notices when a tracker goes away and when it is back, and
// prints a note. With --serve it runs a tracker inside this command while there is no other.
type lookout struct {
	s       Streams
	client  *client
	serve   bool
	address string                     // where --serve listens
	answers bool                       // at least one tracker has answered
	guessed bool                       // no guess any more: one was printed, or a tracker has answered
	away    map[announce.Tracker]error // why a tracker is away

	mu     sync.Mutex
	server *server.Server // the tracker inside this command; nil until it runs
}

// begin runs a tracker at once if --serve asks for it and none listens.
func (l *lookout) begin(c *cli.Context) error {
	if !l.serve {
		return nil
	}
	if len(l.client.trackers) > 1 {
		return usage(c, "--serve: it runs one tracker, and %d are given", len(l.client.trackers))
	}
	t := l.client.trackers[0]
	ip, ok, err := localAddress(c.Context, t)
	switch {
	case c.Context.Err() != nil:
		return context.Cause(c.Context)
	case err != nil:
		return &announce.UnreachableError{Tracker: t, Err: err}
	case !ok || t.TLS() || t.Classic():
		return usage(c, "--serve: tracker %s is not a plain one on this machine", t)
	}
	_, port, _ := net.SplitHostPort(t.HostPort())
	l.address = net.JoinHostPort(ip.String(), port)
	return l.serveHere()
}

// failed records that a request to a tracker has failed. The first failure of a tracker becomes a
// note. As long as no tracker has answered there are no notes; once all of them have failed, failed
// returns the error of the first tracker. With --serve it runs a tracker, because the command that
// ran it before may have ended.
func (l *lookout) failed(t announce.Tracker, err error) error {
	if l.away == nil {
		l.away = make(map[announce.Tracker]error)
	}
	known := l.away[t] != nil
	l.away[t] = l.client.named(t, err)
	switch trackers := l.client.trackers; {
	case !l.answers && len(l.away) == len(trackers):
		for _, t := range trackers[1:] {
			l.s.note("%s", brief(l.away[t]))
		}
		return l.away[trackers[0]]
	case l.answers && !known:
		l.noteAway(t)
	}
	if l.serve {
		_ = l.serveHere()
	}
	return nil
}

func (l *lookout) noteAway(t announce.Tracker) {
	err := l.away[t]
	if is[*announce.RefusalError](err) { // the tracker is there, and refuses
		l.s.note("%s; trying again", brief(err))
		return
	}
	l.s.note("%s; trying again until it is back", brief(err))
	if !l.guessed {
		l.s.notes(l.client.line.guessFor(err))
	}
	l.guessed = true
}

// answered records that a tracker has answered. A note says so if it was away.
func (l *lookout) answered(t announce.Tracker) {
	away := l.away[t] != nil
	l.guessed = true
	delete(l.away, t)
	switch {
	case !l.answers:
		l.answers = true
		for _, t := range l.client.trackers {
			if l.away[t] != nil {
				l.noteAway(t)
			}
		}
	case away && len(l.client.trackers) > 1:
		l.s.note("tracker %s is back", t.HostPort())
	case away:
		l.s.note("the tracker is back")
	}
}

// serveHere runs a tracker inside this command, unless something listens at its address already.
func (l *lookout) serveHere() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", l.address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--serve: %w", err)
	}
	l.server = &server.Server{Tracker: &tracker.Tracker{}, Logf: l.s.note}
	go func() { _ = l.server.Serve(listener) }()
	l.s.note("no tracker at %s: serving one until this command ends", l.client.trackers[0].HostPort())
	return nil
}

// end shuts down the tracker inside this command.
func (l *lookout) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		shutdown(l.server)
	}
}

// localAddress returns the address of this machine that a tracker's name stands for, and false if it
// stands for another machine.
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
