package commands

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
)

// Text from the network can neither begin a line of its own in a log nor change how a terminal shows
// a line. Only a stack has several lines.
func TestLogText(t *testing.T) {
	const hostile = "a\nntrack: b\x1b[2J\u202ec\x00"
	for format, want := range map[string]string{
		"notes": "ntrack: a?ntrack: b?[2J?c? k=a?ntrack: b?[2J?c? e=a?ntrack: b?[2J?c?\nntrack: one\nntrack:  two\n",
		"text":  `level=WARN msg="a\nntrack: b?[2J?c?" k="a\nntrack: b?[2J?c?" e="a\nntrack: b?[2J?c?" stack="one\n two"` + "\n",
		"json":  `"level":"WARN","msg":"a\nntrack: b?[2J?c?","k":"a\nntrack: b?[2J?c?","e":"a\nntrack: b?[2J?c?","stack":"one\n two"}` + "\n",
	} {
		var out bytes.Buffer
		log := newLogger(Streams{Err: &out}, format, slog.LevelInfo)
		log.Warn(hostile, "k", hostile, "e", errors.New(hostile), "stack", "one\n\ttwo")
		got := out.String()
		if !strings.HasSuffix(got, want) || strings.Count(got, "\n") != strings.Count(want, "\n") {
			t.Errorf("%s: the log has\n%swant\n%s", format, got, want)
		}
	}
}

// The log leaves out what is less important than its level, notes included.
func TestLogLevel(t *testing.T) {
	for _, format := range logFormats {
		for i, level := range logLevels {
			var out bytes.Buffer
			s := Streams{Err: &out}
			var least slog.LevelVar
			if err := least.UnmarshalText([]byte(level)); err != nil {
				t.Fatal(err)
			}
			s.log = newLogger(s, format, &least)
			s.log.Debug("one")
			s.note("two")
			s.warn("three")
			s.log.Error("four")
			if lines := strings.Count(out.String(), "\n"); lines != len(logLevels)-i {
				t.Errorf("%s at level %s:\n%s", format, level, out.String())
			}
		}
	}
}

// The handler of notes keeps the promises of [slog.Handler], except for groups and times, which notes
// do not have.
func TestNoteHandler(t *testing.T) {
	var out bytes.Buffer
	handler := noteHandler{streams: Streams{Err: &out}, level: slog.LevelInfo}
	log := slog.New(handler).With("a", 1)
	one, two := log.With("b", 2), log.With("c", 3)
	one.Info("one")
	two.Info("two", "d", 4)
	if want := "ntrack: one a=1 b=2\nntrack: two a=1 c=3 d=4\n"; out.String() != want {
		t.Errorf("the log has\n%swant\n%s", out.String(), want)
	}
}

// The records in JSON keep the promises of [slog.Handler], with the cleaning of their text.
func TestJSONLog(t *testing.T) {
	var out *bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out = new(bytes.Buffer)
		return newLogger(Streams{Err: out}, "json", slog.LevelInfo).Handler()
	}, func(t *testing.T) map[string]any {
		record := make(map[string]any)
		if err := json.Unmarshal(out.Bytes(), &record); err != nil {
			t.Fatal(err)
		}
		return record
	})
}

// The error that ends serve is a record, and is not printed again. A mistake in the command line is a
// note in every format.
func TestLoggedError(t *testing.T) {
	for _, c := range []struct {
		records bool
		err     error
		want    string
		quiet   bool
	}{
		{true, errors.New("broken"), "level=ERROR msg=broken\n", true},
		{true, &usageError{text: "wrong"}, "", false},
		{true, nil, "", true},
		{false, errors.New("broken"), "", false},
	} {
		var out bytes.Buffer
		s := Streams{Err: &out}
		s.log = newLogger(s, "text", slog.LevelInfo)
		o := serveOptions{records: c.records}
		err := o.logged(c.err, s)
		before, _ := exitCodeOf(c.err)
		code, quiet := exitCodeOf(err)
		if !strings.HasSuffix(out.String(), c.want) || out.Len() > 0 != (c.want != "") || code != before || quiet != c.quiet {
			t.Errorf("%v: exit code %d, quiet %v; the log has %q, want %q", c.err, code, quiet, out.String(), c.want)
		}
	}
}

// A warning about an option from the environment names the variable, also in a record.
func TestWarningNamesVariable(t *testing.T) {
	var printed bytes.Buffer
	s := Streams{Err: &printed, line: &line{options: []option{{flag: adminFlags()[0], typed: "$NTRACK_ADMIN", value: ":9696"}}}}
	s.log = newLogger(s, "json", slog.LevelInfo)
	new(serveOptions).prepareAdmin(t.Context(), s, []endpoint{{kind: adminEndpoint, option: ":9696", address: "[::]:9696"}})
	if !strings.Contains(printed.String(), `"msg":"$NTRACK_ADMIN :9696: other machines`) {
		t.Errorf("the warning is %s", printed.String())
	}
}
