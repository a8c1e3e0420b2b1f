//go:build linux

// Package interop_test runs ntrack together with programs that nobody here wrote.
package interop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/commands/commandstest"
)

// patience bounds every wait for another program. Transmission grants uploads only every 10 s, so
// an exchange takes 10 to 20 s on the fastest machine.
const patience = 90 * time.Second

func TestMain(m *testing.M) { os.Exit(commandstest.Run(m)) }

// TestInterop runs ntrack together with BitTorrent clients, a BitTorrent tracker, proxies, shells,
// a browser and curl. Everything happens on loopback or in network namespaces, on free ports, and in directories
// that the test removes.
//
// If a program is not installed, its part is skipped. With NTRACK_INTEROP=1 it fails instead.
func TestInterop(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "ntrack")
	if out, err := exec.Command("go", "build", "-o", bin, "..").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, tt := range []struct {
		name  string
		needs []string
		run   func(*testing.T, string)
	}{
		{"aria2 fetches from transmission", []string{"transmission-daemon", "aria2c", "mktorrent"}, aria2FromTransmission},
		{"transmission fetches from aria2", []string{"transmission-cli", "aria2c", "mktorrent"}, transmissionFromAria2},
		{"opentracker", []string{"opentracker"}, opentracker},
		{"curl", []string{"curl"}, curl},
		{"the vectors in Python", []string{"python3"}, playVectors},
		{"curl follows a stream", []string{"curl"}, curlStream},
		{"a page with EventSource", []string{"chromedriver", browser}, eventSourcePage},
		{"fetch follows a stream", []string{"node", "chromedriver", browser}, fetchStream},
		{"fetch", []string{"node"}, fetchOnce},
		{"the page for people", []string{"chromedriver", browser, "nginx", axe()}, peoplePage},
		{"the scripts of the page", []string{"node"}, pageScripts},
		{"what the page says about joining", []string{"node", "sh", "curl", "python3"}, pageCommands},
		{"nc", []string{"dash", "nc.openbsd", "busybox"}, netcat},
		{"a socket in Python", []string{"python3"}, pythonSocket},
		{"complete peers in Python", []string{"python3"}, pythonPeers},
		{"the manual page", []string{"mandoc", "man"}, manual},
		{"a member falls silent", []string{"ip"}, silence},
		{"link-local addresses", []string{"ip", "curl"}, zones},
		{"a name with a dead address", []string{"ip"}, deadAddress},
		{"a machine without IPv6", []string{"ip"}, withoutIPv6},
		{"nginx", []string{"nginx", nginxModule}, nginx},
		{"haproxy", []string{"haproxy"}, haproxy},
		{"caddy", []string{"caddy"}, caddy},
		{"three trackers behind haproxy restart in turn", []string{"haproxy", "redis-server"}, rollingRestart},
		{"haproxy by the PROXY protocol", []string{"haproxy"}, haproxyTCP},
		{"nginx by the PROXY protocol", []string{"nginx", nginxModule}, nginxStream},
		{"certificates by ACME", []string{"pebble", "pebble-challtestsrv"}, acme},
		{"varnish", []string{"varnishd"}, varnish},
		{"the rules of the alerts", []string{"promtool"}, alertRules},
		{"targets of Prometheus", []string{"prometheus"}, httpSD},
		{"a file for nginx", []string{"nginx"}, nginxFile},
		{"a file for haproxy", []string{"haproxy"}, haproxyFile},
		{"a file for Prometheus", []string{"prometheus"}, prometheusFile},
		{"the recipes for files", []string{python, yamlModule}, fileRecipes},
		{"alerts in Prometheus", []string{"prometheus"}, alerts},
		{"kdig", []string{"kdig"}, dnsKdig},
		{"dnsmasq forwards to a tracker", []string{"dnsmasq", "kdig"}, dnsmasqForwards},
		{"unbound forwards to a tracker", []string{"unbound", "kdig"}, unboundForwards},
		{"DNS of a shared table", []string{"redis-server", "kdig"}, dnsOfSharedTable},
		{"haproxy finds its servers by DNS", []string{"haproxy"}, haproxyDNS},
		{"a zone is delegated to a tracker", []string{"ip", "unbound", "kdig", "prometheus", "promtool"}, delegatedDNS},
		{"haproxy with the PROXY protocol", []string{"haproxy", "curl"}, haproxyProtocol},
		{"nginx with the PROXY protocol", []string{"nginx", nginxModule, "curl"}, nginxProtocol},
		{"the unit file of systemd", []string{"systemd-analyze"}, systemdUnit},
		{"the service of the page for operators", nil, operatingService},
		{"the unit file allows what a tracker does", []string{"systemd-analyze", "strace"}, systemCalls},
		{"too many connections of one address", []string{"ip", "curl"}, connections},
		{"DNS is gone", []string{"ip"}, dnsGone},
		{"haproxy is killed", []string{"haproxy"}, haproxyKilled},
		{"nginx is killed", []string{"nginx", nginxModule}, nginxKilled},
		{"a clock that jumps", nil, clockJumps},
		{"a tracker is killed while it writes a file", []string{"strace"}, killedWhileWriting},
		{"a key flood in a cgroup", []string{"sh"}, keyFlood},
		{"a job of torch", []string{python, torch}, torchSum},
		{"a job of torch that loses a rank", []string{python, torch}, torchKilled},
		{"a job of openmpi", []string{"ip", "mpirun", mpi4py}, openMPI},
		{"completion in bash", []string{"tmux", "bash"}, bashCompletion},
		{"completion in bash with its package", []string{"tmux", "bash", bashPackage}, bashCompletionPackage},
		{"completion in zsh", []string{"tmux", "zsh"}, zshCompletion},
		{"completion in zsh from its directory", []string{"tmux", "zsh"}, zshCompletionFile},
		{"completion in fish", []string{"tmux", "fish"}, fishCompletion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, program := range tt.needs {
				need(t, program)
			}
			t.Parallel()
			tt.run(t, bin)
		})
	}
}

