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
	}
	for _, c := range []struct {
		args []string
		want limits
	}{
		{nil, limits{store.Limits{MaxKeys: 1_000_000, MaxPeers: 10_000_000, MaxPeersPerKey: 1_000_000, MaxPerAddr: 10_000},
			tracker.DefaultMaxRate, 0, 0}},
		{[]string{"--max-keys=0", "--max-peers=0", "--max-peers-per-key=0", "--max-per-addr=0",
			"--max-rate=0", "--max-conns=0", "--max-conns-per-addr=0"}, limits{store.Limits{}, -1, -1, -1}},
		{[]string{"--max-keys=1", "--max-peers=2", "--max-peers-per-key=3", "--max-per-addr=4",
			"--max-rate=5", "--max-conns=6", "--max-conns-per-addr=7"},
			limits{store.Limits{MaxKeys: 1, MaxPeers: 2, MaxPeersPerKey: 3, MaxPerAddr: 4}, 5, 6, 7}},
	} {
		var o serveOptions
		serve := serveCommand(Streams{})
		serve.Action = func(c *cli.Context) error { return o.build(c, Streams{}) }
		app := &cli.App{Name: "ntrack", Commands: []*cli.Command{serve}}
		if err := app.RunContext(t.Context(), append([]string{"ntrack", "serve"}, c.args...)); err != nil {
			t.Fatal(err)
		}
		got := limits{o.tracker.Store.(*memory.Store).Limits, o.tracker.MaxRate, o.server.MaxConns, o.server.MaxConnsPerAddr}
		if got != c.want {
			t.Errorf("serve %q:\n%+v, want\n%+v", c.args, got, c.want)
		}
	}
}

// The settings of Go's garbage collector in the environment are stronger than those of serve.
func TestLimitGarbage(t *testing.T) {
	const initial = 77
	defer debug.SetGCPercent(debug.SetGCPercent(initial))
	for _, c := range []struct {
		gogc, limit string
		want        int
	}{
		{"", "", memory.GCPercent},
		{"50", "", initial},
		{"off", "", initial},
		{"", "1GiB", initial},
	} {
		t.Setenv("GOGC", c.gogc)
		t.Setenv("GOMEMLIMIT", c.limit)
		limitGarbage()
		if got := debug.SetGCPercent(initial); got != c.want {
			t.Errorf("GOGC=%q GOMEMLIMIT=%q: the heap grows by %d %%, want %d", c.gogc, c.limit, got, c.want)
		}
	}
}
