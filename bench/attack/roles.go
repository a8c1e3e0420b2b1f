//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
)

// runRole runs a child process of this program.
func runRole(role string, args []string) error {
	if role == "enter" {
		return enter(args)
	}
	if len(args) != 1 {
		return errors.New("a role needs its plan")
	}
	plan := []byte(args[0])
	switch role {
	case "honest":
		var p honestPlan
		return errors.Join(json.Unmarshal(plan, &p), runHonest(p))
	case "attacker":
		var p attackPlan
		return errors.Join(json.Unmarshal(plan, &p), runAttacker(p))
	case nethttpServer:
		var p nethttpPlan
		return errors.Join(json.Unmarshal(plan, &p), runNetHTTP(p))
	}
	return errors.New("no such role")
}

// An entry is what enter does before it becomes another program.
type entry struct {
	Group []string `json:"group"` // files of control groups that get its process id
	UID   int      `json:"uid"`   // the user that it becomes; 0 is no change
	Args  []string `json:"args"`  // the program and its arguments
}

func enter(args []string) error {
	var e entry
	if err := json.Unmarshal([]byte(strings.Join(args, "")), &e); err != nil {
		return err
	}
	for _, file := range e.Group {
		if err := os.WriteFile(file, []byte(fmt.Sprint(os.Getpid())), 0); err != nil {
			return err
		}
	}
	// A program in C does not raise its limit itself.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, (*syscall.Rlimit)(&limit)); err != nil {
		return err
	}
	if e.UID != 0 {
		if err := errors.Join(syscall.Setgid(e.UID), syscall.Setuid(e.UID)); err != nil {
			return err
		}
	}
	// A change of the user clears this.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	program, err := exec.LookPath(e.Args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, e.Args, os.Environ())
}

// A nethttpPlan has what the server in net/http needs.
type nethttpPlan struct {
	Proxies  []netip.Prefix `json:"proxies"`
	Interval time.Duration  `json:"interval"`
	Cert     string         `json:"cert"`
	Key      string         `json:"key"`
}

// runNetHTTP serves tracker.Handler in net/http. It prints its port and that of TLS.
func runNetHTTP(p nethttpPlan) error {
	t := &tracker.Tracker{Interval: p.Interval, Proxies: p.Proxies, Exempt: []netip.Prefix{}}
	s := &http.Server{Handler: tracker.Handler(t), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("%d %d\n", plain.Addr().(*net.TCPAddr).Port, secure.Addr().(*net.TCPAddr).Port)
	s.ErrorLog = nil
	failed := make(chan error, 2)
	go func() { failed <- s.Serve(plain) }()
	go func() { failed <- s.ServeTLS(secure, p.Cert, p.Key) }()
	return <-failed
}

// A child is a process of this program in a role.
type child struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // of its output
}

func (b *bench) child(ctx context.Context, role string, plan any) (*child, error) {
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	return b.childOf(ctx, role, string(text))
}

func (b *bench) childOf(ctx context.Context, role string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{name: role, lines: make(chan string, 8), cmd: exec.CommandContext(ctx, self, append([]string{"role", role}, args...)...)}
	c.cmd.Stderr = b.log
	c.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			c.lines <- in.Text()
		}
	}()
	return c, nil
}

func (c *child) say(command string) { _, _ = io.WriteString(c.in, command+"\n") }

// line returns the next line of the child's output.
func (c *child) line(wait time.Duration) (string, error) {
	select {
	case line, ok := <-c.lines:
		if !ok {
			return "", fmt.Errorf("%s ended early", c.name)
		}
		return line, nil
	case <-time.After(wait):
		return "", fmt.Errorf("%s: no output in %v", c.name, wait)
	}
}

func (c *child) expect(want string, wait time.Duration) error {
	line, err := c.line(wait)
	if err == nil && line != want {
		err = fmt.Errorf("%s: %q", c.name, line)
	}
	return err
}

// stop ends the child.
func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Process.Kill()
	for range c.lines {
	}
	_ = c.cmd.Wait()
}
