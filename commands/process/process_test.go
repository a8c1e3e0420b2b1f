//go:build unix

package process

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestStart(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain") // a script without #!
	if err := os.WriteFile(plain, []byte("exit $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	silent, end := io.Pipe() // an input that never ends
	defer end.Close()
	for name, c := range map[string]struct {
		args []string
		in   io.Reader
		code int
		err  error
	}{
		"exit code":     {[]string{"sh", "-c", "exit 7"}, nil, 7, nil},
		"signal":        {[]string{"sh", "-c", "kill -TERM $$"}, nil, 128 + 15, nil},
		"input":         {[]string{"sh", "-c", "read code; exit $code"}, strings.NewReader("9\n"), 9, nil},
		"silent input":  {[]string{"sh", "-c", "exit 7"}, silent, 7, nil},
		"plain script":  {[]string{plain, "3"}, nil, 3, nil},
		"no command":    {[]string{"no-such-program"}, nil, 0, exec.ErrNotFound},
		"no file":       {[]string{filepath.Join(dir, "missing")}, nil, 0, fs.ErrNotExist},
		"no permission": {[]string{dir}, nil, 0, fs.ErrPermission},
	} {
		t.Run(name, func(t *testing.T) {
			child, err := Start(Program{Args: c.args, In: c.in, Env: os.Environ()})
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if code, err := child.ExitCode(); code != c.code || err != nil {
				t.Errorf("exit code %d, %v, want %d", code, err, c.code)
			}
		})
	}
}

// pipe returns a pipe. A read that waits for more than 30 seconds fails.
func pipe(t *testing.T) (r, w *os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// If a program leads a group, Signal reaches every process of the group.
func TestSignalGroup(t *testing.T) {
	r, w := pipe(t)
	child, err := Start(Program{Args: []string{"sh", "-c", "sleep 600 & echo begun; wait"}, Out: w, OwnGroup: true, Env: os.Environ()})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	child.Signal(syscall.SIGTERM)
	if code, _ := child.ExitCode(); code != 128+15 {
		t.Errorf("exit code %d", code)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 { // reads until the last process of the group has ended
		t.Errorf("read %q, %v", rest, err)
	}
}

// When the context ends, Run ends the whole group, even a process in it that ignores SIGTERM.
func TestRun(t *testing.T) {
	r, w := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "sh", "-c", `(trap "" TERM; echo begun; while :; do sleep 1; done) & wait`)
	cmd.Stdout = w
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cmd, 100*time.Millisecond, nil) }()
	if _, err := io.ReadFull(r, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	_ = w.Close()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("read %q, %v", rest, err)
	}
}

func TestAwaitReady(t *testing.T) {
	for _, c := range []struct {
		ready, ends time.Duration // from the start; 0 means never
		took        time.Duration
		late        int
		want        bool
	}{
		{10 * time.Millisecond, 0, 10 * time.Millisecond, 0, true},
		{time.Minute, 0, time.Minute, 1, true},
		{0, 5 * time.Second, 5 * time.Second, 0, false},
		{0, time.Hour, time.Hour, 1, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, late := time.Now(), 0
			ctx := t.Context()
			if c.ends > 0 {
				limited, cancel := context.WithTimeout(ctx, c.ends)
				defer cancel()
				ctx = limited
			}
			ready := func(context.Context) bool { return c.ready > 0 && time.Since(began) >= c.ready }
			got := AwaitReady(ctx, ready, 30*time.Second, func() { late++ })
			// It polls at most a second apart.
			if took := time.Since(began); got != c.want || late != c.late || took < c.took || took > c.took+time.Second {
				t.Errorf("ready after %v, ends after %v: %v after %v, %d times late", c.ready, c.ends, got, took, late)
			}
		})
	}
}
