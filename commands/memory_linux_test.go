package commands

import (
	"maps"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/urfave/cli/v2"
)

// Files of a system, by name.
type files map[string]string

func (f files) fs() fstest.MapFS {
	fsys := make(fstest.MapFS)
	for name, text := range f {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// with returns the files and others.
func (f files) with(others files) files {
	all := maps.Clone(f)
	maps.Copy(all, others)
	return all
}

// The memory of the process is the least of that of the machine and the limits of its cgroups, of both
// versions, on the whole path.
func TestAvailableMemory(t *testing.T) {
	machine := files{"proc/meminfo": "MemTotal:       4096000 kB\nMemFree:         123 kB\n"}
	const all = 4096000 << 10
	v1 := machine.with(files{
		"proc/self/cgroup": "9:name=systemd:/other\n4:memory:/system.slice/ntrack.service\n3:cpu,cpuacct:/other\n0::/\n",
		"proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" +
			"33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n" +
			"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		"sys/fs/cgroup/cpu/memory.limit_in_bytes":    "1\n",
	})
	v2 := machine.with(files{
		"proc/self/cgroup":    "0::/system.slice/ntrack.service\n",
		"proc/self/mountinfo": "25 23 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
		"sys/fs/cgroup/system.slice/ntrack.service/memory.max": "max\n",
	})
	container := func(group, root string) files {
		return machine.with(files{
			"proc/self/cgroup":         "0::" + group + "\n",
			"proc/self/mountinfo":      "25 23 0:22 " + root + " /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			"sys/fs/cgroup/memory.max": "67108864\n",
		})
	}
	for _, c := range []struct {
		name  string
		files files
		want  int64
	}{
		{"no cgroup", machine, all},
		{"nothing is known", files{}, 0},
		{"no limit, v1", v1, all},
		{"its own limit, v1", v1.with(files{"sys/fs/cgroup/memory/system.slice/ntrack.service/memory.limit_in_bytes": "67108864\n"}), 64 << 20},
		{"a limit above it, v1", v1.with(files{
			"sys/fs/cgroup/memory/system.slice/memory.limit_in_bytes":                "67108864\n",
			"sys/fs/cgroup/memory/system.slice/ntrack.service/memory.limit_in_bytes": "134217728\n",
		}), 64 << 20},
		{"a limit above the machine's memory", v1.with(files{"sys/fs/cgroup/memory/system.slice/memory.limit_in_bytes": "8388608000\n"}), all},
		{"a limit of another cgroup", v1.with(files{"sys/fs/cgroup/memory/system.slice/other/memory.limit_in_bytes": "1\n"}), all},
		{"no limit, v2", v2, all},
		{"its own limit, v2", v2.with(files{"sys/fs/cgroup/system.slice/ntrack.service/memory.max": "67108864\n"}), 64 << 20},
		{"a limit above it, v2", v2.with(files{"sys/fs/cgroup/system.slice/memory.max": "67108864\n"}), 64 << 20},
		{"a limit and no size of the machine", files(v2.with(files{"proc/meminfo": "", "sys/fs/cgroup/system.slice/memory.max": "67108864\n"})), 64 << 20},
		{"both versions", v1.with(files{"sys/fs/cgroup/unified/memory.max": "67108864\n"}), 64 << 20},
		{"a container with a namespace", container("/", "/"), 64 << 20},
		{"a container without a namespace", container("/docker/abc", "/docker/abc"), 64 << 20},
		{"a cgroup below that of a container", container("/docker/abc/sub", "/docker/abc").with(files{"sys/fs/cgroup/sub/memory.max": "33554432\n"}), 32 << 20},
		{"the name of a container outside of it", container("/docker/abc", "/"), 64 << 20},
		{"a path that leads elsewhere", container("/../../sys", "/"), 64 << 20},
		{"a path with a space", machine.with(files{
			"proc/self/cgroup":          "0::/a b\n",
			"proc/self/mountinfo":       `25 23 0:22 / /the\040groups rw - cgroup2 cgroup2 rw` + "\n",
			"the groups/a b/memory.max": "67108864\n",
		}), 64 << 20},
		{"lines that are cut off", machine.with(files{"proc/self/cgroup": "0:\n4:memory\n", "proc/self/mountinfo": "25\n - cgroup2\n"}), all},
	} {
		if got, known := availableMemory(c.files.fs()); got != c.want || known != (c.want > 0) {
			t.Errorf("%s: %d, %v; want %d", c.name, got, known, c.want)
		}
	}
	if n, known := availableMemory(os.DirFS("/")); !known || n < 1<<20 {
		t.Errorf("this machine: %d, %v", n, known)
	}
}

// --max-memory is half of what the process can have, or what the user says. There is a warning if the
// process cannot have that much.
func TestMemoryOption(t *testing.T) {
	const machine, container = "MemTotal: 1048576 kB\n", "29 1 0:26 / /cgroups rw - cgroup2 cgroup2 rw\n"
	for _, c := range []struct {
		meminfo, limit string
		args           []string
		want           int64
		warning        string
	}{
		{machine, "max\n", nil, 512 * mib, ""},
		{machine, "104857600\n", nil, 50 * mib, ""},
		{machine, "41943040\n", nil, leastMemory, ""},
		{machine, "33554432\n", nil, leastMemory, ""},
		{machine, "20971520\n", nil, leastMemory, "this machine, or a cgroup, has 20M of memory, and the system may kill a tracker that takes more: it needs up to 32M"},
		{"", "", nil, unknownMemory / 2, ""},
		{machine, "104857600\n", []string{"--max-memory=100M"}, 100 * mib, ""},
		{machine, "104857600\n", []string{"--max-memory=102401K"}, 102401 << 10, "--max-memory 102401K: this machine, or a cgroup, has 100M, and the system may kill a process that takes more"},
		{"", "", []string{"--max-memory=2G"}, 2 << 30, ""},
	} {
		root := files{"proc/meminfo": c.meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": container, "cgroups/memory.max": c.limit}.fs()
		var o serveOptions
		var log strings.Builder
		serve := serveCommand(Streams{})
		serve.Action = func(ctx *cli.Context) error {
			return o.buildMemory(ctx, Streams{Err: &log}, root)
		}
		app := &cli.App{Name: "ntrack", Commands: []*cli.Command{serve}}
		if err := app.RunContext(t.Context(), append([]string{"ntrack", "serve"}, c.args...)); err != nil {
			t.Fatal(err)
		}
		if o.memory.all != c.want || strings.TrimSuffix(strings.TrimPrefix(log.String(), "ntrack: "), "\n") != c.warning {
			t.Errorf("%q, %q, %q: %s, and the log has %q; want %s and %q", c.meminfo, c.limit, c.args, size(o.memory.all), log.String(), size(c.want), c.warning)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "1000": 1000, "007K": 7 << 10, "64KiB": 64 << 10, "512M": 512 << 20, "2GiB": 2 << 30, "1T": 1 << 40, "4194304T": 1 << 62,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"4194305T", "9223372036854775808", "4611686018427387905"} {
		if _, err := parseSize(text); err == nil || err.Error() != "the size is too large" {
			t.Errorf("%s: %v", text, err)
		}
	}
	for n, want := range map[int64]string{
		0: "0", 1: "1", 1023: "1023", 1 << 10: "1K", 32 << 20: "32M", 1 << 30: "1G", 1536 << 20: "1536M", 12345678: "11M", 24680 << 20: "24G", 10 << 40: "10T",
	} {
		if got := size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

// The parts of --max-memory and the program are never more than the whole.
func TestSplitMemory(t *testing.T) {
	for _, all := range []int64{leastMemory, 64 * mib, 1<<30 + 1, 1 << 62} {
		m := splitMemory(all)
		if m.table < 8*mib || m.connections < 4*mib || m.table+m.connections+programMemory > all-(all-programMemory)/4+1 {
			t.Errorf("%+v", m)
		}
	}
}
