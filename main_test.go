//go:build unix

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/testscript"

	"ntrack/commands"
	"ntrack/tracker"
)

// TestMain makes `ntrack` in a script the real program: this test binary, run again under that
// name. `listener` is a program for ntrack to run.
func TestMain(m *testing.M) {
	testscript.Main(waiting{m}, map[string]func(){"ntrack": main, "listener": listener})
}

// waiting runs tests that wait far more than they compute. Eight of them run side by side, however
// few processors there are, unless -parallel says otherwise. What the tests run gets its signals,
// even when they are run by nohup or in the background.
type waiting struct{ *testing.M }

func (w waiting) Run() int {
	for _, s := range commands.IgnoredAtStart() { // a signal that is caught is no longer ignored after exec
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
	return w.M.Run()
}

// listener listens at ADDR as a program does that knows nothing of ntrack, prints its process id and
// each signal it gets, and ends at SIGTERM with exit code 3, or with -stubborn at none. A terminal
// can stop it.
//
//	listener [-stubborn] tcp|udp ADDR
func listener() {
	// Go's runtime sends SIGURG to its own process, to preempt goroutines: not to this one.
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
	time.AfterFunc(2*patience, func() { log.Fatal("forgotten") })
	for s := range signals {
		fmt.Println(s)
		if s == syscall.SIGTERM && !*stubborn {
			os.Exit(3)
		}
	}
}

// TestScripts plays testdata/script/*.txtar: what a user types, and what he sees. Each is a
// subtest with a directory of its own and an environment without home and without NTRACK_
// variables. Next to the commands of package testscript there are:
//
//	sh SCRIPT                  run it by a shell, as exec sh -c does, and end all that it has started
//	exits CODE COMMAND...      run it; it has to end with this exit code, and to keep to standard error
//	start NAME COMMAND...      run it beside the script; its results go to NAME.out, the rest to NAME.err
//	signal NAME HUP|INT|TERM|KILL|STOP|CONT  send it a signal
//	ends NAME CODE             wait until it ends, with this exit code (-1: by a signal)
//	waitfile FILE VAR          wait for a file, and put what is in it into a variable
//	waitline FILE REGEXP       wait until a line of a file matches
//	until REGEXP COMMAND...    run it again and again until its results match
//	portof VAR FILE            put the port of the address on a file's first line into a variable
//	freeport VAR               find a port on 127.0.0.1 where nothing listens
//	listen VAR                 listen on a port of 127.0.0.1, as a service does that knows nothing of ntrack
//	repeat VAR TEXT N          make a long text
//	tlstracker VAR CA          run a tracker behind https, and write the certificate to trust to CA
//	fakehttp [OPTIONS] VAR [FILE...]
//
// The condition [ipv6] says that this machine has it.
//
// fakehttp listens on 127.0.0.1, puts HOST:PORT into VAR, answers whatever is asked with the next
// FILE, in the end always with the last one, and writes what was asked to VAR.log. In a FILE's
// head variables are expanded; the escapes of Go, such as \x1b, are anywhere. With -repeat N the
// body is sent so often (-1: without end), with -gzip it is compressed, with -tls CA it all goes
// over https; with -silent there is no FILE and no answer.
func TestScripts(t *testing.T) {
	t.Parallel()
	if files, err := filepath.Glob("testdata/script/*.txtar"); err != nil || len(files) == 0 {
		t.Fatalf("found %d scripts, %v", len(files), err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Deadline:           time.Now().Add(3 * time.Minute), // for a program that should end and does not
		Setup: func(e *testscript.Env) error {
			e.Values[jobsKey{}] = make(map[string]*job)
			// A program built with -race otherwise sleeps for a second at its end.
			e.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
			e.Setenv("LC_ALL", "C.UTF-8")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "ipv6" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			l, err := net.Listen("tcp6", "[::1]:0")
			if err == nil {
				_ = l.Close()
			}
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sh":         cmdSh,
			"exits":      cmdExits,
			"start":      cmdStart,
			"signal":     cmdSignal,
			"ends":       cmdEnds,
			"waitfile":   cmdWaitfile,
			"waitline":   cmdWaitline,
			"until":      cmdUntil,
			"portof":     cmdPortOf,
			"freeport":   cmdFreeport,
			"listen":     cmdListen,
			"repeat":     cmdRepeat,
			"tlstracker": cmdTLSTracker,
			"fakehttp":   cmdFakeHTTP,
		},
	})
}

// patience bounds every wait of a script. Nothing waits as long unless it is broken.
const patience = 30 * time.Second

// poll calls done until it is true.
func poll(ts *testscript.TestScript, what string, done func() bool) {
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// usage ends a script that calls a command in a wrong way.
func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// cmdSh is for pipelines that may hang: exec would wait for whatever still holds its output.
func cmdSh(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "sh SCRIPT")
	cmd := exec.Command("sh", "-c", args[0])
	cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	ts.Check(cmd.Start())
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	timer := time.AfterFunc(patience, kill)
	err := cmd.Wait()
	if !timer.Stop() {
		ts.Fatalf("has not ended within %v", patience)
	}
	kill()
	ts.Check(err)
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "exits CODE COMMAND...")
	err := ts.Exec(args[1], args[2:]...)
	if got := exitCode(err); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d (%v), want %s", got, err, args[0])
	}
	if err != nil && ts.ReadFile("stdout") != "" {
		ts.Fatalf("a command that has failed left results")
	}
	checkNotes(ts, "stderr")
}

