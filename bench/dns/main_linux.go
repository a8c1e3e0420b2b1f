// Command dns measures what an answer over DNS costs a tracker, beside announces, and beside a server that
// answers one constant by the same library. It starts the servers itself. docs/performance.md has the last
// run.
//
//	go run ./bench/dns
//	go run ./bench/dns -quick -only answers
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
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
		log.Fatal("bench/dns: ", err)
	}
}

// The sections of a run.
const (
	answers = "answers" // what an answer costs, and an announce
	beside  = "beside"  // how long announces take while there are queries
)

var sections = []string{answers, beside}

// mark is the name of the tables in a document.
const mark = "bench/dns"

// A plan says how much is measured.
type plan struct {
	Rounds   int           `json:"rounds"`
	Time     time.Duration `json:"ns_per_round"`
	Warm     time.Duration `json:"-"`
	Flight   int           `json:"in_flight"`            // queries, or announces, that wait for their reply
	Small    int           `json:"keys_of_5"`            // for A
	Large    int           `json:"keys_of_50"`           // for SRV
	Announce int           `json:"announces_per_second"` // beside queries
	Queries  []int         `json:"queries_per_second"`   // beside announces; 0 is as many as are answered
}

// A bench is one run.
type bench struct {
	plan
	only    []string
	profile string
	log     io.Writer
	cpus    []int // the first is for the load, the last for what is measured
	report  report
}

func run(args []string, stdout, stderr io.Writer) error {
	b := &bench{log: stderr}
	f := flag.NewFlagSet("bench/dns", flag.ContinueOnError)
	f.SetOutput(stderr)
	only := f.String("only", "", "a comma-separated `LIST` of sections: "+strings.Join(sections, ", ")+"; all if there is none")
	quick := f.Bool("quick", false, "a smaller run, to check that it works")
	rounds := f.Int("rounds", 7, "measure everything `N` times, in turns")
	jsonFile := f.String("json", "", "write everything measured to `FILE`")
	mdFile := f.String("md", "", "put the tables into `FILE`, between two markers")
	f.StringVar(&b.profile, "cpuprofile", "", "write a profile of the CPU time of the tracker to `FILE`")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("surplus argument %q", f.Arg(0))
	}
	if *rounds < 1 {
		return errors.New("-rounds: at least 1")
	}
	b.plan = plan{Time: time.Second, Warm: 300 * time.Millisecond, Flight: 64, Small: 10_000, Large: 1000, Announce: 2000, Queries: []int{1000, 10_000, 0}}
	if *quick {
		b.plan = plan{Time: 200 * time.Millisecond, Warm: 50 * time.Millisecond, Flight: 64, Small: 1000, Large: 100, Announce: 2000, Queries: []int{1000, 0}}
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
	if err := b.measure(); err != nil {
		return err
	}
	b.report.print(stdout)
	return measure.Save(b.report, b.report.print, jsonFile, mdFile, mark)
}

// measure starts the tracker and the constant server, and measures them in turns.
func (b *bench) measure() error {
	tracker, err := b.spawn(trackerRole, "-small", fmt.Sprint(b.Small), "-large", fmt.Sprint(b.Large), "-cpuprofile", b.profile)
	if err != nil {
		return err
	}
	defer tracker.Stop()
	cases := casesOf(b.Small, b.Large)
	args := []string{}
	for _, c := range cases {
		if err := c.probe(tracker.ports.DNS); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		args = append(args, "-"+c.flag, fmt.Sprint(c.answers))
	}
	constant, err := b.spawn(constantRole, args...)
	if err != nil {
		return err
	}
	defer constant.Stop()
	if b.only == nil || slices.Contains(b.only, answers) {
		if err := b.answers(cases, tracker, constant); err != nil {
			return fmt.Errorf("%s: %w", answers, err)
		}
	}
	if b.only == nil || slices.Contains(b.only, beside) {
		if err := b.beside(cases[0], tracker); err != nil {
			return fmt.Errorf("%s: %w", beside, err)
		}
	}
	return nil
}

// answers measures each kind of query at both servers, and announces.
func (b *bench) answers(cases []*query, tracker, constant *child) error {
	for _, c := range cases {
		b.report.Answers = append(b.report.Answers, &answerResult{Name: c.name, Bytes: c.bytes})
	}
	announces := &answerResult{Name: "announce, 50 peers"}
	for range b.Rounds {
		for i, c := range cases {
			var r answerRound
			var err error
			if r.Constant, err = b.put(constant, &load{queries: c, port: constant.ports.DNS, flight: b.Flight}); err == nil {
				r.Tracker, err = b.put(tracker, &load{queries: c, port: tracker.ports.DNS, flight: b.Flight})
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			b.report.Answers[i].Rounds = append(b.report.Answers[i].Rounds, r)
		}
		r, err := b.put(tracker, &load{announces: true, http: tracker.ports.HTTP, keys: b.Large, flight: b.Flight})
		if err != nil {
			return fmt.Errorf("announces: %w", err)
		}
		announces.Rounds = append(announces.Rounds, answerRound{Tracker: r})
	}
	b.report.Answers = append(b.report.Answers, announces)
	return nil
}

// beside measures announces of a fixed rate, without queries and with them.
func (b *bench) beside(c *query, tracker *child) error {
	rates := append([]int{-1}, b.Queries...)
	for _, rate := range rates {
		b.report.Beside = append(b.report.Beside, &besideResult{Rate: rate})
	}
	for range b.Rounds {
		for i, rate := range rates {
			l := &load{announces: true, http: tracker.ports.HTTP, keys: b.Large, flight: b.Flight, announceRate: b.Announce}
			if rate >= 0 {
				l.queries, l.port, l.queryRate = c, tracker.ports.DNS, rate
			}
			r, err := b.put(tracker, l)
			if err != nil {
				return err
			}
			b.report.Beside[i].Rounds = append(b.report.Beside[i].Rounds, r)
		}
	}
	return nil
}

// put puts a server under a load, and returns what was measured.
func (b *bench) put(c *child, l *load) (r round, err error) {
	if err := l.open(); err != nil {
		return r, err
	}
	defer l.close()
	if err := l.run(b.Warm); err != nil {
		return r, err
	}
	l.reset()
	before, err := measure.UsageOf(c.PID)
	if err != nil {
		return r, err
	}
	began := time.Now()
	if err := l.run(b.Time); err != nil {
		return r, err
	}
	took := time.Since(began)
	after, err := measure.UsageOf(c.PID)
	cpu := after.CPU - before.CPU
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	r = round{Answers: float64(l.dns.done) / took.Seconds(), Lost: l.dns.lost, Announces: float64(l.web.done) / took.Seconds(), Busy: float64(cpu) / float64(took)}
	r.Each = us(cpu) / float64(l.dns.done+l.web.done)
	shown := &l.dns
	if l.announces {
		shown = &l.web
	}
	if shown.done == 0 {
		return r, errors.New("no reply in a whole round: the machine is too busy")
	}
	r.P50, r.P99, r.Most = us(shown.times.Percentile(0.5)), us(shown.times.Percentile(0.99)), us(shown.longest)
	return r, err
}
