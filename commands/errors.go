package commands

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// An exitCode is a row of exitCodes.
type exitCode struct {
	code    int
	meaning string // for the help
	fits    func(error) bool
}

// exitCodes maps every error to an exit code. The first row that fits an error counts.
var exitCodes = []exitCode{
	{0, "done", func(err error) bool { return err == nil || errors.Is(err, errReaderGone) }},
	{2, "usage: the command line is wrong", is[*usageError]},
	{3, "the tracker is unreachable", is[*announce.UnreachableError]},
	{4, "the tracker refused", is[*announce.RefusalError]},
	{5, "the condition was not met in time", func(err error) bool { return errors.Is(err, errTimeUp) }},
	{6, "a member of the job was lost", func(err error) bool { return errors.Is(err, errMemberLost) }},
	{127, "the COMMAND is not found", func(err error) bool { e, ok := errors.AsType[*cannotRun](err); return ok && e.notFound() }},
	{126, "the COMMAND cannot be run", is[*cannotRun]},
	{129, "interrupted by SIGHUP", interruptedBy(syscall.SIGHUP)},
	{130, "interrupted by SIGINT", interruptedBy(syscall.SIGINT)},
	{143, "interrupted by SIGTERM", interruptedBy(syscall.SIGTERM)},
	{1, "failed in any other way", func(error) bool { return true }},
}

// sortedExitCodes is exitCodes in the order of the help.
func sortedExitCodes() []exitCode {
	return slices.SortedFunc(slices.Values(exitCodes), func(a, b exitCode) int { return a.code - b.code })
}

// exitCodeOf returns the exit code for err. If quiet is true, no message about err is printed.
func exitCodeOf(err error) (code int, quiet bool) {
	if end, ok := errors.AsType[commandEnded](err); ok {
		return end.code, true
	}
	i := 0
	for !exitCodes[i].fits(err) { // the last row fits every error
		i++
	}
	return exitCodes[i].code, exitCodes[i].code == 0 || is[Interrupted](err) || is[loggedError](err)
}

// is reports whether err is, or wraps, an error of type E.
func is[E error](err error) bool { _, ok := errors.AsType[E](err); return ok }

// Interrupted is the cause of a context that a signal has ended.
type Interrupted struct{ Signal syscall.Signal }

func (i Interrupted) Error() string { return i.Signal.String() }

func interruptedBy(s syscall.Signal) func(error) bool {
	return func(err error) bool { i, ok := errors.AsType[Interrupted](err); return ok && i.Signal == s }
}

var (
	// errReaderGone ends a command when the reader of its results has closed the pipe, as head -1
	// does. That is success, because the reader has what it wanted.
	errReaderGone = errors.New("nobody reads the results")

	// errTimeUp ends watch --min when the time of --for is over.
	errTimeUp = errors.New("time is up")

	// errMemberLost ends watch with a COMMAND that --on-leave kill has ended.
	errMemberLost = errors.New("a member was lost")
)

// A usageError is a mistake in the command line. Its message ends with the command that shows help,
// unless text already shows what to type instead.
type usageError struct {
	command string // the command whose help has the answer; "" for ntrack itself
	text    string
	shows   bool // text shows what to type instead
}

func (e *usageError) Error() string {
	if e.shows {
		return e.text
	}
	return e.text + "; see `" + strings.Join(strings.Fields("ntrack "+e.command+" --help"), " ") + "`"
}

// usage makes a usageError. See also [line.mistake].
func usage(c *cli.Context, format string, args ...any) error {
	name := c.Command.Name
	if name == c.App.Name { // the root command
		name = ""
	}
	return &usageError{command: name, text: fmt.Sprintf(format, args...)}
}

// A loggedError is in the log already, so Main does not print it.
type loggedError struct{ error }

func (e loggedError) Unwrap() error { return e.error }

// commandEnded says that a COMMAND has ended. ntrack then ends with the same exit code.
type commandEnded struct{ code int }

func (e commandEnded) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// cannotRun says that a COMMAND could not start.
type cannotRun struct {
	command string
	err     error
}

