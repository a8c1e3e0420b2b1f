// Package commands is the command line of ntrack. Each command has its own file: first its options, then
// build, then run. Start at [Main].
package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/commands/process"
)

// Streams is what a command reads from and writes to. Results go to Out. Everything else goes to Err,
// and each of its lines begins with "ntrack: ".
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Signals makes the wanted signals of this process arrive on a channel, even if they were ignored
	// before. From then on they no longer end the context of Main. Signals may be nil. Otherwise Main
	// also reaps orphans (see [process.Reaper]), so this process must start no children by itself.
	Signals func(to chan<- os.Signal, wanted ...os.Signal)

	log  *slog.Logger // gets the notes of serve; nil prints them
	line *line        // how serve was called; nil for other commands

	// Out before Main wraps it in results, and Err before a live table does, for programs that ntrack
	// runs.
	rawOut, rawErr io.Writer
	reaper         *process.Reaper
}

// note prints one line to Err, or logs it for information.
func (s Streams) note(format string, args ...any) { s.say(slog.LevelInfo, format, args...) }

// warn is note for what an operator should look at.
func (s Streams) warn(format string, args ...any) { s.say(slog.LevelWarn, format, args...) }

func (s Streams) say(level slog.Level, format string, args ...any) {
	text := printable(s.line.respell(fmt.Sprintf(format, args...)))
	if s.log != nil {
		s.log.Log(context.Background(), level, text)
		return
	}
	fmt.Fprintf(s.Err, "ntrack: %s\n", text)
}

// printable replaces control characters and everything else that is not printable by a question mark.
// The messages of ntrack contain file names and text from the network.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// notes prints each line of a text as a note.
func (s Streams) notes(text string) {
	for line := range strings.Lines(text) {
		s.note("%s", strings.TrimSuffix(line, "\n"))
	}
}

// slowEnd is how long a command may take to end without a note about it.
const slowEnd = 500 * time.Millisecond

// noteSlowEnd returns at once. If a signal ends ctx, and the command does not call done within
// slowEnd after that, a note says that a second signal ends the command at once. action is "leaving"
// or "ending".
func (s Streams) noteSlowEnd(ctx context.Context, action string) (done func()) {
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
			s.note("%s; %s ends ntrack at once", action, again)
		case <-over:
		}
	})
	return func() {
		stop()
		close(over)
	}
}

// noteLeaveErrors prints a note for each tracker that may still list a peer that wanted to leave. err
// joins the errors of these trackers, and may be nil.
func (s Streams) noteLeaveErrors(err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			s.note("could not leave: %s; the tracker forgets you after the ttl", brief(err))
		}
	}
}

// results is the Out of a command. Its Write returns errReaderGone for a broken pipe, so that this
// differs from the EPIPE of a connection to a tracker. It keeps the first error, because package cli
// ignores the errors of what it prints, such as the version.
type results struct {
	io.Writer
	mu     sync.Mutex
	failed error
}

func (r *results) Write(b []byte) (int, error) {
	n, err := r.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errReaderGone
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = cmp.Or(r.failed, err)
	return n, err
}

// err returns the first error of Write, or nil.
func (r *results) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// IgnoredAtStart returns the signals that this process ignored when it started, as far as ntrack can
// find out.
func IgnoredAtStart() []os.Signal { return process.IgnoredAtStart() }

// Main runs a command line and returns its exit code. args[0] is the name of the program. If ctx
// ends, the command ends, too. A process must not run Main twice at the same time.
func Main(ctx context.Context, args []string, s Streams) int {
	out := &results{Writer: s.Out}
	s.rawOut, s.rawErr, s.Out = s.Out, s.Err, out
	if s.Signals != nil {
		var end func()
		s.reaper, end = process.StartReaper()
		defer end()
	}
	cli.HelpPrinter = printHelp
	app := newApp(s)
	if len(args) > 2 && args[1] == completeCommand {
		complete(ctx, app, args[2:], s.Out) // a shell that completes has no use for an error
		return 0
	}
	args, l, err := arrangeArgs(app, args)
	if err == nil {
		app.Metadata = map[string]any{lineKey: l}
		err = app.RunContext(ctx, args)
	}
	if err == nil {
		err = out.err()
	}
	code, quiet := exitCodeOf(err)
	if !quiet {
		s.notes(l.respell(explain(err, l)))
	}
	return code
}

func newApp(s Streams) *cli.App {
	app := &cli.App{
		Name:      "ntrack",
		Usage:     "how programs find each other",
		UsageText: "ntrack COMMAND [OPTIONS] [ARGUMENTS]",
		Description: "A peer announces itself under a KEY to a tracker, and gets the other peers of\n" +
			"that KEY. To try it, run these in two terminals:\n" +
			"  ntrack watch --serve lobby                a tracker, and a table of peers\n" +
			"  ntrack announce lobby --port 4000 --stay  a peer, until Ctrl-C\n\n" +
			"TRACKER is host, host:port or a URL, such as the announce URL of a BitTorrent\n" +
			"tracker. Without TRACKER, ntrack uses --tracker, or else $NTRACK_TRACKER, or\n" +
			"else localhost:6969, where `ntrack serve` listens. If you give only a KEY, and\n" +
			"it looks like a tracker or a port, write -- before it.",
		Version:         version(),
		HideHelpCommand: true,
		Reader:          s.In,
		Writer:          s.Out,
		ErrWriter:       s.Err,
		ExitErrHandler:  func(*cli.Context, error) {}, // otherwise cli exits by itself
		Commands: []*cli.Command{
			announceCommand(s), listCommand(s), watchCommand(s), serveCommand(s), completionCommand(s), manCommand(s),
		},
	}
	app.Action = func(c *cli.Context) error {
		app.Writer = s.Err // the user did not ask for help, so the help is not a result
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

// version is the version of the module, and the revision from which it was built.
func version() string {
	v, dirty := "devel", ""
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		v = info.Main.Version
	}
	if built("vcs.modified") == "true" {
		dirty = ", modified"
	}
	return fmt.Sprintf("%s (revision %s%s)", v, cmp.Or(built("vcs.revision"), "unknown"), dirty)
}

// built returns a setting of the build, or "".
func built(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	i := slices.IndexFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == key })
	if i < 0 {
		return ""
	}
	return info.Settings[i].Value
}

// shown returns the user's text in a form that an error message may quote: without control characters
// and without the password in the URL of a tracker.
func shown(typed string) string { return wire.Clean(wire.Redact(typed)) }
