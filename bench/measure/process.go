package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Usage is the CPU time of a process.
type Usage struct {
	CPU    time.Duration
	Waited time.Duration // how long it was ready to run while another process ran
}

// Waiting returns the share of time since before that the process waited for a CPU, of the time in
// which it was ready to run.
func (u Usage) Waiting(before Usage) float64 {
	waited := float64(u.Waited - before.Waited)
	return waited / (waited + float64(u.CPU-before.CPU))
}

// UsageOf adds up the CPU time of all threads. It misses threads that have ended, but no server
// here ends any. It does as little as possible, because it runs under load.
func UsageOf(pid int) (Usage, error) {
	var u Usage
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
		u.CPU += time.Duration(cpu)
		u.Waited += time.Duration(waited)
	}
	return u, nil
}

// RSSOf returns the resident memory of a process in bytes. smaps_rollup is exact, and status has an
// estimate.
func RSSOf(pid int) (int64, error) {
	n, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:")
	if err != nil {
		n, err = kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	}
	return n, err
}

// PeakRSSOf returns the most resident memory that a process has had, in bytes.
func PeakRSSOf(pid int) (int64, error) {
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

// FilesOf returns how many files a process has open.
func FilesOf(pid int) (int, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(files), err
}
