//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// A cpuSet is a set of CPUs in the kernel's form.
type cpuSet [16]uint64

func setOf(cpus ...int) (s cpuSet) {
	for _, c := range cpus {
		s[c/64] |= 1 << (c % 64)
	}
	return s
}

// allowedCPUs returns the CPUs that this process may use.
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

// pinThread limits a thread to some CPUs. tid 0 is the thread of the caller.
func pinThread(tid int, s cpuSet) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s))); errno != 0 && errno != syscall.ESRCH {
		return os.NewSyscallError("sched_setaffinity", errno)
	}
	return nil
}

// pinProcess limits all threads of a process, and those that they start, to some CPUs.
func pinProcess(pid int, s cpuSet) error {
	for range 2 { // the second time for threads that started meanwhile
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

// usage is the CPU time of a process.
type usage struct {
	cpu    time.Duration
	waited time.Duration // how long it was ready to run while another process ran
}

// waiting returns the share of time since before that the process waited for a CPU, of the time in
// which it was ready to run.
func (u usage) waiting(before usage) float64 {
	waited := float64(u.waited - before.waited)
	return waited / (waited + float64(u.cpu-before.cpu))
}

// usageOf adds up the CPU time of all threads. It misses threads that have ended, but no server
// here ends any. It does as little as possible, because it runs under load.
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

// stolen returns how long these CPUs have run other virtual machines since the system started.
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

// rssOf returns the resident memory of a process in bytes. smaps_rollup is exact, and status has an
// estimate.
func rssOf(pid int) (int64, error) {
	n, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:")
	if err != nil {
		n, err = kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	}
	return n, err
}

// peakRSSOf returns the most resident memory that a process has had, in bytes.
func peakRSSOf(pid int) (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
}

// kilobytes returns a number of bytes that a file of the system has in kilobytes.
func kilobytes(file, name string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

// filesOf returns how many files a process has open.
func filesOf(pid int) (int, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(files), err
}

// socketCaches are the kernel's caches from which sockets and what belongs to them come.
var socketCaches = []string{"TCP", "sock_inode_cache", "filp", "eventpoll_epi", "tcp_bind_bucket", "tcp_bind2_bucket", "lsm_file_cache"}

// A socketUse is what the TCP sockets of this machine take. It is zero if the system does not show
// that, as to users other than root.
type socketUse struct{ sockets, bytes, buffers int64 }

func socketsInUse() (u socketUse) {
	b, _ := os.ReadFile("/proc/slabinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && slices.Contains(socketCaches, f[0]) {
			active, _ := strconv.ParseInt(f[1], 10, 64)
			size, _ := strconv.ParseInt(f[3], 10, 64)
			u.bytes += active * size
		}
	}
	b, _ = os.ReadFile("/proc/net/sockstat")
	for line := range strings.Lines(string(b)) {
		// TCP: inuse 4 orphan 0 tw 1958 alloc 4 mem 235
		if f := strings.Fields(line); len(f) > 10 && f[0] == "TCP:" {
			u.sockets, _ = strconv.ParseInt(f[8], 10, 64)
			pages, _ := strconv.ParseInt(f[10], 10, 64)
			u.buffers = pages * int64(os.Getpagesize())
		}
	}
	return u
}

// perSocket returns the bytes for each socket since before, in buffers not included.
func (u socketUse) perSocket(before socketUse) float64 {
	if u.sockets == before.sockets {
		return 0
	}
	return float64(u.bytes-before.bytes) / float64(u.sockets-before.sockets)
}

// machine describes this machine.
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