func need(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if filepath.IsAbs(program) { // a file, which need not be executable
		_, err = os.Stat(program)
	}
	switch {
	case err == nil:
	case os.Getenv("NTRACK_INTEROP") == "1":
		t.Fatalf("%v; .ci/run installs it", err)
	default:
		t.Skipf("%v; .ci/run installs it", err)
	}
}

// A program runs beside the test. It is killed when the test ends.
type program struct {
	name string
	cmd  *exec.Cmd
	dir  string
	done chan struct{}
	err  error // how it ended; valid once done is closed
}

// start runs a program in dir. If the test fails, the program's output is shown.
func start(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	return startCmd(t, dir, exec.Command(name, args...))
}

func startCmd(t *testing.T, dir string, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{name: filepath.Base(cmd.Path), cmd: cmd, dir: t.TempDir(), done: make(chan struct{})}
	stdout, err := os.Create(filepath.Join(p.dir, "stdout"))
	must(t, err)
	defer stdout.Close()
	stderr, err := os.Create(filepath.Join(p.dir, "stderr"))
	must(t, err)
	defer stderr.Close()
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, environ(p.dir), stdout, stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	// A killed test runs no cleanup. Without this its trackers and clients would live on.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	must(t, cmd.Start())
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s\nended: %v\nstdout:\n%s\nstderr:\n%s", cmd, p.err, p.output(t, "stdout"), p.output(t, "stderr"))
		}
	})
	return p
}

// output returns what the program has written to "stdout" or "stderr" so far.
func (p *program) output(t *testing.T, stream string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, stream))
	must(t, err)
	return string(b)
}

// prints waits until the program has written exactly want to standard output.
func (p *program) prints(t *testing.T, want string) {
	t.Helper()
	eventually(t, func() error {
		if got := p.output(t, "stdout"); got != want {
			return fmt.Errorf("%s printed\n%swant\n%s", p.name, got, want)
		}
		return nil
	}, p)
}

// wait waits until the program has ended, and requires exit code 0.
func (p *program) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s has not ended after %v", p.name, patience)
	}
	if p.err != nil {
		t.Fatalf("%s: %v", p.name, p.err)
	}
}

// environ returns the environment of every program. It has a home of its own, which protects the
// user's files. It names no proxy, because a tracker would list the proxy's address.
func environ(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "LC_ALL=C.UTF-8"}
}

// eventually calls cond until it returns nil. It fails the test when that takes too long, or when
// one of the programs in needs has ended.
func eventually(t *testing.T, cond func() error, needs ...*program) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		var ended error
		for _, p := range needs {
			select {
			case <-p.done:
				ended = fmt.Errorf("%s ended: %v", p.name, p.err)
			default:
			}
		}
		err := cond()
		switch {
		case err == nil:
			return
		case ended != nil:
			t.Fatalf("%v; %v", err, ended)
		case time.Now().After(deadline):
			t.Fatalf("after %v still: %v", patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// run runs a program to its end, and returns its output and its exit code.
func run(t *testing.T, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = environ(t.TempDir()), &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("%s: %v\n%s%s", cmd, err, &out, &errs)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// expect runs a program, which has to succeed and to print exactly these lines.
func expect(t *testing.T, lines []string, name string, args ...string) {
	t.Helper()
	if err := prints(t, lines, name, args...); err != nil {
		t.Fatal(err)
	}
}

// prints runs a program. It returns an error unless the program prints exactly these lines.
func prints(t *testing.T, lines []string, name string, args ...string) error {
	t.Helper()
	stdout, stderr, code := run(t, name, args...)
	var want strings.Builder
	for _, line := range lines {
		want.WriteString(line + "\n")
	}
	if stdout != want.String() || code != 0 {
		return fmt.Errorf("%s %q: exit code %d, got\n%swant\n%sstderr:\n%s", filepath.Base(name), args, code, stdout, &want, stderr)
	}
	return nil
}

// serve runs `ntrack serve` and returns where it listens.
func serve(t *testing.T, bin string, args ...string) (addr string) {
	t.Helper()
	addr, _ = serveAt(t, bin, "127.0.0.1:0", args...)
	return addr
}

// serveAt is serve for a tracker that listens at this address. kill kills it.
func serveAt(t *testing.T, bin, listen string, args ...string) (addr string, kill func()) {
	t.Helper()
	addr, p := serveProgram(t, bin, listen, args...)
	return addr, func() {
		must(t, p.cmd.Process.Kill())
		<-p.done
	}
}

// serveProgram is serveAt for a test that needs the program itself.
func serveProgram(t *testing.T, bin, listen string, args ...string) (addr string, p *program) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "addr")
	p = start(t, t.TempDir(), bin, append([]string{"serve", "--listen", listen, "--addr-file", file}, args...)...)
	eventually(t, func() error {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return err
		}
		must(t, err)
		first, _, _ := strings.Cut(string(b), "\n")
		at, err := netip.ParseAddrPort(first)
		addr = at.String()
		return err
	}, p)
	return addr, p
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := commandstest.FreePort(20_000)
	must(t, err)
	return port
}

// endpoints writes ports of 127.0.0.1 as endpoints, in the order of `ntrack list`.
func endpoints(ports ...string) []string {
	list := make([]string, len(ports))
	for i, port := range ports {
		list[i] = "127.0.0.1:" + port
	}
	slices.SortFunc(list, func(a, b string) int {
		return netip.MustParseAddrPort(a).Compare(netip.MustParseAddrPort(b))
	})
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
