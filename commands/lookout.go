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

// A lookout is for commands that keep contact with trackers. It prints a note when a tracker stops
// answering, and when it answers again. With --serve it runs a tracker inside this command if no
// other tracker listens.
type lookout struct {
	s        Streams
	client   *client
	serve    bool
	address  string                     // where --serve listens
	answered bool                       // at least one tracker has answered
	noGuess  bool                       // a guess was printed, or a tracker has answered
	away     map[announce.Tracker]error // the last errors of the trackers that do not answer

	mu     sync.Mutex
	server *server.Server // the tracker inside this command; nil until it runs
}

// begin runs a tracker if --serve asks for one and nothing listens at its address.
func (l *lookout) begin(c *cli.Context) error {
	if !l.serve {
		return nil
	}
	if len(l.client.trackers) > 1 {
		return usage(c, "--serve runs one tracker, and %d are given", len(l.client.trackers))
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

// requestFailed records that a request to a tracker has failed.
//
// Before any tracker has answered, it prints no notes. But if all trackers have failed by then, it
// returns the error of the first tracker. After an answer, it prints a note about the first of
// several failures of a tracker.
//
// With --serve it then runs a tracker, because another command may have run the one that failed.
func (l *lookout) requestFailed(t announce.Tracker, err error) error {
	if l.away == nil {
		l.away = make(map[announce.Tracker]error)
	}
	known := l.away[t] != nil
	l.away[t] = l.client.named(t, err)
	switch trackers := l.client.trackers; {
	case !l.answered && len(l.away) == len(trackers):
		for _, t := range trackers[1:] {
			l.s.note("%s", brief(l.away[t]))
		}
		return l.away[trackers[0]]
	case l.answered && !known:
		l.noteAway(t)
	}
	if l.serve {
		_ = l.serveHere()
	}
	return nil
}

func (l *lookout) noteAway(t announce.Tracker) {
	err := l.away[t]
	if is[*announce.RefusalError](err) { // such a tracker is not away
		l.s.note("%s; trying again", brief(err))
		return
	}
	l.s.note("%s; trying again until it is back", brief(err))
	if !l.noGuess {
		l.s.notes(l.client.line.guessFor(err))
	}
	l.noGuess = true
}

// requestAnswered records that a tracker has answered. If it was away, a note says that it is back.
// At the first answer, there is a note about each other tracker that has failed until then.
func (l *lookout) requestAnswered(t announce.Tracker) {
	away := l.away[t] != nil
	l.noGuess = true
	delete(l.away, t)
	switch {
	case !l.answered:
		l.answered = true
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

// localAddress resolves the host of a tracker. It returns the first address that belongs to this
// machine, or false if none does.
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
