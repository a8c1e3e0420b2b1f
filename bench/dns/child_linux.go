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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A child is a server that is measured.
type child struct {
	pid   int
	cmd   *exec.Cmd
	in    io.WriteCloser
	ports ports
}

// ports are where a server listens on 127.0.0.1.
type ports struct{ DNS, HTTP int }

// spawn starts this program again, in a role, on the last CPU. It ends with this thread.
func (b *bench) spawn(role string, args ...string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(program, append([]string{"role", role}, args...)...)}
	c.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := pin(0, b.cpus[len(b.cpus)-1:]); err != nil {
		return nil, err
	}
	err = c.cmd.Start()
	if err := errors.Join(err, pin(0, b.cpus[:1])); err != nil {
		return nil, err
	}
	c.pid = c.cmd.Process.Pid
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.ports)
	}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("role %s: %w", role, err)
	}
	return c, nil
}

// stop ends the process, which ends when its standard input does.
func (c *child) stop() {
	_ = c.in.Close()
	ended := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	_ = c.cmd.Wait()
	ended.Stop()
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

// pin limits a thread, or this one if tid is 0, and the processes that it starts, to some CPUs.
func pin(tid int, cpus []int) error {
	var s unix.CPUSet
	for _, c := range cpus {
		s.Set(c)
	}
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(tid, &s))
}
