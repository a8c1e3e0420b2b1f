package commands

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// LOCAL_RANK counts the peers with the same address, and NTRACK_PEERS has all of them.
func TestJobVariables(t *testing.T) {
	var peers []netip.AddrPort
	for _, p := range []string{"192.0.2.1:29500", "192.0.2.1:29501", "192.0.2.7:29500", "192.0.2.7:29501", "[2001:db8::1]:1"} {
		peers = append(peers, netip.MustParseAddrPort(p))
	}
	got := jobVariables(peers, 3)
	for _, want := range []string{
		"NTRACK_RANK=3", "NTRACK_SIZE=5", "NTRACK_PORT=29501", "RANK=3", "WORLD_SIZE=5", "LOCAL_RANK=1",
		"MASTER_ADDR=192.0.2.1", "MASTER_PORT=29500",
		"NTRACK_PEERS=192.0.2.1:29500 192.0.2.1:29501 192.0.2.7:29500 192.0.2.7:29501 [2001:db8::1]:1",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	// An address has no brackets without its port.
	if got := jobVariables(peers[4:], 0); !slices.Contains(got, "MASTER_ADDR=2001:db8::1") {
		t.Errorf("no MASTER_ADDR=2001:db8::1 in %q", got)
	}
	// The list of a job that is too large is left out: no program could start with it.
	large := slices.Repeat(peers, 1000)
	if got := jobVariables(large, 0); slices.ContainsFunc(got, func(v string) bool { return strings.HasPrefix(v, "NTRACK_PEERS=") }) {
		t.Errorf("NTRACK_PEERS is set for %d peers", len(large))
	}
}

// The stay after a COMMAND lasts until its end, the end of ntrack, or a signal that asks to end.
func TestRunningStay(t *testing.T) {
	for _, tt := range []struct {
		what string
		act  func(r *running, stop func())
		want time.Duration
	}{
		{"nothing", func(*running, func()) {}, time.Minute},
		{"SIGALRM", func(r *running, _ func()) { r.signals <- syscall.SIGALRM }, time.Minute},
		{"SIGTERM", func(r *running, _ func()) { r.signals <- syscall.SIGTERM }, time.Second},
		{"the end", func(_ *running, stop func()) { stop() }, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := &running{signals: make(chan os.Signal, 1)}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			time.AfterFunc(time.Second, func() { tt.act(r, stop) })
			began := time.Now()
			if r.stay(ctx, began.Add(time.Minute)); time.Since(began) != tt.want {
				t.Errorf("%s: stayed %v, want %v", tt.what, time.Since(began), tt.want)
			}
		})
	}
}
