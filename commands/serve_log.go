package commands

import (
	"context"
	"log/slog"
	"strings"
)

// newLogger returns the log of a tracker, which prints its records as notes.
func newLogger(s Streams) *slog.Logger { return slog.New(noteHandler{streams: s}) }

// A noteHandler prints each record as notes: its message, and the attributes after it. An attribute
// of several lines, such as a stack, gets a note for each line.
type noteHandler struct {
	streams Streams
	attrs   []slog.Attr
}

func (h noteHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h noteHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

func (h noteHandler) WithGroup(string) slog.Handler { return h }

func (h noteHandler) Handle(_ context.Context, r slog.Record) error {
	line, more := r.Message, ""
	add := func(a slog.Attr) bool {
		if v := a.Value.String(); strings.Contains(v, "\n") {
			more += "\n" + v
		} else {
			line += " " + a.Key + "=" + v
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.streams.notes(line + more)
	return nil
}
