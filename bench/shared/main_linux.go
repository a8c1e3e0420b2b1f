// Command shared measures what it costs to keep the table of a tracker in Valkey or Redis, beside the
// same commands without a tracker. It starts the database, the trackers and the clients itself.
// docs/performance.md has the last run, and docs/scale.md has what follows from it.
//
//	go run ./bench/shared
//	go run ./bench/shared -quick -only announces
//	go run ./bench/shared -engine valkey-server -only announces,memory
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"ntrack/bench/measure"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 2 && os.Args[1] == "role" {
		if err := runRole(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			log.Fatal(strings.Join(os.Args[1:3], " "), ": ", err)
		}
		return
	}
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal("bench/shared: ", err)
	}
}

// The sections of a run.
const (
	announces = "announces" // what an announce costs the database and the tracker
	memory    = "memory"    // bytes of the database for each peer
	joins     = "joins"     // from a join at one tracker to its event at another
	holds     = "holds"     // peers that a stream or a subscription holds
)

var sections = []string{announces, memory, joins, holds}

// A plan says how much is measured.
type plan struct {
	Rounds  int           `json:"rounds"`
	Time    time.Duration `json:"ns_per_round"`
	Warm    time.Duration `json:"-"`
	Keys    int           `json:"keys"` // of the announces
	Peers   int           `json:"peers_per_key"`
	Callers int           `json:"callers"` // announces that are in flight
	Tables  []table       `json:"tables"`  // of the memory
	// Watchers are event streams, ten for each key, half of them at each of two trackers.
	Watchers int           `json:"watchers"`
	Rate     int           `json:"joins_per_second"`
	Joining  time.Duration `json:"ns_of_joins"`
	Held     int           `json:"held"`    // by subscriptions of one Store, ten for each key
	Streams  int           `json:"streams"` // at rest, half of them at each of two trackers
	Settle   time.Duration `json:"-"`       // the wait until the changes of what has just joined are sent
	Rest     time.Duration `json:"ns_at_rest"`
}

// A table is a number of keys that have the same number of peers.
type table struct{ Keys, Peers int }

// A bench is one run.
type bench struct {
	plan
	only    []string
	engine  string // the program of the database
	profile string
	log     io.Writer
	cpus    []int // the first is for the database and the load, the last for what is measured
	report  report
}

func run(args []string, stdout, stderr io.Writer) error {
	b := &bench{log: stderr}
	f := flag.NewFlagSet("bench/shared", flag.ContinueOnError)
	f.SetOutput(stderr)
	only := f.String("only", "", "a comma-separated `LIST` of sections: "+strings.Join(sections, ", ")+"; all if there is none")
	quick := f.Bool("quick", false, "a smaller run, to check that it works")
	rounds := f.Int("rounds", 7, "measure announces `N` times, in turns")
	jsonFile := f.String("json", "", "write everything measured to `FILE`")
	mdFile := f.String("md", "", "put the tables into `FILE`, between two markers that name the program of the database")
	f.StringVar(&b.engine, "engine", "redis-server", "the `PROGRAM` of the database: redis-server or valkey-server, or a path to one")
	f.StringVar(&b.profile, "cpuprofile", "", "write a profile of the CPU time of the tracker, or of the Store, to `FILE`.server and `FILE`.store")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("surplus argument %q", f.Arg(0))
	}
	if *rounds < 1 {
		return errors.New("-rounds: at least 1")
	}
	b.plan = plan{Time: time.Second, Warm: 300 * time.Millisecond, Keys: 10_000, Peers: 100, Callers: 64,
		Tables:   []table{{40_000, 5}, {2000, 100}, {20, 10_000}, {1, 1_000_000}},
		Watchers: 10_000, Rate: 100, Joining: 20 * time.Second, Held: 100_000, Streams: 18_000, Settle: 5 * time.Second, Rest: 45 * time.Second}
	if *quick {
		b.plan = plan{Time: 300 * time.Millisecond, Warm: 100 * time.Millisecond, Keys: 1000, Peers: 100, Callers: 64,
			Tables:   []table{{10_000, 5}, {500, 100}, {5, 10_000}, {1, 100_000}},
			Watchers: 1000, Rate: 100, Joining: 5 * time.Second, Held: 10_000, Streams: 1000, Settle: 3 * time.Second, Rest: 20 * time.Second}
		*rounds = min(*rounds, 3)
	}
	b.Rounds = *rounds
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	for _, o := range b.only {
		if !slices.Contains(sections, o) {
			return fmt.Errorf("-only %s: the sections are %s", o, strings.Join(sections, ", "))
		}
	}
	return b.run(stdout, *jsonFile, *mdFile)
}

func (b *bench) run(stdout io.Writer, jsonFile, mdFile string) error {
	if _, err := exec.LookPath(b.engine); err != nil {
		return fmt.Errorf("-engine %s: %w", b.engine, err)
	}
	runtime.LockOSThread() // for the CPUs of the children, and because they end with the thread
	defer runtime.UnlockOSThread()
	var err error
	if b.cpus, err = measure.AllowedCPUs(); err != nil {
		return err
	}
	if err := measure.PinProcess(os.Getpid(), b.cpus[0]); err != nil {
		return err
	}
	defer func() { _ = measure.PinProcess(os.Getpid(), b.cpus...) }()
	b.report = report{Machine: measure.Machine(len(b.cpus)), plan: b.plan}
	for _, section := range sections {
		if b.only != nil && !slices.Contains(b.only, section) {
			continue
		}
		began := time.Now()
		err := map[string]func() error{announces: b.announces, memory: b.memory, joins: b.joins, holds: b.holds}[section]()
		if err != nil {
			b.report.print(stdout) // what the sections before it have measured
			return fmt.Errorf("%s: %w", section, err)
		}
		fmt.Fprintf(b.log, "bench/shared: %s took %.0f s\n", section, time.Since(began).Seconds())
	}
	b.report.print(stdout)
	return measure.Save(b.report, b.report.print, jsonFile, mdFile, markOf(b.engine))
}
