//go:build linux && (amd64 || arm64)

// Command bench compares trackers in one run: this module's server, in both its ways, its net/http
// handler, opentracker if it is installed, and a floor, which does the least that any server can.
// docs/performance.md says what is measured, how, and with what result.
//
//	go run ./bench
//	go run ./bench -quick -only close,ntrack,floor
//
// Another build can be measured in the same run with its own bench:
//
//	go build -o old/bench ./bench   # there
//	go run ./bench -only close,ntrack,before,floor -before "old/bench ntrack"
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
		if err := runRole(os.Args[2:]); err != nil {
			log.Fatal(strings.Join(os.Args[1:3], " "), ": ", err)
		}
		return
	}
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal("bench: ", err)
	}
}

// The sections of a run, and the servers in it.
const (
	keepAlive = "keep-alive" // requests follow each other on 64 connections
	oneEach   = "close"      // each request has a connection of its own
	memory    = "memory"     // resident memory for each peer
	growth    = "growth"     // what more peers do to memory and time
	streams   = "streams"    // event streams
)

// A bench is one run.
type bench struct {
	rounds  int
	retries int           // rounds are repeated up to this many times if other programs disturb them
	time    time.Duration // how long a round takes
	warm    time.Duration // how long the load runs before a round
	rest    time.Duration // how long the CPU time at rest is measured
	only    []string
	keys    int
	million int // peers in the memory section
	streams streamsPlan
	clients int
	crowd   bool // see load.gate
	profile string
	before  []string // the bench of another build, and a role in it

	cpus               []int
	serverCPU, loadCPU int
	servers            []*rival
	log                io.Writer
	report             report
}

func run(args []string, stdout, stderr io.Writer) error {
	b := &bench{log: stderr}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&b.rounds, "rounds", 7, "measure each server `N` times in each mode, and repeat rounds that other programs disturbed")
	f.DurationVar(&b.time, "time", 800*time.Millisecond, "measure for `D` in each round")
	only := f.String("only", "", "a comma-separated `LIST` of sections (keep-alive, close, memory, growth, streams) and servers (floor, ntrack, portable, nethttp, opentracker, ntrack-2, before); all if it names none")
	quick := f.Bool("quick", false, "a smaller run, to check that it works")
	jsonFile := f.String("json", "", "write everything measured to `FILE`")
	mdFile := f.String("md", "", "put the tables into `FILE`, between two markers")
	f.BoolVar(&b.crowd, "crowd", true, "if each announce has a connection, let the clients connect while the server is stopped")
	f.StringVar(&b.profile, "cpuprofile", "", "write a profile of ntrack's CPU time under load to `FILE`")
	before := f.String("before", "", "measure the server of another build beside these: its bench as a `PROGRAM`, and a role of it, as in \"old/bench ntrack\"")
	if err := f.Parse(args); err != nil {
		return err
	}
	if b.before = strings.Fields(*before); len(b.before) != 0 && len(b.before) != 2 {
		return fmt.Errorf("-before %q: a program and a role", *before)
	}
	if f.NArg() > 0 {
		return fmt.Errorf("surplus argument %q", f.Arg(0))
	}
	b.retries = 3
	b.warm, b.rest, b.keys, b.million, b.clients = 250*time.Millisecond, 5*time.Second, 10_000, 1_000_000, 64
	b.streams = streamsPlan{Growth: []int{1000, 6000, 18_000}, Resting: 15_000, Watched: 10_000, Joins: 10, Every: time.Second, Burst: 10_000}
	if *quick {
		b.rounds, b.time, b.rest, b.keys, b.million = min(b.rounds, 3), min(b.time, 300*time.Millisecond), time.Second, 1000, 200_000
		b.streams = streamsPlan{Growth: []int{100, 1000}, Resting: 1500, Watched: 1000, Joins: 3, Every: time.Second / 2, Burst: 1000}
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	return b.run(stdout, *jsonFile, *mdFile)
}

var sections = []string{keepAlive, oneEach, memory, growth, streams}
var names = []string{"floor", "ntrack", "portable", "nethttp", "opentracker", "ntrack-2", "before"}

// wants says whether a section or server is in the run. It is if -only names it, or none of its
// kind.
func (b *bench) wants(kind []string, name string) bool {
	return slices.Contains(b.only, name) || !slices.ContainsFunc(b.only, func(o string) bool { return slices.Contains(kind, o) })
}

