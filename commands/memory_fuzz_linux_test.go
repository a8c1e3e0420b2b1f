package commands

import (
	"testing"
	"testing/fstest"
)

// FuzzAvailableMemory: whatever the system's files have, reading them ends, and what they report is an
// amount of memory. A limit of a cgroup only lowers it.
func FuzzAvailableMemory(f *testing.F) {
	f.Add("MemTotal: 1024 kB\n", "0::/a/b\n", "29 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "1048576\n")
	f.Add("MemTotal: 99999999999999999999 kB\n", "4:memory:/a\n", "29 1 0:26 /a /c/ rw - cgroup cgroup rw,memory\n", "max\n")
	f.Add("", "0::/../..\n", "29 1 0:26 / . rw - cgroup2 cgroup2 rw\n", "-1")
	f.Add("", "0::a", "29 1 0:26 / c/../c rw - cgroup2 cgroup2 rw\n", "9223372036854775807")
	f.Fuzz(func(t *testing.T, meminfo, cgroup, mounts, limit string) {
		root := fstest.MapFS{
			"proc/meminfo": {Data: []byte(meminfo)}, "proc/self/cgroup": {Data: []byte(cgroup)}, "proc/self/mountinfo": {Data: []byte(mounts)},
			"sys/fs/cgroup/memory.max": {Data: []byte(limit)}, "sys/fs/cgroup/a/memory.max": {Data: []byte(limit)}, "c/memory.limit_in_bytes": {Data: []byte(limit)},
		}
		n, known := availableMemory(root)
		if n < 0 || known && n == 0 && limit == "" && meminfo == "" {
			t.Errorf("%q, %q, %q, %q: %d, %v", meminfo, cgroup, mounts, limit, n, known)
		}
		alone, ok := availableMemory(fstest.MapFS{"proc/meminfo": root["proc/meminfo"]})
		if ok && (!known || n > alone) {
			t.Errorf("%q, %q, %q, %q: %d, %v, but %d without a cgroup", meminfo, cgroup, mounts, limit, n, known, alone)
		}
	})
}
