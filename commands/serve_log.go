package commands

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

var (
	logFormats = []string{"notes", "text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// logFlags are the options that say what the tracker logs, and how.
func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-format", Value: "notes", Usage: "log in `FORM`: notes for people; text or json, a record per line with its time and level, for programs"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "log what is at least as important as `LEVEL`: debug, info, warn or error; only debug shows addresses of clients"},
	}
}

// buildLog returns the streams for everything that follows: their notes go to the log.
func (o *serveOptions) buildLog(c *cli.Context, s Streams) (Streams, error) {
	s.line = lineOf(c)
	format, level := c.String("log-format"), new(slog.LevelVar)
	if !slices.Contains(logFormats, format) {
		return s, usage(c, "--log-format %q: notes, text or json", shown(format))
	}
	if text := c.String("log-level"); !slices.Contains(logLevels, text) || level.UnmarshalText([]byte(text)) != nil {
		return s, usage(c, "--log-level %q: debug, info, warn or error", shown(text))
	}
	o.records = format != "notes"
	s.log = newLogger(s, format, level)
	s.line.noteMisspelt(s)
	return s, nil
}

// newLogger returns a log that writes in one of logFormats. s has no log.
func newLogger(s Streams, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: cleanAttr}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(s.Err, options))
	case "json":
		return slog.New(slog.NewJSONHandler(s.Err, options))
	}
	return slog.New(noteHandler{streams: s, level: level})
}

// logged logs the error that ends serve, if the log has records. A mistake in the command line stays a
// note: a person has to correct it before there is anything to log.
func (o *serveOptions) logged(err error, s Streams) error {
	if _, quiet := exitCodeOf(err); quiet || !o.records || is[*usageError](err) {
		return err
	}
	s.say(slog.LevelError, "%s", explain(err, s.line))
	return loggedError{err}
}

// cleanAttr replaces the characters of a record that are not printable, except for line ends, which
// both handlers escape. A terminal that shows a log in JSON would obey the others, such as those that
// reverse text.
func cleanAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.TimeKey) || a.Equal(slog.Attr{}) {
		return a
	}
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString, slog.KindAny:
		a.Value = slog.StringValue(printableLines(v.String()))
	}
	return a
}

func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = printable(strings.ReplaceAll(l, "\t", " "))
	}
	return strings.Join(lines, "\n")
}

// A noteHandler prints each record as a note: its message, and the attributes after it. Only a stack
// has several lines, and gets a note for each of them. Other text must not be able to begin a line,
// because it may come from the network.
type noteHandler struct {
	streams Streams
	level   slog.Leveler
	attrs   []slog.Attr
}

func (h noteHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h noteHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

func (h noteHandler) WithGroup(string) slog.Handler { return h }

func (h noteHandler) Handle(_ context.Context, r slog.Record) error {
	line, stack := r.Message, ""
	add := func(a slog.Attr) bool {
		if a.Key == "stack" {
			stack = printableLines(a.Value.String())
		} else {
			line += fmt.Sprintf(" %s=%s", a.Key, a.Value)
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.streams.notes(printable(line) + "\n" + stack)
	return nil
}