func (b *bench) run(stdout io.Writer, jsonFile, mdFile string) error {
	for _, o := range b.only {
		if !slices.Contains(sections, o) && !slices.Contains(names, o) {
			return fmt.Errorf("-only %s: no such section or server", o)
		}
	}
	if b.rounds < 1 {
		return errors.New("-rounds: at least 1")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	if b.cpus, err = measure.AllowedCPUs(); err != nil {
		return err
	}
	b.loadCPU, b.serverCPU = b.cpus[0], b.cpus[len(b.cpus)-1]
	defer func() { _ = measure.PinProcess(os.Getpid(), b.cpus...) }()
	if err := measure.PinProcess(os.Getpid(), b.loadCPU); err != nil {
		return err
	}
	b.report = report{Machine: measure.Machine(len(b.cpus)), Rounds: b.rounds, Seconds: b.time.Seconds(), Keys: b.keys, Peers: maxPeers}
	if b.loadCPU == b.serverCPU {
		b.note("there is only one CPU: server and load share it, and the numbers mean little")
	}
	for _, section := range []string{memory, growth} {
		if !b.wants(sections, section) {
			continue
		}
		for _, p := range memoryPlans(b.million, section == growth) {
			r, err := b.measureMemory(p)
			if err != nil {
				return fmt.Errorf("%s, %d keys of %d: %w", section, p.Keys, p.Peers, err)
			}
			if section == memory {
				b.report.Memory = append(b.report.Memory, r)
			} else {
				b.report.Growth = append(b.report.Growth, r)
			}
		}
	}
	if b.wants(sections, streams) {
		r, err := b.measureStreams(b.streams)
		if err != nil {
			return fmt.Errorf("%s: %w", streams, err)
		}
		b.report.Streams = &r
	}
	if b.wants(sections, keepAlive) || b.wants(sections, oneEach) {
		err := b.compare()
		for _, s := range b.servers {
			s.stop()
		}
		if err != nil {
			return err
		}
	}
	b.report.print(stdout)
	return measure.Save(b.report, b.report.print, jsonFile, mdFile, mark)
}

func (b *bench) note(format string, args ...any) { fmt.Fprintf(b.log, "bench: "+format+"\n", args...) }

// startServers starts the servers and fills them with peers.
func (b *bench) startServers() error {
	for _, name := range names {
		if !b.wants(names, name) {
			continue
		}
		var s *rival
		var err error
		switch name {
		case "opentracker":
			if _, missing := exec.LookPath(name); missing != nil {
				b.note("opentracker is not installed and is left out")
				continue
			}
			s, err = spawnOpentracker(b.serverCPU, b.loadCPU, b.keys)
		case "ntrack-2":
			if len(b.cpus) < 2 {
				continue
			}
			s, err = spawnRole(name, b.serverCPU, b.loadCPU, name)
		case "before":
			if b.before == nil {
				continue
			}
			s, err = spawnRoleOf(b.before[0], name, b.serverCPU, b.loadCPU, b.before[1])
		case "ntrack":
			args := []string{"ntrack"}
			if b.profile != "" {
				args = append(args, "-cpuprofile="+b.profile)
			}
			s, err = spawnRole(name, b.serverCPU, b.loadCPU, args...)
		default:
			s, err = spawnRole(name, b.serverCPU, b.loadCPU, name)
		}
		if err != nil {
			return err
		}
		b.servers = append(b.servers, s)
		s.floor, s.keepAlive = name == "floor", name != "opentracker"
		if err := b.populate(s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// populate lets every peer announce once and measures the memory that this takes.
func (b *bench) populate(s *rival) error {
	r := populated{Name: s.name}
	if !s.floor {
		before, err := measure.RSSOf(s.PID)
		if err != nil {
			return err
		}
		if err := b.fill(s); err != nil {
			return err
		}
		after, err := measure.RSSOf(s.PID)
		if err != nil {
			return err
		}
		r.Baseline, r.Running = before, float64(after-before)/float64(b.keys*maxPeers)
		b.report.Populated = append(b.report.Populated, r)
	}
	return s.pause()
}

// fill lets every peer announce once.
func (b *bench) fill(s *rival) error {
	l := b.load(s, newPopulation(b.keys, maxPeers, 0, s.keepAlive))
	l.everyone()
	err := l.run(0, time.Hour, func() {}, func() {})
	if err == nil && l.done != b.keys*maxPeers {
		err = fmt.Errorf("%d of %d announced", l.done, b.keys*maxPeers)
	}
	return err
}

func (b *bench) load(s *rival, p *population) *load {
	return &load{population: p, port: s.port, clients: b.clients, keepAlive: s.keepAlive, listsSelf: s.listsSelf || s.floor, anyKey: s.floor, yield: b.loadCPU == b.serverCPU}
}

// compare measures every server in every mode, one round of each after the other.
func (b *bench) compare() error {
	began := time.Now()
	if err := b.startServers(); err != nil {
		return err
	}
	// Go may have started threads on the CPU of the servers.
	if err := measure.PinProcess(os.Getpid(), b.loadCPU); err != nil {
		return err
	}
	if err := b.atRest(); err != nil {
		return err
	}
	b.note("servers started and filled in %.0f s", time.Since(began).Seconds())
	for _, mode := range []string{keepAlive, oneEach} {
		if !b.wants(sections, mode) {
			continue
		}
		m := modeReport{Mode: mode}
		p := newPopulation(b.keys, maxPeers, 50, mode == keepAlive)
		for _, s := range b.servers {
			if s.keepAlive || mode == oneEach {
				m.Servers = append(m.Servers, &serverReport{Name: s.name})
			}
		}
		for r := 0; !m.enough(b.rounds) && r < b.retries*b.rounds; r++ {
			for _, s := range b.servers {
				i := slices.IndexFunc(m.Servers, func(sr *serverReport) bool { return sr.Name == s.name })
				if i < 0 {
					continue
				}
				l := b.load(s, p)
				l.keepAlive = mode == keepAlive
				l.random(mix(uint64(r)))
				if mode == oneEach && b.crowd && !l.yield {
					l.gate = func(open bool) error {
						if open {
							return s.resume()
						}
						return s.pause()
					}
				}
				round, err := b.round(s, l)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, mode, err)
				}
				m.Servers[i].All = append(m.Servers[i].All, round)
			}
		}
		m.finish()
		b.report.Modes = append(b.report.Modes, m)
	}
	return nil
}

// atRest measures the CPU time of the filled servers without announces.
func (b *bench) atRest() error {
	use := make([]measure.Usage, len(b.servers))
	for i, s := range b.servers {
		if err := s.resume(); err != nil {
			return err
		}
		use[i], _ = measure.UsageOf(s.PID)
	}
	time.Sleep(b.rest)
	for i, s := range b.servers {
		now, err := measure.UsageOf(s.PID)
		if err != nil {
			return err
		}
		for j := range b.report.Populated {
			if p := &b.report.Populated[j]; p.Name == s.name {
				p.AtRest = float64(now.CPU-use[i].CPU) / float64(b.rest)
			}
		}
	}
	for _, s := range b.servers {
		if s.name == "ntrack" && b.profile != "" {
			if _, err := s.command("profile"); err != nil {
				return err
			}
		}
	}
	for _, s := range b.servers {
		if err := s.pause(); err != nil {
			return err
		}
	}
	return nil
}

// round measures a server once. All other servers are stopped.
func (b *bench) round(s *rival, l *load) (round, error) {
	var r round
	if err := s.resume(); err != nil {
		return r, err
	}
	if s.procs > 1 {
		if err := measure.PinProcess(s.PID, b.cpus[0], b.serverCPU); err != nil {
			return r, err
		}
	}
	var before, after, selfBefore, selfAfter measure.Usage
	var stolenBefore, stolenAfter time.Duration
	var began time.Time
	var wall, took time.Duration
	var errs [4]error
	done := 0
	err := l.run(b.warm, b.time, func() {
		stolenBefore = stolen(b.cpus[0], b.serverCPU)
		selfBefore, errs[0] = measure.UsageOf(os.Getpid())
		before, errs[1] = measure.UsageOf(s.PID)
		began = time.Now()
	}, func() {
		done, wall = l.done, time.Since(began)
		if took = wall; l.gate != nil {
			took = l.open
		}
		after, errs[2] = measure.UsageOf(s.PID)
		selfAfter, errs[3] = measure.UsageOf(os.Getpid())
		stolenAfter = stolen(b.cpus[0], b.serverCPU)
	})
	if err := errors.Join(append(errs[:], err)...); err != nil {
		return r, err
	}
	if done == 0 {
		return r, errors.New("no announce was answered")
	}
	if s.procs > 1 {
		if err := measure.PinProcess(s.PID, b.serverCPU); err != nil {
			return r, err
		}
	}
	if took <= 0 || after.CPU <= before.CPU || selfAfter.CPU <= selfBefore.CPU {
		// Others had the CPUs for nearly all of so short a round. It says nothing: play it again.
		if err := s.pause(); err != nil {
			return r, err
		}
		return b.round(s, l)
	}
	r = round{
		CPU:       float64(after.CPU-before.CPU) / 1e3 / float64(done),
		PerSecond: float64(done) / took.Seconds(),
		P50:       float64(l.times.Percentile(0.5)) / 1e3,
		P99:       float64(l.times.Percentile(0.99)) / 1e3,
		Busy:      float64(after.CPU-before.CPU) / float64(took),
		Noise:     float64(stolenAfter-stolenBefore) / float64(wall),
	}
	if s.procs <= 1 { // otherwise server and load share a CPU and wait for each other
		r.Noise += after.Waiting(before) + selfAfter.Waiting(selfBefore)
	}
	return r, s.pause()
}
