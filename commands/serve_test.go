package commands

import (
	"runtime/debug"
	"testing"

	"github.com/urfave/cli/v2"

	"ntrack/tracker"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// Every option of a limit reads 0 as no limit. But in the fields of a Server, and in Tracker.MaxRate,
// 0 is the default and -1 is no limit.
func TestServeZero(t *testing.T) {
	type limits struct {
		store.Limits
		rate, conns, connsPerAddr int
		connBytes, index          int64
	}
	for _, c := range []struct {
		args []string
		want limits
	}{
		{[]string{"--max-memory=48M"}, limits{store.Limits{MaxBytes: 16 << 20, MaxPerAddr: 10_000}, tracker.DefaultMaxRate, 0, 0, 8 << 20, 2 << 20}},
		{[]string{"--max-memory=48M", "--max-per-addr=0", "--max-rate=0", "--max-conns=0", "--max-conns-per-addr=0"},
			limits{store.Limits{MaxBytes: 16 << 20}, -1, -1, -1, 8 << 20, 2 << 20}},
		{[]string{"--max-memory=80MiB", "--max-per-addr=4", "--max-rate=5", "--max-conns=6", "--max-conns-per-addr=7"},
			limits{store.Limits{MaxBytes: 32 << 20, MaxPerAddr: 4}, 5, 6, 7, 16 << 20, 4 << 20}},
	} {
		var o serveOptions
		serve := serveCommand(Streams{})
		serve.Action = func(c *cli.Context) error { return o.build(c, Streams{}) }
		app := &cli.App{Name: "ntrack", Commands: []*cli.Command{serve}}
		if err := app.RunContext(t.Context(), append([]string{"ntrack", "serve"}, c.args...)); err != nil {
			t.Fatal(err)
		}
		got := limits{o.tracker.Store.(*memory.Store).Limits, o.tracker.MaxRate, o.server.MaxConns, o.server.MaxConnsPerAddr, o.server.MaxMemory, o.tracker.MaxIndex}
		if got != c.want {
			t.Errorf("serve %q:\n%+v, want\n%+v", c.args, got, c.want)
		}
	}
}

// The settings of Go's garbage collector in the environment are stronger than those of serve.
func TestLimitGarbage(t *testing.T) {
	const initial, initialLimit, most = 77, 1 << 50, 1 << 40
	defer debug.SetGCPercent(debug.SetGCPercent(initial))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(initialLimit))
	for _, c := range []struct {
		gogc, limit string
		shared      bool
		want        int
		wantLimit   int64
	}{
		{"", "", false, memory.GCPercent, most},
		{"", "", true, initial, most},
		{"50", "", false, initial, most},
		{"off", "", false, initial, most},
		{"", "1GiB", false, initial, initialLimit},
	} {
		t.Setenv("GOGC", c.gogc)
		t.Setenv("GOMEMLIMIT", c.limit)
		splitMemory(most).limitGarbage(c.shared)
		got, gotLimit := debug.SetGCPercent(initial), debug.SetMemoryLimit(initialLimit)
		if got != c.want || gotLimit != c.wantLimit {
			t.Errorf("GOGC=%q GOMEMLIMIT=%q shared %v: the heap grows by %d %%, to %d bytes; want %d and %d", c.gogc, c.limit, c.shared, got, gotLimit, c.want, c.wantLimit)
		}
	}
}
