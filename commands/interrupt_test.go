//go:build unix

package commands_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// frozenTracker runs a tracker that begins streams and answers looks. It never answers announces.
func frozenTracker(t *testing.T) (addr string) {
	thaw := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream"):
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: you\ndata: 127.0.0.1:4000\n\nevent: peers\ndata: 127.0.0.1:1\n\n")
			_ = http.NewResponseController(w).Flush()
		case r.FormValue("port") == "0":
			_, _ = io.WriteString(w, `{"interval":60,"peers":[]}`)
			return
		}
		<-thaw
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(thaw) })
	return srv.Listener.Addr().String()
}

// After the first Ctrl-C ntrack leaves, which takes long if the tracker does not answer. A note then
// says that a second Ctrl-C ends ntrack at once. The second Ctrl-C does so.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	at := frozenTracker(t)
	const again, once = "ntrack: leaving; Ctrl-C again ends ntrack at once\n", "ntrack: leaving; Ctrl-C ends ntrack at once\n"
	for _, c := range []struct {
		name  string
		args  []string
		begun string // the output that shows that the command has begun
		note  string // the note after the first Ctrl-C
	}{
		{"announce", []string{"announce", at, "k", "--port", "4000", "--stay", "-q"}, "127.0.0.1:1\n", again},
		{"watch", []string{"watch", at, "k", "--port", "4000", "-q"}, "join 127.0.0.1:1\n", again},
		{"watch --exec", []string{"watch", at, "k", "--port", "4000", "--exec", "echo begun; cat >/dev/null"}, "begun\n", again},
		{"watch --min", []string{"watch", at, "k", "--port", "4000", "--min", "1", "-q"}, "127.0.0.1:1\n127.0.0.1:4000\n", again},
		{"COMMAND", []string{"announce", at, "k", "--port", "4000", "--ready", "none", "--", "sh", "-c", `while [ ! -s "$NTRACK_SELF_FILE" ]; do sleep 0.1; done; echo begun; exec sleep 60`}, "begun\n", once},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// ntrack ends without the second Ctrl-C after some seconds. If the machine stalls for
			// that long, a try has tested nothing, and the next one follows.
			for range 5 {
				if secondInterrupt(t, exec.Command("ntrack", c.args...), c.begun, c.note) {
					return
				}
			}
			t.Error("in every try ntrack ended before the second Ctrl-C")
		})
	}
}

// secondInterrupt sends cmd an interrupt once cmd has printed begun, and another after the note. It
// reports whether the second interrupt ended cmd.
func secondInterrupt(t *testing.T, cmd *exec.Cmd, begun, note string) (inTime bool) {
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, errs := &seen{changed: make(chan struct{})}, &seen{changed: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	out.await(t, begun)
	_ = cmd.Process.Signal(os.Interrupt)
	errs.await(t, note)
	_ = cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-ended:
		ended <- err
		ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
		return ws.Signaled() && ws.Signal() == syscall.SIGINT || ws.ExitStatus() == 130 && !strings.Contains(errs.String(), "could not")
	case <-time.After(patience):
		t.Fatalf("ntrack has not ended: %s", errs)
	}
	return false
}

// seen collects what a program writes.
type seen struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func (s *seen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.buf.Write(b)
}

func (s *seen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// await waits until the program has written text.
func (s *seen) await(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		found, changed := strings.Contains(s.buf.String(), text), s.changed
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no %q within %v in %q", text, patience, s)
		}
	}
}
