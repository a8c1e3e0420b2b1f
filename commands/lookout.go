package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/commands/process"
	"ntrack/tracker"
	"ntrack/tracker/page"
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
	settled  bool                       // print no guess about a name: one was printed, or a tracker has answered
	failing  map[announce.Tracker]error // the last errors of the trackers that fail

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
		return usage(c, "--serve cannot run %s: it runs a native tracker, over http, on this machine", t)
	}
	_, port, _ := net.SplitHostPort(t.HostPort())
	l.address = net.JoinHostPort(ip.String(), port)
	return l.serveHere()
}

// requestFailed records that a request to a tracker has failed.
//
// If all trackers have failed, and none has answered before, it returns the error of the first tracker,
// and prints notes about the others. Otherwise it returns nil. Once a tracker has answered, it prints a
// note when another one begins to fail.
//
// With --serve, another command may have run the tracker that failed, and have ended. Then
// requestFailed runs one here.
func (l *lookout) requestFailed(t announce.Tracker, err error) error {
	if l.failing == nil {
		l.failing = make(map[announce.Tracker]error)
	}
	known := l.failing[t] != nil
	l.failing[t] = l.client.named(t, err)
	switch trackers := l.client.trackers; {
	case !l.answered && len(l.failing) == len(trackers):
		for _, t := range trackers[1:] {
			l.s.note("%s", brief(l.failing[t]))
		}
		return l.failing[trackers[0]]
	case l.answered && !known:
		l.noteAway(t)
	}
	if l.serve {
		_ = l.serveHere() // if it fails, the next failure of a request tries again
	}
	return nil
}

// noteAway prints a note about the last error of a tracker.
func (l *lookout) noteAway(t announce.Tracker) {
	err := l.failing[t]
	if is[*announce.RefusalError](err) { // this tracker is not away: it has answered
		l.s.note("%s; trying again", brief(err))
		return
	}
	l.s.note("%s; trying again until it is back", brief(err))
	if !l.settled {
		l.s.notes(l.client.line.guessFor(err))
	}
	l.settled = true
}

// requestAnswered records that a tracker has answered. If it was away, a note says that it is back.
// At the first answer, there is a note about each other tracker that has failed until then.
func (l *lookout) requestAnswered(t announce.Tracker) {
	away := l.failing[t] != nil
	l.settled = true
	delete(l.failing, t)
	switch {
	case !l.answered:
		l.answered = true
		for _, t := range l.client.trackers {
			if l.failing[t] != nil {
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
	l.server = &server.Server{Tracker: &tracker.Tracker{Page: page.Files(), PageLocal: true}, Log: newLogger(l.s, "notes", slog.LevelInfo)}
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
	if _, err := netip.ParseAddr(host); err != nil && t.Loopback() { // localhost, or a name below it
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
