//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"ntrack/bench/measure"
)

// figures are those of a server at one moment. One that is unknown is -1.
type figures struct {
	RSS    int64 `json:"rss_bytes"`
	Kernel int64 `json:"kernel_bytes"` // of its control group: sockets with their buffers, and the like
	Memory int64 `json:"memory_bytes"` // both, as far as they are known
	Files  int   `json:"files"`        // open ones, most of them connections
	Keys   int   `json:"keys"`
}

// exceeds returns the name of a figure that is above those of the start, or "". more is how many
// keys the honest clients may have joined since.
func (f figures) exceeds(start figures, more int) string {
	switch {
	case f.Files > start.Files+start.Files/20+50:
		return "connections"
	case f.Keys > start.Keys+more:
		return "keys"
	case f.Kernel > start.Kernel+start.Kernel/4+8<<20:
		return "kernel memory"
	case f.RSS > start.RSS+start.RSS/4+8<<20:
		return "RSS"
	}
	return ""
}

// A monitor samples the figures of a server.
type monitor struct {
	t       *target
	client  http.Client
	quit    chan struct{}
	stopped chan struct{}

	mu   sync.Mutex
	most figures
	used time.Duration // CPU time
}

// watch samples the figures until stop is called.
func watch(t *target) *monitor {
	m := &monitor{t: t, most: figures{Kernel: -1, Keys: -1}, client: http.Client{Timeout: 5 * time.Second}, quit: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(m.stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			m.sample(n%10 == 0)
			select {
			case <-m.quit:
				return
			case <-tick.C:
			}
		}
	}()
	return m
}

func (m *monitor) stop() {
	close(m.quit)
	<-m.stopped
	m.client.CloseIdleConnections()
}

// sample takes the figures once. To count the files takes longer than the rest.
func (m *monitor) sample(files bool) figures {
	f := figures{RSS: residentOf(m.t.cmd.Process.Pid), Kernel: m.t.group.kernel(), Files: -1, Keys: -1}
	f.Memory = f.RSS + max(0, f.Kernel)
	if files {
		if n, err := measure.FilesOf(m.t.cmd.Process.Pid); err == nil {
			f.Files = n
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.most.RSS, m.most.Kernel, m.most.Memory = max(m.most.RSS, f.RSS), max(m.most.Kernel, f.Kernel), max(m.most.Memory, f.Memory)
	m.most.Files = max(m.most.Files, f.Files)
	if u, err := measure.UsageOf(m.t.cmd.Process.Pid); err == nil {
		m.used = max(m.used, u.CPU)
	}
	return f
}

func (m *monitor) now() figures {
	f := m.sample(true)
	if m.t.admin != "" {
		if n := m.metrics(); n != nil {
			f.Keys = int(n["ntrack_keys"])
		}
		m.mu.Lock()
		m.most.Keys = max(m.most.Keys, f.Keys)
		m.mu.Unlock()
	}
	return f
}

func (m *monitor) peak() figures {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

// cpu returns the CPU time of the server until now.
func (m *monitor) cpu() time.Duration {
	m.sample(false)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// metrics returns the server's own numbers that are not 0, by their names with labels.
func (m *monitor) metrics() map[string]float64 {
	r, err := m.client.Get("http://" + m.t.admin + "/metrics")
	if err != nil {
		return nil
	}
	defer r.Body.Close()
	all := make(map[string]float64)
	for in := bufio.NewScanner(io.LimitReader(r.Body, 1<<20)); in.Scan(); {
		name, value, ok := strings.Cut(in.Text(), " ")
		n, err := strconv.ParseFloat(value, 64)
		if ok && err == nil && n != 0 && strings.HasPrefix(name, "ntrack_") {
			all[name] = n
		}
	}
	return all
}

// profile writes a CPU profile of the server to a file. It takes d.
func (m *monitor) profile(file string, d time.Duration) error {
	client := http.Client{Timeout: d + time.Minute}
	defer client.CloseIdleConnections()
	r, err := client.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", m.t.admin, max(1, int(d.Seconds()))))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r.Body)
	return errors.Join(err, f.Close())
}

// residentOf returns the resident memory of a process in bytes, at little cost.
func residentOf(pid int) int64 {
	var size, pages int64
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	_, _ = fmt.Sscan(string(text), &size, &pages)
	return pages * int64(os.Getpagesize())
}

// A group is a control group of memory for one server. nil is none: then what the kernel needs for
// it is unknown.
type group struct {
	dir     string
	unified bool // version 2
}

// newGroup makes a control group. It returns nil if this user may not, or if the system has none.
func newGroup() *group {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		var g *group
		name := fmt.Sprint(groupName, os.Getpid())
		switch {
		case fields[1] == "memory":
			g = &group{dir: filepath.Join("/sys/fs/cgroup/memory", fields[2], name)}
		case fields[1] == "":
			// Beside that of this process: a group with processes has no groups with controllers.
			g = &group{dir: filepath.Join("/sys/fs/cgroup", filepath.Dir(fields[2]), name), unified: true}
		default:
			continue
		}
		removeOld(filepath.Dir(g.dir))
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			continue
		}
		if !g.unified {
			// Version 1 counts the buffers of TCP only if they have a limit.
			_ = os.WriteFile(filepath.Join(g.dir, "memory.kmem.tcp.limit_in_bytes"), []byte("1000000000000"), 0)
		}
		if g.kernel() >= 0 {
			return g
		}
		_ = g.remove()
	}
	return nil
}

const groupName = "ntrack-attack-"

// removeOld removes the groups of runs that were killed.
func removeOld(dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, groupName+"*"))
	for _, g := range old {
		if _, err := os.Stat(filepath.Join("/proc", strings.TrimPrefix(filepath.Base(g), groupName))); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(g)
		}
	}
}

// entrances are the files to which a process writes its id to be in the group.
func (g *group) entrances() []string {
	if g == nil {
		return nil
	}
	return []string{filepath.Join(g.dir, "cgroup.procs")}
}

// kernel returns the kernel's memory for the group in bytes, or -1.
func (g *group) kernel() int64 {
	if g == nil {
		return -1
	}
	sum := int64(0)
	if !g.unified {
		for _, name := range []string{"memory.kmem.usage_in_bytes", "memory.kmem.tcp.usage_in_bytes"} {
			text, err := os.ReadFile(filepath.Join(g.dir, name))
			if err != nil {
				return -1
			}
			n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			sum += n
		}
		return sum
	}
	text, err := os.ReadFile(filepath.Join(g.dir, "memory.stat"))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		var name string
		var n int64
		if _, err := fmt.Sscan(line, &name, &n); err == nil && (name == "kernel" || name == "sock") {
			sum += n
		}
	}
	return sum
}

// remove removes the group. The kernel may need a moment after the end of its last process.
func (g *group) remove() (err error) {
	if g == nil {
		return nil
	}
	for range 100 {
		if err = os.Remove(g.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
