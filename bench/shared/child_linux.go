package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/bench/measure"
)

// A child is a process that is measured.
type child struct {
	pid int
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// spawn starts a program on one CPU. The child ends with this thread.
func (b *bench) spawn(cmd *exec.Cmd, cpu int) (*child, error) {
	c := &child{cmd: cmd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		c.out = bufio.NewReader(out)
	}
	if err := pinThread(cpu); err != nil {
		return nil, err
	}
	err = cmd.Start()
	if err := errors.Join(err, pinThread(b.cpus[0])); err != nil {
		return nil, fmt.Errorf("%s: %w", cmd.Path, err)
	}
	c.pid = cmd.Process.Pid
	return c, nil
}

// spawnRole starts this program again, in a role, on the last CPU.
func (b *bench) spawnRole(args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{"role"}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	c, err := b.spawn(cmd, b.cpus[len(b.cpus)-1])
	if err != nil {
		return nil, err
	}
	if err := c.call("ready", nil); err != nil {
		c.stop()
		return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return c, nil
}

// call sends a command to a child in a role, and waits for its reply.
func (c *child) call(line string, reply any) error {
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		return err
	}
	text, err := c.out.ReadBytes('\n')
	if err != nil || reply == nil {
		return err
	}
	return json.Unmarshal(text, reply)
}

// stop ends the process. A child in a role ends when its standard input does.
func (c *child) stop() {
	_ = c.in.Close()
	ended := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	_ = c.cmd.Wait()
	ended.Stop()
}

func (c *child) cpu() (time.Duration, error) {
	use, err := measure.UsageOf(c.pid)
	return use.CPU, err
}

// allowedCPUs returns the CPUs that this process may use.
func allowedCPUs() (cpus []int, err error) {
	var s unix.CPUSet
	if err := unix.SchedGetaffinity(0, &s); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for c := range max(runtime.NumCPU(), 1024) {
		if s.IsSet(c) {
			cpus = append(cpus, c)
		}
	}
	return cpus, nil
}

// pinThread limits this thread, and the processes that it starts, to some CPUs.
func pinThread(cpus ...int) error { return pin(0, cpus) }

// pinSelf limits all threads of this process to some CPUs.
func pinSelf(cpus ...int) error {
	for range 2 { // the second time for threads that started meanwhile
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, _ := strconv.Atoi(t.Name())
			if err := pin(tid, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

func pin(tid int, cpus []int) error {
	var s unix.CPUSet
	for _, c := range cpus {
		s.Set(c)
	}
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(tid, &s))
}
