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
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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

	"ntrack/commands/commandstest"
	"ntrack/tracker"
)

func TestMain(m *testing.M) { commandstest.Main(m, main) }

// TestScripts plays testdata/script/*.txtar, which have what a user types and sees. Each script is a
// subtest with a directory of its own. Its environment has no home and no NTRACK_ variables. There
// are these commands, and those of package testscript:
//
//	sh SCRIPT                  run a shell script, and then kill everything that it has started
//	exits CODE COMMAND...      run a command, and require this exit code; a failed one prints no results
//	start NAME COMMAND...      run a command beside the script; its output goes to NAME.out and NAME.err
//	signal NAME HUP|INT|TERM|KILL|STOP|CONT  send it a signal
//	ends NAME CODE             wait until it ends, and require this exit code (-1: killed by a signal)
//	waitfile FILE VAR          wait for a file, and put its content into a variable
//	waitline FILE REGEXP       wait until a line of a file matches
//	until REGEXP COMMAND...    run a command again and again until its output matches
//	portof VAR FILE            put the port of the address on a file's first line into a variable
//	freeport VAR               find a port of 127.0.0.1 on which nothing listens
//	listen VAR                 listen on a port of 127.0.0.1, as a service that knows nothing of ntrack
//	repeat VAR TEXT N          put N copies of a text into a variable
//	certificate CERT KEY [FOR] write a certificate for localhost and 127.0.0.1, and its key. FOR is
//	                           for how long it is valid; below 0, since when it has expired
//	tlstracker VAR CA          run a tracker behind https, and write its certificate to the file CA
//	fakehttp [OPTIONS] VAR [FILE...]
//
// The condition [ipv6] holds if this machine has IPv6.
//
// The command fakehttp listens on 127.0.0.1, and puts HOST:PORT into VAR. It answers each request
// with the next FILE, and the last one answers all that follow. It writes the requests to VAR.log. In
// the head of a FILE variables are expanded; escapes as in Go, such as \x1b, work everywhere. With
// -repeat N it sends the body N times (-1: forever), with -gzip it compresses the body, and with
// -tls CA it uses https. With -silent there is no FILE and no answer.
func TestScripts(t *testing.T) {
	t.Parallel()
	if files, err := filepath.Glob("testdata/script/*.txtar"); err != nil || len(files) == 0 {
		t.Fatalf("found %d scripts, %v", len(files), err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Deadline:           time.Now().Add(3 * time.Minute), // for a program that does not end
		Setup: func(e *testscript.Env) error {
			e.Values[jobsKey{}] = make(map[string]*job)
			e.Setenv("GORACE", os.Getenv("GORACE"))
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
			"sh":          cmdSh,
			"exits":       cmdExits,
			"start":       cmdStart,
			"signal":      cmdSignal,
			"ends":        cmdEnds,
			"waitfile":    cmdWaitfile,
			"waitline":    cmdWaitline,
			"until":       cmdUntil,
			"portof":      cmdPortOf,
			"freeport":    cmdFreeport,
			"listen":      cmdListen,
			"repeat":      cmdRepeat,
			"certificate": cmdCertificate,
			"tlstracker":  cmdTLSTracker,
			"fakehttp":    cmdFakeHTTP,
		},
	})
}

// patience bounds every wait of a script. Only a broken program needs that long.
const patience = 30 * time.Second

// poll calls done until it returns true.
func poll(ts *testscript.TestScript, what string, done func() bool) {
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// usage ends a script that misuses a command.
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

// cmdSh is for pipelines that may hang: exec would wait for every process that holds its output.
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
		ts.Fatalf("the command failed, but printed results")
	}
	checkNotes(ts, "stderr")
}

// checkNotes requires the form of notes: each line of standard error begins with "ntrack: ", and has
// no control characters.
func checkNotes(ts *testscript.TestScript, file string) {
	for line := range strings.Lines(ts.ReadFile(file)) {
		text := strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "ntrack: ") || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			ts.Fatalf("%s: not a printable note: %q", file, line)
		}
	}
}

type jobsKey struct{}

// A job is a program that runs beside a script.
type job struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

func jobOf(ts *testscript.TestScript, name string) *job {
	j := ts.Value(jobsKey{}).(map[string]*job)[name]
	if j == nil {
		ts.Fatalf("no program %q was started", name)
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

// environ returns the variables of a script that its programs see.
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
	// On a busy machine any program may end slowly. Then there is a note, as in TestSecondInterrupt.
	notes := regexp.MustCompile(`(?m)^ntrack: (leaving|ending); .* ends ntrack at once\n`).ReplaceAllString(ts.ReadFile(args[0]+".err"), "")
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
	port, err := commandstest.FreePort(26_000)
	ts.Check(err)
	ts.Setenv(args[0], port)
}

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

func cmdCertificate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 2 || len(args) == 3), "certificate CERT KEY [FOR]")
	lasts := 90 * 24 * time.Hour
	if len(args) == 3 {
		var err error
		lasts, err = time.ParseDuration(args[2])
		ts.Check(err)
	}
	now := time.Now()
	cert, key, err := commandstest.Certificate(now.Add(-time.Hour), now.Add(lasts))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), cert, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), key, 0o600))
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
