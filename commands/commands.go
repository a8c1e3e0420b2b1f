// Package commands is the command line of ntrack: one file for each verb, options, build and run
// from top to bottom. [Main] is the only way in.
package commands

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/commands/process"
)

// Streams are where a command reads and writes. Results go to Out; everything else goes to Err,
// line by line, prefixed "ntrack: ".
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Signals, which may be nil, hands the wanted signals of this process over to the command: they
	// come on its channel then, those that were ignored too, and do not end the context any more.
	// Where it is not nil the process is ntrack's own: it waits for all children that this has.
	Signals func(to chan<- os.Signal, wanted ...os.Signal)

	reaper *process.Reaper
}

// note prints one line. Names of files and what others say may be in it, so it keeps from a terminal
// what that would act upon.
func (s Streams) note(format string, args ...any) {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, fmt.Sprintf(format, args...))
	fmt.Fprintf(s.Err, "ntrack: %s\n", text)
}

// lines notes each line of a text.
func (s Streams) lines(text string) {
	for line := range strings.Lines(text) {
		s.note("%s", strings.TrimSuffix(line, "\n"))
	}
}

// slowEnd is how long the end of a command may take without a word.
const slowEnd = 500 * time.Millisecond

// noteSlowEnd says, where a signal has ended ctx and what is done then takes a while, that a second
// one ends it at once. The caller calls done when that is over.
func (s Streams) noteSlowEnd(ctx context.Context, what string) (done func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		by, ok := errors.AsType[Interrupted](context.Cause(ctx))
		if !ok {
			return
		}
		again := "a second signal"
		if by.Signal == syscall.SIGINT {
			again = "Ctrl-C again"
		}
		select {
		case <-time.After(slowEnd):
			s.note("%s; %s ends it at once", what, again)
		case <-over:
		}
	})
	return func() {
		stop()
		close(over)
	}
}

// couldNotLeave says which trackers may still list who has left: err is one error for each, joined.
func (s Streams) couldNotLeave(err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			s.note("could not leave, the tracker forgets you after the ttl: %s", brief(err))
		}
	}
}

// Interrupted is the cause of a context that a signal has ended.
type Interrupted struct{ Signal syscall.Signal }

func (i Interrupted) Error() string { return i.Signal.String() }

// errReaderGone ends a command whose results nobody reads any more. That is a reader's way to say
// that it has enough, and no failure.
var errReaderGone = errors.New("nobody reads the results")

// results is Out, with a broken pipe told apart from one on the network.
type results struct{ io.Writer }

func (r results) Write(b []byte) (int, error) {
	n, err := r.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errReaderGone
	}
	return n, err
}

type exitCode struct {
	code    int
	meaning string
	is      func(error) bool
}

// exitCodes is the one table of what a command's end means to a script; the first row that fits
// counts.
var exitCodes = []exitCode{
	{0, "done", func(err error) bool { return err == nil || errors.Is(err, errReaderGone) }},
	{2, "usage: the command line is wrong", is[*usageError]},
	{3, "the tracker is unreachable", is[*announce.UnreachableError]},
	{4, "the tracker refused", is[*announce.RefusalError]},
	{5, "the condition was not met in time", func(err error) bool { return errors.Is(err, errTimeUp) }},
	{127, "the COMMAND of announce is not found", func(err error) bool { e, ok := errors.AsType[*cannotRun](err); return ok && e.notFound() }},
	{126, "the COMMAND of announce cannot be run", is[*cannotRun]},
	{129, "interrupted by SIGHUP", interruptedBy(syscall.SIGHUP)},
	{130, "interrupted by SIGINT", interruptedBy(syscall.SIGINT)},
	{143, "interrupted by SIGTERM", interruptedBy(syscall.SIGTERM)},
	{1, "failed in any other way", func(error) bool { return true }},
}

func is[E error](err error) bool { _, ok := errors.AsType[E](err); return ok }

func interruptedBy(s syscall.Signal) func(error) bool {
	return func(err error) bool { i, ok := errors.AsType[Interrupted](err); return ok && i.Signal == s }
}

// A usageError is the caller's mistake. It says where to read more, unless it shows what to type.
type usageError struct {
	command string
	text    string
	shows   bool
}

func (e *usageError) Error() string {
	if e.shows {
		return e.text
	}
	return e.text + "; see `" + strings.Join(strings.Fields("ntrack "+e.command+" --help"), " ") + "`"
}

func usage(c *cli.Context, format string, args ...any) error {
	name := c.Command.Name
	if name == c.App.Name { // the root command
		name = ""
	}
	return &usageError{command: name, text: fmt.Sprintf(format, args...)}
}

// typed is the key of [cli.App.Metadata] under which the [line] is.
const typed = "line"

// lineOf is the command line that c came from.
func lineOf(c *cli.Context) *line { return c.App.Metadata[typed].(*line) }

// shown is what a user has typed, or has in a file or the environment, as an error may quote it: fit
// for a terminal, and without the password of a tracker.
func shown(typed string) string { return wire.Clean(wire.Redact(typed)) }

// IgnoredAtStart are the signals that were ignored when this process started, as far as that can be
// seen.
func IgnoredAtStart() []os.Signal { return process.IgnoredAtStart() }

