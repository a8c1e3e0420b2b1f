package measure

import (
	"bufio"
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

// A Child is a process that is measured.
type Child struct {
	PID int
	In  io.WriteCloser
	Out *bufio.Reader // nil if the command has an output of its own
	cmd *exec.Cmd
}

// Spawn starts a program on the CPU cpu; home is the CPU of this thread. It must be called from a
// locked thread: the child gets the CPUs of that thread, and ends with it.
func Spawn(cmd *exec.Cmd, cpu, home int) (*Child, error) {
	c := &Child{cmd: cmd}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	var err error
	if c.In, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		c.Out = bufio.NewReader(out)
	}
	if err := pin(0, cpu); err != nil {
		return nil, err
	}
	err = cmd.Start()
	if err := errors.Join(err, pin(0, home)); err != nil {
		return nil, fmt.Errorf("%s: %w", cmd.Path, err)
	}
	c.PID = cmd.Process.Pid
	return c, nil
}

// SpawnRole starts this program again, in a role, as Spawn does. The child may use one CPU at a time.
func SpawnRole(cpu, home int, args ...string) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{"role"}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return Spawn(cmd, cpu, home)
}

// Kill kills the process.
func (c *Child) Kill() { _ = c.cmd.Process.Kill() }

// Stop ends the process, and waits for that. A child in a role ends when its standard input does.
func (c *Child) Stop() {
	_ = c.In.Close()
	ended := time.AfterFunc(10*time.Second, c.Kill)
	_ = c.cmd.Wait()
	ended.Stop()
}

// AllowedCPUs returns the CPUs that this process may use.
func AllowedCPUs() (cpus []int, err error) {
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

// PinProcess limits all threads of a process, and those that they start, to some CPUs.
func PinProcess(pid int, cpus ...int) error {
	for range 2 { // the second time for threads that started meanwhile
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, _ := strconv.Atoi(t.Name())
			if err := pin(tid, cpus...); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// pin limits a thread, or this one if tid is 0, and the processes that it starts, to some CPUs.
func pin(tid int, cpus ...int) error {
	var s unix.CPUSet
	for _, c := range cpus {
		s.Set(c)
	}
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(tid, &s))
}
