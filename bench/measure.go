//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// cpuSet is a set of CPUs as the kernel has it.
type cpuSet [16]uint64

func setOf(cpus ...int) (s cpuSet) {
	for _, c := range cpus {
		s[c/64] |= 1 << (c % 64)
	}
	return s
}

// allowedCPUs are the CPUs this process may use.
func allowedCPUs() ([]int, error) {
	var s cpuSet
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s))); errno != 0 {
		return nil, os.NewSyscallError("sched_getaffinity", errno)
	}
	var cpus []int
	for c := range len(s) * 64 {
		if s[c/64]&(1<<(c%64)) != 0 {
			cpus = append(cpus, c)
		}
	}
	return cpus, nil
}

// pinThread keeps a thread, 0 for the caller's, on CPUs.
func pinThread(tid int, s cpuSet) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s))); errno != 0 && errno != syscall.ESRCH {
		return os.NewSyscallError("sched_setaffinity", errno)
	}
	return nil
}

// pinProcess keeps all threads of a process on CPUs, and those that they start.
func pinProcess(pid int, s cpuSet) error {
	for range 2 { // the second time for threads that began meanwhile
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("process %d has no threads: %v", pid, err)
		}
		for _, t := range tasks {
			tid, _ := strconv.Atoi(filepath.Base(t))
			if err := pinThread(tid, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// usage is what a process has had of its CPUs.
type usage struct {
	cpu    time.Duration
	waited time.Duration // ready to run while another ran
}

// waiting is the share of the time since before, in which the process had something to do, that it
// spent waiting for a CPU.
func (u usage) waiting(before usage) float64 {
	waited := float64(u.waited - before.waited)
	return waited / (waited + float64(u.cpu-before.cpu))
}

// usageOf sums up over the threads; those that have ended are lost, and no server here ends any.
// Files of /proc are read into a buffer, with as little work as can be: this happens under load.
func usageOf(pid int) (usage, error) {
	var u usage
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return u, err
	}
	for _, t := range tasks {
		b, err := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
		if err != nil {
			continue
		}
		f := bytes.Fields(b)
		if len(f) < 2 {
			return u, fmt.Errorf("%s/%s/schedstat: %q", dir, t.Name(), b)
		}
		cpu, _ := strconv.ParseInt(string(f[0]), 10, 64)
		waited, _ := strconv.ParseInt(string(f[1]), 10, 64)
		u.cpu += time.Duration(cpu)
		u.waited += time.Duration(waited)
	}
	return u, nil
}

// stolen is how long the CPUs were given to other virtual machines, since they started.
func stolen(cpus ...int) time.Duration {
	b, _ := os.ReadFile("/proc/stat")
	ticks := int64(0)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		for _, c := range cpus {
			if len(f) > 8 && f[0] == "cpu"+strconv.Itoa(c) {
				n, _ := strconv.ParseInt(f[8], 10, 64)
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// rssOf is the resident memory of a process in bytes. smaps_rollup counts pages, where status has
// an estimate.
func rssOf(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		if b, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil {
			return 0, err
		}
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 1 && (f[0] == "Rss:" || f[0] == "VmRSS:") {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no resident memory", pid)
}

// machine says what was measured on.
func machine(cpus int) string {
	model, kernel := "unknown CPU", ""
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ = strings.Cut(strings.TrimSpace(string(b)), "-")
	}
	return fmt.Sprintf("%s, %d CPUs, Linux %s, %s", model, cpus, kernel, runtime.Version())
}
