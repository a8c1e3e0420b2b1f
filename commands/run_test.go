//go:build unix

package commands_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ntrack/commands"
	"ntrack/tracker"
	"ntrack/tracker/trackertest"
)

// ntrack ends with the command, and with its exit code, if a child of the command keeps the pipe of a
// stream open, or if standard input never ends.
func TestCommandStreamsHeld(t *testing.T) {
	local := trackertest.New()
	defer local.Close()
	held := filepath.Join(t.TempDir(), "held")
	if err := os.WriteFile(held, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	silent, end := io.Pipe()
	defer end.Close()
	for name, c := range map[string]struct {
		in     io.Reader
		script string
	}{
		"output": {strings.NewReader(""), `(while [ -e "$1" ]; do sleep 0.1; done) 2>/dev/null & echo begun; exit 7`},
		"errors": {strings.NewReader(""), `(while [ -e "$1" ]; do sleep 0.1; done) >/dev/null & echo begun; exit 7`},
		"input":  {silent, "echo begun; exit 7"},
		"script": {strings.NewReader("begun\n"), `cat; exit 7`},
	} {
		t.Run(name, func(t *testing.T) {
			out := &written{want: "begun", found: make(chan struct{})}
			code := make(chan int, 1)
			go func() {
				code <- commands.Main(context.WithoutCancel(t.Context()),
					[]string{"ntrack", "announce", local.Tracker.String(), "k", "--port", "4000", "--ready", "none", "--", "sh", "-c", c.script, "sh", held},
					commands.Streams{In: c.in, Out: out, Err: io.Discard})
			}()
			select {
			case got := <-code:
				if got != 7 || out.text() != "begun\n" {
					t.Errorf("exit code %d after %q, want 7", got, out.text())
				}
			case <-time.After(30 * time.Second):
				t.Error("ntrack has not ended, although the command has")
			}
		})
	}
}

// A tracker that refuses does not disturb the command. The command joins once the tracker accepts it.
func TestCommandRefusedAtFirst(t *testing.T) {
	tr := new(tracker.Tracker)
	h := tracker.Handler(tr)
	joined := make(chan struct{})
	var asked atomic.Int32
	var once sync.Once
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= 2 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		once.Do(func() { close(joined) })
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	defer tr.EndStreams()
	in, end := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- commands.Main(context.WithoutCancel(t.Context()),
			[]string{"ntrack", "announce", srv.URL, "k", "--port", "4000", "--ready", "none", "--", "sh", "-c", "cat; exit 7"},
			commands.Streams{In: in, Out: io.Discard, Err: io.Discard})
	}()
	select {
	case <-joined:
	case got := <-code:
		t.Fatalf("ntrack ended with %d before it joined", got)
	case <-time.After(30 * time.Second):
		t.Error("ntrack has not joined after the refusals")
	}
	_ = end.Close()
	if got := <-code; got != 7 {
		t.Errorf("exit code %d, want 7", got)
	}
}
