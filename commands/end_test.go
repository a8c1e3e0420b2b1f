//go:build unix

package commands

import (
	"bytes"
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
)

// If a command does not end soon after a signal, a note says how to end it at once.
func TestSlowEnd(t *testing.T) {
	for _, c := range []struct {
		cause error
		lasts time.Duration
		want  string
	}{
		{Interrupted{syscall.SIGINT}, 600 * time.Millisecond, "ntrack: leaving; Ctrl-C again ends ntrack at once\n"},
		{Interrupted{syscall.SIGTERM}, 600 * time.Millisecond, "ntrack: leaving; a second signal ends ntrack at once\n"},
		{Interrupted{syscall.SIGINT}, 400 * time.Millisecond, ""},
		{errReaderGone, 600 * time.Millisecond, ""},
		{nil, 600 * time.Millisecond, ""}, // ctx does not end before the command does
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			ctx, cancel := context.WithCancelCause(t.Context())
			done := Streams{Err: &out}.noteSlowEnd(ctx, "leaving")
			if c.cause != nil {
				cancel(c.cause)
			}
			time.Sleep(c.lasts)
			done()
			cancel(nil)
			time.Sleep(time.Second)
			synctest.Wait()
			if out.String() != c.want {
				t.Errorf("%v, %v: %q, want %q", c.cause, c.lasts, &out, c.want)
			}
		})
	}
}

// After the end of a COMMAND ntrack waits until the peer has left, but at most leaveTime, and only
// until Ctrl-C.
func TestAwaitLeft(t *testing.T) {
	const slow = "ntrack: leaving; Ctrl-C ends ntrack at once\n"
	const failed, forgets = "ntrack: could not leave: ", "; the tracker forgets you after the ttl\n"
	type signal struct {
		after time.Duration
		sig   os.Signal
	}
	for _, c := range []struct {
		about   string
		signals []signal
		left    time.Duration // when the peer has left; 0 for never
		err     error         // the error of leaving
		takes   time.Duration // how long awaitLeft has to wait
		want    string        // the notes
	}{
		{"the peer leaves soon", nil, time.Millisecond, nil, time.Millisecond, ""},
		{"the peer leaves late", nil, 1900 * time.Millisecond, nil, 1900 * time.Millisecond, slow},
		{"two trackers fail", nil, time.Millisecond, errors.Join(errors.New("a"), &announce.RefusalError{Reason: "b"}), time.Millisecond,
			failed + "a" + forgets + failed + "the tracker refused: b" + forgets},
		{"the peer does not leave", nil, 0, nil, 2 * time.Second, slow + "ntrack: could not leave within 2s; the tracker forgets you after the ttl\n"},
		{"the signal that has ended the command comes late", []signal{{100 * time.Millisecond, syscall.SIGINT}}, 1900 * time.Millisecond, nil, 1900 * time.Millisecond, slow},
		{"Ctrl-C", []signal{{time.Second, syscall.SIGINT}}, 0, nil, time.Second, slow},
		{"SIGTERM after others", []signal{{100 * time.Millisecond, syscall.SIGINT}, {time.Second, syscall.SIGURG}, {1500 * time.Millisecond, syscall.SIGTERM}}, 0, nil, 1500 * time.Millisecond, slow},
		{"SIGHUP", []signal{{time.Second, syscall.SIGHUP}}, 0, nil, time.Second, slow},
		{"SIGQUIT", []signal{{time.Second, syscall.SIGQUIT}}, 0, nil, time.Second, slow},
	} {
		t.Run(c.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				signals, left := make(chan os.Signal, 16), make(chan error, 1)
				for _, s := range c.signals {
					time.AfterFunc(s.after, func() { signals <- s.sig })
				}
				if c.left > 0 {
					time.AfterFunc(c.left, func() { left <- c.err })
				}
				began := time.Now()
				(&running{s: Streams{Err: &out}, signals: signals}).awaitLeft(left)
				if took := time.Since(began); took != c.takes || out.String() != c.want {
					t.Errorf("it took %v, want %v, and the notes are\n%swant\n%s", took, c.takes, &out, c.want)
				}
			})
		})
	}
}

// The first reason to end a COMMAND counts: a second one changes nothing, neither the note nor the time
// until SIGKILL.
func TestAwaitTwoReasons(t *testing.T) {
	in, lines, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer lines.Close()
	ready, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	defer out.Close()
	var notes bytes.Buffer
	run, err := startCommand(t.Context(), Streams{In: in, rawOut: out, Err: &notes}, []string{"sh", "-c", "trap '' TERM; echo; read line"}, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil { // from now on the COMMAND ignores SIGTERM
		t.Fatal(err)
	}
	reasons := make(chan ending)
	go func() {
		reasons <- ending{"lost a", "--on-leave"}
		reasons <- ending{"lost b", "--on-leave"}
		_ = lines.Close()
	}()
	const want = "ntrack: lost a: ending sh, because of --on-leave kill\n"
	if stopped := run.await(t.Context(), reasons); !stopped || notes.String() != want {
		t.Errorf("stopped: %v, want true; the notes are\n%swant\n%s", stopped, &notes, want)
	}
}

// A part of a job stays for the slowest of the others, but only until a signal asks it to end.
func TestStay(t *testing.T) {
	for _, c := range []struct {
		sig   os.Signal // after a second; nil for none
		takes time.Duration
	}{
		{nil, 2 * time.Second},
		{syscall.SIGURG, 2 * time.Second},
		{syscall.SIGTERM, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := running{signals: make(chan os.Signal, 1)}
			if c.sig != nil {
				time.AfterFunc(time.Second, func() { r.signals <- c.sig })
			}
			began := time.Now()
			r.stay(t.Context(), began.Add(2*time.Second))
			if took := time.Since(began); took != c.takes {
				t.Errorf("%v: it took %v, want %v", c.sig, took, c.takes)
			}
			r.stay(t.Context(), time.Time{}) // a time that has passed
		})
	}
}