// Main runs the command that args (with the program's name in front) ask for, until it is done or
// ctx ends, and returns the exit code. Only one Main at a time may run in a process.
func Main(ctx context.Context, args []string, s Streams) int {
	s.Out = results{s.Out}
	if s.Signals != nil {
		var end func()
		s.reaper, end = process.StartReaper()
		defer end()
	}
	cli.HelpPrinter = printHelp
	app := newApp(s)
	if len(args) > 2 && args[1] == completes {
		complete(ctx, app, args[2:], s.Out)
		return 0
	}
	args, l, err := arrange(app, args)
	if err == nil {
		app.Metadata = map[string]any{typed: l}
		err = app.RunContext(ctx, args)
	}
	if end, ok := errors.AsType[commandEnded](err); ok {
		return end.code
	}
	for _, e := range exitCodes {
		if !e.is(err) {
			continue
		}
		if _, quiet := errors.AsType[Interrupted](err); err != nil && e.code != 0 && !quiet {
			s.lines(explain(err, l))
		}
		return e.code
	}
	panic("unreachable: the table ends with a row for every error")
}

// brief is the error without what to do next.
func brief(err error) string {
	if is[*announce.RefusalError](err) {
		return "the tracker refused: " + err.Error()
	}
	return err.Error()
}

// explain is the error and, where one is known, what to do next, in one line or several. It is what
// has become of l, which is nil where no command has run.
func explain(err error, l *line) string {
	text, hint := brief(err), ""
	u, unreachable := errors.AsType[*announce.UnreachableError](err)
	f, refused := errors.AsType[*announce.RefusalError](err)
	guess := l.guessAt(err)
	if guess != "" && isNoHost(err) { // and nothing else to say
		return text + "\n" + guess
	}
	switch {
	case refused:
		switch {
		case f.Status == 401:
			hint = "name the file with its token by --token-file"
		case f.Status == 404 && is[*hiddenIndexError](err):
			hint = "name a KEY, or have it started with `ntrack serve --index`"
		case f.Status == 404:
			hint = "is this a tracker, and is its name or URL right?"
		case f.Retry > 0:
			hint = fmt.Sprintf("try again in %v, or use another tracker", f.Retry)
		}
	case is[*announce.ReplyError](err):
		hint = "is this a tracker, and is its name or URL right?"
	case errors.Is(err, syscall.EADDRINUSE) && unreachable:
		hint = "a service that listens on the port of --from must set SO_REUSEPORT or start after the announce; or name its port by --port instead of --from"
	case errors.Is(err, syscall.EADDRNOTAVAIL) && unreachable:
		hint = "--from has to name an address of this machine, and only one connection at a time leads from there to the tracker"
	case !unreachable:
	case is[net.InvalidAddrError](err): // which says it all
	case is[*net.AddrError](err):
		hint = "--from is of another address family than the tracker"
	case is[tls.RecordHeaderError](err):
		hint = "it does not speak TLS there: name it by http:// or without a scheme"
	case isCertificate(err):
		hint = "for a private tracker name its authority's certificate by --ca FILE"
	case isTimeout(err):
		hint = "check its name and port, or give it longer by --timeout"
	case isNoHost(err):
		hint = "check the name (of two arguments the first is the TRACKER)"
	default:
		host, port, _ := net.SplitHostPort(u.Tracker.HostPort())
		switch {
		case u.Tracker.Loopback() && port == strconv.Itoa(wire.LocalPort):
			hint = "start one here with `ntrack serve`"
		case port == "80" && !u.Tracker.Classic():
			hint = "`ntrack serve` listens on 6969: try " + net.JoinHostPort(host, "6969")
		default:
			hint = "is it running, and is the port right?"
		}
	}
	if hint != "" {
		text += "; " + hint
	}
	if guess != "" {
		text += "\n" + guess
	}
	return text
}

func newApp(s Streams) *cli.App {
	app := &cli.App{
		Name:            "ntrack",
		Usage:           "how programs find each other",
		UsageText:       "ntrack COMMAND [OPTIONS] [ARGUMENTS]",
		Description:     description(),
		Version:         version(),
		HideHelpCommand: true,
		Reader:          s.In,
		Writer:          s.Out,
		ErrWriter:       s.Err,
		ExitErrHandler:  func(*cli.Context, error) {}, // or it would exit by itself
		Commands: []*cli.Command{
			announceCommand(s), listCommand(s), watchCommand(s), serveCommand(s), completionCommand(s), manCommand(s),
		},
	}
	app.Action = func(c *cli.Context) error {
		app.Writer = s.Err // nothing was asked for, so this is no result
		_ = cli.ShowAppHelp(c)
		return usage(c, "a command is missing")
	}
	app.CustomAppHelpTemplate = appHelp
	for _, c := range app.Commands {
		c.CustomHelpTemplate = commandHelp
		c.HideHelpCommand = true
	}
	return app
}

func commandNames(app *cli.App) []string {
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	return names
}

func description() string {
	var b strings.Builder
	b.WriteString("A peer announces itself under a KEY to a tracker and gets the other peers\n" +
		"of that KEY. TRACKER is host, host:port, or the announce URL of a BitTorrent\n" +
		"tracker; it may be left out: --tracker, else $NTRACK_TRACKER, else\n" +
		"localhost:6969, where `ntrack serve` listens. A KEY alone that looks like a\n" +
		"tracker or a port needs a -- in front of it.\n\n" +
		"Exit codes:\n")
	rows := slices.Clone(exitCodes)
	slices.SortFunc(rows, func(a, b exitCode) int { return a.code - b.code })
	for _, e := range rows {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.meaning)
	}
	b.WriteString("\nannounce that runs a COMMAND ends with its exit code, 128+n where signal n has\n" +
		"ended it.")
	return b.String()
}

// version is the module's version and the revision it was built from.
func version() string {
	v, revision, dirty := "devel", "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", modified"
			}
		}
	}
	return fmt.Sprintf("%s (revision %s%s)", v, revision, dirty)
}
