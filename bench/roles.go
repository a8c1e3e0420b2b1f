//go:build linux && (amd64 || arm64)

package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
	mem "ntrack/tracker/store/memory"
)

// runRole runs a child process. It prints its port, if it has one, and executes the commands on its
// standard input until that ends.
func runRole(args []string) error {
	f := flag.NewFlagSet("role", flag.ContinueOnError)
	profile := f.String("cpuprofile", "", "write a CPU profile, beginning with the command `profile`")
	var p memoryPlan
	f.IntVar(&p.Keys, "keys", 0, "the number of keys")
	f.IntVar(&p.Peers, "peers", 0, "the number of peers of each key")
	f.BoolVar(&p.IDs, "ids", false, "peers have ids")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] != "nethttp" && os.Getenv("GOGC") == "" {
		debug.SetGCPercent(mem.GCPercent) // as `ntrack serve` does
	}
	c := commands{"gc": collect, "procs": func(arg string) error {
		n, err := strconv.Atoi(arg)
		runtime.GOMAXPROCS(n)
		return err
	}}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		c["profile"] = func(string) error { return pprof.StartCPUProfile(file) }
		defer pprof.StopCPUProfile()
	}
	switch args[0] {
	case "floor":
		return runFloor()
	case "stream-floor":
		return runStreamFloor()
	case "memory":
		c.fill(p)
		return c.run()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	t := &tracker.Tracker{}
	switch args[0] {
	case "ntrack", "ntrack-2":
		s := &server.Server{Tracker: t}
		go func() { failed <- s.Serve(l) }()
	case "portable": // a listener that is not known to be TCP has no workers
		s := &server.Server{Tracker: t}
		go func() { failed <- s.Serve(struct{ net.Listener }{l}) }()
	case "nethttp":
		s := &http.Server{Handler: tracker.Handler(t), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
		go func() { failed <- s.Serve(l) }()
	default:
		return errors.New("no such role: " + args[0])
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go func() { failed <- c.run() }()
	return <-failed
}

// commands are the commands of a child process, one per line. It answers each with a line that has
// the number of nanoseconds it took.
type commands map[string]func(arg string) error

func (c commands) run() error {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		name, arg, _ := strings.Cut(in.Text(), " ")
		do := c[name]
		if do == nil {
			return errors.New("no such command: " + name)
		}
		began := time.Now()
		if err := do(arg); err != nil {
			return err
		}
		fmt.Println(time.Since(began).Nanoseconds())
	}
	return nil
}

// collect collects garbage and returns memory to the system.
func collect(string) error {
	debug.FreeOSMemory()
	return nil
}
