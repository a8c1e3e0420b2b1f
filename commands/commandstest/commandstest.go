//go:build unix

// Package commandstest is for tests that run ntrack as a program. It also has a service that ntrack
// can run as its COMMAND. Enter by [Main].
package commandstest

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ntrack/commands"
)

// Main runs the tests of a package, and then exits. While they run, $PATH has two programs: ntrack
// and [listener]. The program ntrack is this test binary, which then calls the function ntrack. If
// that function is nil, Main builds the program.
func Main(m *testing.M, ntrack func()) {
	// By default, a program with the race detector sleeps for a second before it exits.
	if err := os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
		log.Fatal(err)
	}
	programs := map[string]func(){"listener": listener}
	if ntrack != nil {
		programs["ntrack"] = ntrack
	}
	testscript.Main(tests{m, ntrack == nil}, programs)
}

type tests struct {
	m     *testing.M
	build bool
}

func (t tests) Run() int {
	if t.build {
		dir, err := os.MkdirTemp("", "ntrack")
		if err != nil {
			log.Fatal(err)
		}
		defer os.RemoveAll(dir)
		build(filepath.Join(dir, "ntrack"))
		if err := os.Setenv("PATH", dir+":"+os.Getenv("PATH")); err != nil {
			log.Fatal(err)
		}
	}
	return Run(t.m)
}

// Run runs tests that mostly wait, and returns the exit code. Eight of them run in parallel, whatever
// the number of processors is, unless -parallel is given.
func Run(m *testing.M) int {
	// After nohup or a shell's & this process ignores some signals, and programs that it starts would
	// ignore them, too. But a signal that it handles is not ignored in these programs.
	for _, s := range commands.IgnoredAtStart() {
		signal.Notify(make(chan os.Signal, 1), s)
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "8"); err != nil {
			log.Fatal(err)
		}
	}
	return m.Run()
}

// build builds ntrack, with the race detector if this process has it.
func build(file string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		log.Fatal("this test does not know its module")
	}
	args := []string{"build", "-o", file}
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, info.Main.Path)...).CombinedOutput(); err != nil {
		log.Fatalf("go build: %v\n%s", err, out)
	}
}

// listener is a service that does not use ntrack. It listens at ADDR. It prints its process id, and
// then each signal that it receives. SIGTERM ends it with exit code 3, but with -stubborn it has no
// effect. The signals by which a terminal stops a program stop it.
//
//	listener [-stubborn] tcp|udp ADDR
func listener() {
	// Go's runtime sends SIGURG to its own process to preempt goroutines. The listener would print
	// it.
	const quiet = "asyncpreemptoff=1"
	if os.Getenv("GODEBUG") != quiet {
		exe, err := os.Executable()
		if err == nil {
			_ = os.Setenv("GODEBUG", quiet)
			err = syscall.Exec(exe, os.Args, os.Environ())
		}
		log.Fatal(err)
	}
	stubborn := flag.Bool("stubborn", false, "")
	flag.Parse()
	signals := make(chan os.Signal, 64)
	for s := syscall.Signal(1); s < 65; s++ {
		if s != syscall.SIGTSTP && s != syscall.SIGTTIN && s != syscall.SIGTTOU {
			signal.Notify(signals, s)
		}
	}
	var err error
	if flag.Arg(0) == "udp" {
		_, err = net.ListenPacket("udp", flag.Arg(1))
	} else {
		_, err = net.Listen("tcp", flag.Arg(1))
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listener", os.Getpid())
	time.AfterFunc(time.Minute, func() { log.Fatal("forgotten") })
	for s := range signals {
		fmt.Println(s)
		if s == syscall.SIGTERM && !*stubborn {
			os.Exit(3)
		}
	}
}

// FreePort returns a port of 127.0.0.1 on which nothing listens, a different one each time. The port
// is between first and first+2999. Tests of several packages run at the same time, so each package
// should use a range of its own, below 32768. The system could give a higher port, which may be
// ephemeral, to another program before the test uses it.
func FreePort(first int) (string, error) {
	for range 1000 {
		port := strconv.Itoa(first + rand.IntN(3000))
		if _, used := usedPorts.LoadOrStore(port, true); used {
			continue
		}
		if l, err := net.Listen("tcp4", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("no port is free")
}

// usedPorts has the ports that FreePort has returned.
var usedPorts sync.Map
