package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Two players want the only seat.
func TestLobby(t *testing.T) {
	local := trackertest.New()
	defer local.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key, err := announce.ParseKey("duel")
	if err != nil {
		t.Fatal(err)
	}
	type program struct {
		lines *bufio.Scanner
		stop  func()
	}
	start := func(run func(*lobby, context.Context) error) program {
		t.Helper()
		reads, out := io.Pipe()
		l := &lobby{trackers: []announce.Tracker{local.Tracker}, key: key, out: out}
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := run(l, ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			_ = out.Close()
		}()
		return program{bufio.NewScanner(reads), func() {
			stop()
			_ = reads.Close()
			<-ended
		}}
	}
	sees := func(p program, want string) {
		t.Helper()
		if !p.lines.Scan() || !strings.HasSuffix(p.lines.Text(), want) {
			t.Fatalf("printed %q (%v), want one that ends in %q", p.lines.Text(), p.lines.Err(), want)
		}
	}

	host := start(func(l *lobby, ctx context.Context) error { return l.host(ctx, 1) })
	defer host.stop()
	if !host.lines.Scan() || !strings.HasPrefix(host.lines.Text(), "hosting on port ") {
		t.Fatalf("printed %q", host.lines.Text())
	}
	play := func(l *lobby, ctx context.Context) error { return l.play(ctx) }
	first := start(play)
	sees(first, "looking for a free seat")
	sees(first, `: "welcome, 1 of 1"`)
	sees(host, "1 of 1 seats taken")
	second := start(play) // the host is not listed
	defer second.stop()
	sees(second, "looking for a free seat")
	first.stop()
	sees(host, "0 of 1 seats taken")
	sees(host, "1 of 1 seats taken")
	sees(second, `: "welcome, 1 of 1"`)
}
