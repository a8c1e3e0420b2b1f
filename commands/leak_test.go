//go:build unix

package commands_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"ntrack/announce"
	"ntrack/commands"
	"ntrack/tracker/trackertest"
)

// No goroutine remains after a command, even if it ends in the middle of its work.
func TestNoGoroutineRemains(t *testing.T) {
	defer goleak.VerifyNone(t)
	local := trackertest.New()
	defer local.Close()
	at := local.Tracker.HostPort()
	var client announce.Client
	defer client.Close()
	key, err := announce.ParseKey("k")
	if err != nil {
		t.Fatal(err)
	}
	// The commands report this peer.
	if _, err := client.Announce(t.Context(), local.Tracker, announce.Request{Key: key, Port: 1}); err != nil {
		t.Fatal(err)
	}
	service, err := net.Listen("tcp", "127.0.0.1:0") // so a COMMAND with this port is ready
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	_, port, _ := net.SplitHostPort(service.Addr().String())

	for _, c := range []struct {
		args      []string
		begun     string // the output that shows that the command has begun
		interrupt bool   // send an interrupt after this output
		code      int
	}{
		{[]string{"serve", "--listen", "127.0.0.1:0"}, "tracker at", true, 0},
		{[]string{"announce", at, "k", "--port", port, "--stay"}, "127.0.0.1:1", true, 130},
		{[]string{"announce", at, "k", "--port", port, "--", "sh", "-c", "echo begun; exec sleep 60"}, "begun", true, 143},
		{[]string{"announce", at, "k", "--port", "0", "--ready", "none", "--", "sh", "-c", "echo begun; exec sleep 60"}, "begun", true, 143},
		{[]string{"watch", at, "k", "--port", "0", "--min", "2", "--on-leave", "kill", "--", "sh", "-c", "echo begun; exec sleep 60"}, "begun", true, 143},
		{[]string{"list", at, "k", "-q"}, "127.0.0.1:1\n", false, 0},
		{[]string{"watch", at, "k", "-q"}, "join 127.0.0.1:1\n", true, 130},
		{[]string{"watch", at, "k", "-q", "--port", port}, "join 127.0.0.1:1\n", true, 130},
		{[]string{"watch", at, "k", "--exec", "echo begun; exec sleep 60"}, "begun", true, 130},
		{[]string{"watch", at, "k", "-q", "--min", "1"}, "127.0.0.1:1\n", false, 0},
		{[]string{"watch", at, "k", "-q", "--min", "2", "--port", port}, "127.0.0.1:" + port, true, 130},
		{[]string{"watch", at, "k", "-q", "--min", "9", "--for", "1ms"}, "time is up", false, 5},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			out := &written{want: c.begun, found: make(chan struct{})}
			code := make(chan int)
			go func() {
				code <- commands.Main(ctx, append([]string{"ntrack"}, c.args...), commands.Streams{In: strings.NewReader(""), Out: out, Err: out})
			}()
			if c.interrupt {
				select {
				case <-out.found:
					cancel(commands.Interrupted{Signal: syscall.SIGINT})
				case got := <-code:
					t.Fatalf("exit code %d:\n%s", got, out.text())
				}
			}
			if got := <-code; got != c.code || !strings.Contains(out.text(), c.begun) {
				t.Errorf("exit code %d, want %d after %q:\n%s", got, c.code, c.begun, out.text())
			}
		})
	}
}

// written is the output of a command that runs.
type written struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	want  string
	done  bool          // found is closed
	found chan struct{} // closed once the output contains want
}

func (s *written) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(b)
	if !s.done && strings.Contains(s.buf.String(), s.want) {
		s.done = true
		close(s.found)
	}
	return len(b), nil
}

func (s *written) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}
