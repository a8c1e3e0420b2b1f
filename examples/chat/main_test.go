package main

import (
	"bufio"
	"context"
	"io"
	"regexp"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Two members talk, and one of them leaves.
func TestChat(t *testing.T) {
	local := trackertest.New()
	defer local.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		t.Fatal(err)
	}
	type person struct {
		says  *io.PipeWriter
		reads *bufio.Scanner
		left  chan error
	}
	join := func() person {
		in, says := io.Pipe()
		reads, out := io.Pipe()
		left := make(chan error, 1)
		go func() {
			left <- chat(ctx, []announce.Tracker{local.Tracker}, key, in, out)
			_ = out.Close()
		}()
		return person{says, bufio.NewScanner(reads), left}
	}
	sees := func(p person, want string) {
		t.Helper()
		if !p.reads.Scan() || !regexp.MustCompile("^"+want+"$").MatchString(p.reads.Text()) {
			t.Fatalf("sees %q (%v), want %s", p.reads.Text(), p.reads.Err(), want)
		}
	}
	const somebody = `127\.0\.0\.1:\d+`

	ann := join()
	sees(ann, `\* here: \[\]`)
	bob := join()
	sees(bob, `\* here: \[`+somebody+`\]`)
	sees(ann, `\* `+somebody+` joins`)
	if _, err := io.WriteString(ann.says, "hello\x1b[2J\n"); err != nil {
		t.Fatal(err)
	}
	sees(bob, somebody+`: "hello\\x1b\[2J"`)
	_ = bob.says.Close()
	sees(ann, `\* `+somebody+` leaves`)
	_ = ann.says.Close()
	for _, p := range []person{ann, bob} {
		if err := <-p.left; err != nil {
			t.Error(err)
		}
	}
}