// checkNotes holds what every program writes to standard error to the form it promises: lines that
// begin with its name, and nothing that a terminal would act upon.
func checkNotes(ts *testscript.TestScript, file string) {
	for line := range strings.Lines(ts.ReadFile(file)) {
		text := strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "ntrack: ") || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			ts.Fatalf("%s: not a note that is fit to print: %q", file, line)
		}
	}
}

type jobsKey struct{}

// A job is a program that runs beside a script.
type job struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // once done is closed
}

func jobOf(ts *testscript.TestScript, name string) *job {
	j := ts.Value(jobsKey{}).(map[string]*job)[name]
	if j == nil {
		ts.Fatalf("nothing was started as %q", name)
	}
	return j
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "start NAME COMMAND...")
	name := args[0]
	jobs := ts.Value(jobsKey{}).(map[string]*job)
	if jobs[name] != nil {
		ts.Fatalf("%q is running already", name)
	}
	j := &job{cmd: exec.Command(args[1], args[2:]...), done: make(chan struct{})}
	j.cmd.Dir, j.cmd.Env = ts.MkAbs("."), environ(ts)
	stdout, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer stdout.Close()
	stderr, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	defer stderr.Close()
	j.cmd.Stdout, j.cmd.Stderr = stdout, stderr
	ts.Check(j.cmd.Start())
	go func() {
		j.err = j.cmd.Wait()
		close(j.done)
	}()
	ts.Defer(func() {
		_ = j.cmd.Process.Kill()
		<-j.done
	})
	jobs[name] = j
}

// environ is what a script's programs get to see of its variables.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "XDG_STATE_HOME", "TMPDIR", "LC_ALL", "GORACE", "GOCOVERDIR", "NTRACK_TRACKER"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
	usage(ts, !neg && len(args) == 2 && signals[args[1]] != 0, "signal NAME HUP|INT|TERM|KILL|STOP|CONT")
	ts.Check(jobOf(ts, args[0]).cmd.Process.Signal(signals[args[1]]))
}

func cmdEnds(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "ends NAME CODE")
	j := jobOf(ts, args[0])
	select {
	case <-j.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended within %v", args[0], patience)
	}
	ts.Logf("[%s.out]\n%s[%s.err]\n%s", args[0], ts.ReadFile(args[0]+".out"), args[0], ts.ReadFile(args[0]+".err"))
	if got := exitCode(j.err); strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s: exit code %d (%v), want %s", args[0], got, j.err, args[1])
	}
	checkNotes(ts, args[0]+".err")
	// On a machine that is busy anything may end slowly, which is noted (TestSecondInterrupt).
	notes := regexp.MustCompile(`(?m)^ntrack: (leaving|ending); .* ends it at once\n`).ReplaceAllString(ts.ReadFile(args[0]+".err"), "")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), []byte(notes), 0o600))
	delete(ts.Value(jobsKey{}).(map[string]*job), args[0])
}

func cmdWaitfile(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "waitfile FILE VAR")
	var text []byte
	poll(ts, args[0], func() (ok bool) {
		var err error
		text, err = os.ReadFile(ts.MkAbs(args[0]))
		return err == nil
	})
	ts.Setenv(args[1], strings.TrimSpace(string(text)))
}

func cmdWaitline(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "waitline FILE REGEXP")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var text []byte
	defer func() { ts.Logf("[%s]\n%s", args[0], text) }()
	poll(ts, "a line like "+args[1], func() bool {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		return re.Match(text)
	})
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "until REGEXP COMMAND...")
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var out []byte
	defer func() { ts.Logf("[stdout]\n%s", out) }()
	poll(ts, "results like "+args[0], func() bool {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
		out, _ = cmd.Output()
		return re.Match(out)
	})
}