func (e *cannotRun) notFound() bool {
	return errors.Is(e.err, exec.ErrNotFound) || errors.Is(e.err, fs.ErrNotExist)
}

func (e *cannotRun) Error() string {
	cause := e.err
	if lookup, ok := errors.AsType[*exec.Error](cause); ok {
		cause = lookup.Err
	}
	if path, ok := errors.AsType[*fs.PathError](cause); ok {
		cause = path.Err
	}
	return fmt.Sprintf("cannot run %s: %v", wire.Clean(e.command), cause)
}

// A hiddenIndexError says that the tracker does not show its index, like most trackers.
type hiddenIndexError struct{ *announce.RefusalError }

func (e *hiddenIndexError) Unwrap() error { return e.RefusalError }

// brief is the text of an error without a hint.
func brief(err error) string {
	if is[*announce.RefusalError](err) {
		return "the tracker refused: " + err.Error()
	}
	return err.Error()
}

// explain is the text of an error, with a hint and with a guess of what the user meant, if there are
// any. It may have several lines. l is the command line, or nil if no command has run.
func explain(err error, l *line) string {
	text, guess := brief(err), l.guessFor(err)
	if guess != "" && isNoHost(err) { // the hint would repeat the guess
		return text + "\n" + guess
	}
	if hint := hintFor(err); hint != "" {
		text += "; " + hint
	}
	if guess != "" {
		text += "\n" + guess
	}
	return text
}

// hintFor is advice on what the user can do about an error, or "".
func hintFor(err error) string {
	const isTracker = "is this a tracker, and is its name or URL right?"
	if f, refused := errors.AsType[*announce.RefusalError](err); refused {
		switch {
		case f.Status == 401:
			return "name the file with its token by --token-file"
		case f.Never || f.Status == 404 && strings.HasPrefix(f.Reason, "this tracker does not serve this "):
			return "use another tracker"
		case f.Status == 404 && is[*hiddenIndexError](err):
			return "name a KEY, or start the tracker with `ntrack serve --index`"
		case f.Status == 404:
			return isTracker
		case f.Retry > 0:
			return fmt.Sprintf("try again in %v, or use another tracker", f.Retry)
		}
		return ""
	}
	if is[*announce.ReplyError](err) {
		return isTracker
	}
	u, unreachable := errors.AsType[*announce.UnreachableError](err)
	if !unreachable {
		return ""
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "a service that listens on the port of --from must set SO_REUSEPORT or start after the announce; or name its port by --port instead of --from"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "--from has to name an address of this machine, and only one connection at a time can go from there to the tracker"
	case is[net.InvalidAddrError](err): // its text says everything
		return ""
	case is[*net.AddrError](err):
		return "--from is of another address family than the tracker"
	case is[tls.RecordHeaderError](err):
		return "the tracker does not speak TLS: use http:// or no scheme"
	case is[*tls.CertificateVerificationError](err):
		return "for a private tracker, give the certificate of its authority by --ca FILE"
	case is[*net.DNSError](err) && !isNoHost(err):
		return "check whether this machine reaches its name server"
	case isTimeout(err):
		return "check its name and port, or allow more time by --timeout"
	case isNoHost(err):
		return "check the name (of two arguments the first is the TRACKER)"
	}
	host, port, _ := net.SplitHostPort(u.Tracker.HostPort())
	switch {
	case u.Tracker.Loopback() && port == strconv.Itoa(wire.LocalPort):
		return "start one here with `ntrack serve`"
	case port == "80" && !u.Tracker.Classic():
		return "`ntrack serve` listens on 6969: try " + net.JoinHostPort(host, "6969")
	}
	return "is it running, and is the port right?"
}

func isTimeout(err error) bool {
	u, ok := errors.AsType[*announce.UnreachableError](err)
	return ok && strings.HasPrefix(u.Err.Error(), "no answer within") || errors.Is(err, os.ErrDeadlineExceeded)
}

// isNoHost reports whether DNS has answered that a name has no address.
func isNoHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}
