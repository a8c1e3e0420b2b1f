// Command soak finds leaks. It runs `ntrack serve` under a mixed load, in waves. After each wave the load
// goes away, and the tracker gets time in which peers lapse and idle connections end. Then it has to be
// empty. Its goroutines, descriptors, resident memory and heap have to be the same after the last waves
// as after the first ones. If not, or if an honest request fails, the exit code is 1.
//
//	go run ./bench/soak                  # a minute
//	go run ./bench/soak -time 1h -o FILE
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
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal("soak: ", err)
	}
}

const (
	shortestRest = 10 * time.Second // the load lapses after 5 seconds, and connections end after 3
	shortestWave = 2 * shortestRest
	mostWaves    = 12
	rows         = 240 // about how many rows the file of -o has
)

// A soak is one run.
type soak struct {
	tracker *tracker
	load    *load
	file    io.Writer
	log     io.Writer
	every   int // seconds between two rows of the file
	second  int
	rests   []figures // after each wave
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.SetOutput(stderr)
	length := f.Duration("time", time.Minute, "run for about `D`, at least 40s")
	users := f.Int("users", 300, "the load is `N` clients, each with about one action per second")
	program := f.String("ntrack", "", "the tracker is the program `FILE` (default a build of the module here)")
	out := f.String("o", "", "write what was measured to `FILE`, as a table")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("%q: no arguments are allowed", f.Arg(0))
	case *length < 2*shortestWave:
		return fmt.Errorf("-time %s: at least %s", *length, 2*shortestWave)
	case *users < 1 || *users > 5000:
		return fmt.Errorf("-users %d: from 1 to 5000", *users)
	}
	s := &soak{file: io.Discard, log: stdout, every: max(1, int(length.Seconds())/rows)}
	if *out != "" {
		file, err := os.Create(*out)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		s.file = file
	}
	if s.tracker, err = startTracker(ctx, *program, stderr); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.tracker.stop()) }()
	s.load = newLoad(s.tracker, *users)

	waves := min(mostWaves, int(*length/shortestWave))
	wave := *length / time.Duration(waves)
	rest := max(shortestRest, wave/5)
	fmt.Fprintf(s.file, "second\t%s\n", strings.Join(names[:], "\t"))
	fmt.Fprintf(s.log, "%d waves of %s under load and %s at rest, %d clients\n", waves, (wave - rest).Round(time.Second), rest.Round(time.Second), *users)
	fmt.Fprintf(s.log, "%-6s %10s %10s %12s %10s %10s\n", "wave", "requests", "goroutines", "descriptors", "RSS MiB", "heap MiB")
	for n := range waves {
		if err := s.wave(ctx, n+1, wave-rest, rest); err != nil {
			return err
		}
	}
	return s.verdict()
}

// wave runs the load, and then a rest.
func (s *soak) wave(ctx context.Context, n int, busy, rest time.Duration) error {
	loaded, stop := context.WithCancel(ctx) // without a deadline: a dial fails a little before that
	defer stop()
	done := make(chan struct{})
	go func() {
		s.load.run(loaded)
		close(done)
	}()
	err := s.measure(ctx, busy)
	stop()
	<-done
	if err != nil {
		return err
	}
	if err := s.measure(ctx, rest); err != nil {
		return err
	}
	now, err := s.tracker.collected(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.log, "%-6d %10d %10.0f %12.0f %10.1f %10.2f\n", n, s.load.served.Load(),
		now[goroutines], now[descriptors], now[rss]/(1<<20), now[heap]/(1<<20))
	s.rests = append(s.rests, now)
	for _, name := range []int{keys, peers, streams, connections, panics} {
		if now[name] != 0 {
			return fmt.Errorf("after wave %d, %s is %.0f, want 0", n, names[name], now[name])
		}
	}
	return s.load.failure()
}

// measure measures once a second for this long.
func (s *soak) measure(ctx context.Context, d time.Duration) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range int(d.Seconds()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := s.tracker.figures(ctx)
		if err != nil {
			return err
		}
		if s.second++; s.second%s.every == 0 {
			fmt.Fprintf(s.file, "%d", s.second)
			for _, v := range now {
				fmt.Fprintf(s.file, "\t%.0f", v)
			}
			fmt.Fprintln(s.file)
		}
	}
	return nil
}

// tolerance is how much more of something the last rests may have than the first ones. The heap and the
// resident memory of a Go program vary by that much, with the moment of the last garbage collection.
var tolerance = map[int]float64{goroutines: 1, descriptors: 1, rss: 4 << 20, heap: 512 << 10}

// verdict compares the last third of the rests with the first third. The first wave warms the program up, and
// does not count.
func (s *soak) verdict() error {
	counted := s.rests[1:]
	third := max(1, len(counted)/3)
	var errs []error
	for _, name := range []int{goroutines, descriptors, rss, heap} {
		first, last := 0.0, 0.0
		for i := range third {
			first += counted[i][name] / float64(third)
			last += counted[len(counted)-1-i][name] / float64(third)
		}
		if last > first+tolerance[name] {
			errs = append(errs, fmt.Errorf("%s grows: from %.1f to %.1f, tolerance %.0f", names[name], first, last, tolerance[name]))
		}
	}
	if len(errs) == 0 {
		fmt.Fprintln(s.log, "flat")
	}
	return errors.Join(errs...)
}