func cmdPortOf(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "portof VAR FILE")
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	_, port, err := net.SplitHostPort(line)
	ts.Check(err)
	ts.Setenv(args[0], port)
}

func cmdFreeport(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "freeport VAR")
	port, err := freePort()
	ts.Check(err)
	ts.Setenv(args[0], port)
}

// freePort finds a port of 127.0.0.1 where nothing listens, each time another. The system gives out
// none below 32768 by itself: a port that it had chosen, and that is free again, could be the next
// one of a tracker beside this script.
func freePort() (string, error) {
	for range 1000 {
		port := strconv.Itoa(26_000 + rand.IntN(6000))
		if _, taken := freePorts.LoadOrStore(port, true); taken {
			continue
		}
		if l, err := net.Listen("tcp4", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("no port is free")
}

var freePorts sync.Map // that have been given away

func cmdListen(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "listen VAR")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], port)
	ts.Defer(func() { _ = l.Close() })
}

func cmdRepeat(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "repeat VAR TEXT N")
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Setenv(args[0], strings.Repeat(args[1], n))
}

func cmdTLSTracker(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "tlstracker VAR CA")
	srv := httptest.NewUnstartedServer(tracker.Handler(new(tracker.Tracker)))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that trust no such certificate
	srv.StartTLS()
	ts.Defer(srv.Close)
	writeCA(ts, args[1], srv)
	ts.Setenv(args[0], srv.Listener.Addr().String())
}

// writeCA writes the certificate of a test server, which is valid for 127.0.0.1, to a file.
func writeCA(ts *testscript.TestScript, file string, srv *httptest.Server) {
	block := &pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}
	ts.Check(os.WriteFile(ts.MkAbs(file), pem.EncodeToMemory(block), 0o644))
}

func cmdFakeHTTP(ts *testscript.TestScript, neg bool, args []string) {
	flags := flag.NewFlagSet("fakehttp", flag.ContinueOnError)
	repeat := flags.Int("repeat", 1, "")
	gzipped := flags.Bool("gzip", false, "")
	silent := flags.Bool("silent", false, "")
	ca := flags.String("tls", "", "")
	ts.Check(flags.Parse(args))
	usage(ts, !neg && flags.NArg() > 0 && *silent == (flags.NArg() == 1), "fakehttp [OPTIONS] VAR [FILE...]")
	variable := flags.Arg(0)
	var replies []cannedReply
	for _, file := range flags.Args()[1:] {
		replies = append(replies, readReply(ts, file, *repeat, *gzipped))
	}

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(variable, l.Addr().String())
	if *ca != "" {
		srv := httptest.NewUnstartedServer(nil)
		srv.StartTLS()
		writeCA(ts, *ca, srv)
		l = tls.NewListener(l, srv.TLS)
		srv.Close()
	}
	asked, err := os.Create(ts.MkAbs(variable + ".log"))
	ts.Check(err)

	var serving sync.WaitGroup
	ending := make(chan struct{})
	serve := func(c net.Conn, reply func() cannedReply) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		fmt.Fprintf(asked, "%s %s\n", req.Method, req.RequestURI)
		if *silent {
			<-ending
			return
		}
		r := reply()
		_, err = io.WriteString(c, r.head)
		for n := 0; n != r.repeat && err == nil; n++ {
			_, err = c.Write(r.body)
		}
	}
	var next atomic.Int64
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				serve(c, func() cannedReply { return replies[min(int(next.Add(1)), len(replies))-1] })
			})
		}
	})
	ts.Defer(func() {
		close(ending)
		_ = l.Close()
		serving.Wait()
		_ = asked.Close()
	})
}

type cannedReply struct {
	head   string
	body   []byte
	repeat int
}

func readReply(ts *testscript.TestScript, file string, repeat int, gzipped bool) cannedReply {
	unquote := func(s string) string {
		s, err := strconv.Unquote(`"` + strings.NewReplacer(`"`, `\"`, "\n", `\n`).Replace(s) + `"`)
		ts.Check(err)
		return s
	}
	head, body, _ := strings.Cut(ts.ReadFile(file), "\n\n")
	head = os.Expand(strings.TrimSuffix(head, "\n"), ts.Getenv)
	r := cannedReply{
		head:   strings.ReplaceAll(unquote(head), "\n", "\r\n") + "\r\n\r\n",
		body:   []byte(unquote(strings.TrimSuffix(body, "\n"))),
		repeat: repeat,
	}
	if gzipped {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, err := w.Write(bytes.Repeat(r.body, repeat))
		ts.Check(errors.Join(err, w.Close()))
		r.body, r.repeat = packed.Bytes(), 1
	}
	return r
}
