//go:build linux

// Command attack puts trackers under attack, beside the load of honest clients, and reports what
// these notice. docs/reliability.md says what is measured, how, and with what result.
//
//	go run ./bench/attack
//	go run ./bench/attack -quick -only pipelines,ntrack
//
// It starts the servers itself, attacks only them, only on this machine's loopback addresses, and
// only for some seconds each.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/bench/measure"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 2 && os.Args[1] == "role" {
		if err := runRole(os.Args[2], os.Args[3:]); err != nil {
			log.Fatal("attack: ", os.Args[2], ": ", err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal("attack: ", err)
	}
}

// A bench is one run.
type bench struct {
	only     []string
	time     time.Duration // of each attack
	settle   time.Duration // how long the honest load runs before the start figures are taken
	recover  time.Duration // the longest wait for the start figures
	shrink   int           // attacks have this many times fewer connections
	honest   honestPlan
	memory   string // --max-memory, and what the goal allows
	ceiling  int64  // the same in bytes
	parallel int    // attackers at a time
	files    int    // that a process may have open
	dir      string // for files
	program  string // ntrack
	profile  string // a file
	log      io.Writer
	report   report
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	b := &bench{log: stderr, shrink: 1, settle: time.Second, parallel: runtime.NumCPU()}
	f := flag.NewFlagSet("attack", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.DurationVar(&b.time, "time", 15*time.Second, "let each attack last `D`")
	f.DurationVar(&b.recover, "recover", 30*time.Second, "wait up to `D` after an attack for the figures of the start")
	f.StringVar(&b.memory, "max-memory", "512M", "the `SIZE` that ntrack gets as --max-memory, and that the goal allows every server")
	only := f.String("only", "", "a comma-separated `LIST` of attacks ("+strings.Join(attackNames(), ", ")+") and servers ("+strings.Join(servers, ", ")+"); all if it names none")
	quick := f.Bool("quick", false, "attacks of 3 s with a tenth of the connections and of the honest load, to see that they work")
	jsonFile := f.String("json", "", "write everything measured to `FILE`")
	f.StringVar(&b.profile, "cpuprofile", "", "write a profile of ntrack's CPU time under the last attack to `FILE`")
	mdFile := f.String("md", "", "put the tables into `FILE`, between two markers")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("surplus argument %q", f.Arg(0))
	}
	if b.ceiling, err = parseSize(b.memory); err != nil {
		return fmt.Errorf("-max-memory: %w", err)
	}
	b.honest = honestPlan{Rate: 2000, Interval: 5 * time.Second, Streams: 1000, Kept: 1000}
	if *quick {
		b.time, b.recover, b.shrink = min(b.time, 3*time.Second), min(b.recover, 10*time.Second), 10
		b.honest = honestPlan{Rate: 500, Interval: 2 * time.Second, Streams: 100, Kept: 250}
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	return b.run(ctx, stdout, *jsonFile, *mdFile)
}

// parseSize reads a size such as 512M, as --max-memory does.
func parseSize(s string) (int64, error) {
	var n int64
	var unit string
	if k, err := fmt.Sscanf(s, "%d%s", &n, &unit); k < 2 || n <= 0 {
		return 0, fmt.Errorf("%q: a size such as 512M or 2G (%v)", s, err)
	}
	i := strings.Index("KMG", unit)
	if i < 0 || len(unit) != 1 {
		return 0, fmt.Errorf("%q: a size such as 512M or 2G", s)
	}
	return n << (10 * (i + 1)), nil
}

func attackNames() []string {
	var names []string
	for _, a := range attacks {
		names = append(names, a.name)
	}
	return names
}

// wants says whether an attack or a server is in the run. It is if -only names it, or none of its
// kind.
func (b *bench) wants(kind []string, name string) bool {
	return slices.Contains(b.only, name) || !slices.ContainsFunc(b.only, func(o string) bool { return slices.Contains(kind, o) })
}

func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(b.log, "attack: "+format+"\n", args...)
}

func (b *bench) run(ctx context.Context, stdout io.Writer, jsonFile, mdFile string) (err error) {
	for _, o := range b.only {
		if !slices.Contains(attackNames(), o) && !slices.Contains(servers, o) {
			return fmt.Errorf("-only %s: no such attack or server", o)
		}
	}
	if mdFile != "" { // a run takes too long to notice that at its end
		begin, end := measure.Marks(mark)
		if text, err := os.ReadFile(mdFile); err != nil {
			return err
		} else if !strings.Contains(string(text), begin) || !strings.Contains(string(text), end) {
			return fmt.Errorf("-md %s: it has no lines %s and %s", mdFile, strings.TrimSpace(begin), strings.TrimSpace(end))
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	b.files = int(min(limit.Max, 1<<20))
	if b.dir, err = os.MkdirTemp("", "ntrack-attack-*"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	// A signal to a thread's children would come when the thread ends. This one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.report = report{Machine: measure.Machine(runtime.NumCPU()), Files: b.files, Rate: b.honest.Rate, Streams: b.honest.Streams,
		Seconds: b.time.Seconds(), Interval: b.honest.Interval.Seconds(), Attackers: b.parallel, Shrink: b.shrink, Memory: b.memory, Ceiling: b.ceiling}
	var failed []error // rows
	for _, server := range servers {
		if !b.wants(servers, server) {
			continue
		}
		if err := b.prepare(ctx, server); err != nil {
			b.note("%s is left out: %v", server, err)
			if slices.Contains(b.only, server) {
				return err
			}
			continue
		}
		for i := range attacks {
			a := &attacks[i]
			if !b.wants(attackNames(), a.name) || !slices.Contains(a.on, server) {
				continue
			}
			row, err := b.play(ctx, server, a)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil { // the other rows are worth having
				failed = append(failed, fmt.Errorf("%s, %s: %w", server, a.name, err))
				b.note("%v", failed[len(failed)-1])
				continue
			}
			b.report.Rows = append(b.report.Rows, row)
			b.note("%-12s %-34s %s", server, a.title, b.report.verdict(row))
		}
	}
	b.report.print(stdout)
	failed = append(failed, measure.Save(b.report, b.report.print, jsonFile, mdFile, mark))
	return errors.Join(failed...)
}
