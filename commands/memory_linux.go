package commands

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// availableMemory is how many bytes of memory this process can have: that of the machine, or the least
// limit of its cgroup and of all cgroups above it. A container is a cgroup. root is the root of the file
// system. known is false if no file in it says how much memory there is.
func availableMemory(root fs.FS) (n int64, known bool) {
	text, _ := fs.ReadFile(root, "proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(f[1], 10, 53)
			n, known = kib<<10, err == nil
		}
	}
	for _, limit := range cgroupLimits(root) {
		if !known || limit < n {
			n, known = limit, true
		}
	}
	return n, known
}

// cgroupLimits returns the limits of memory of the cgroups that the process is in, of version 1 and 2.
func cgroupLimits(root fs.FS) (limits []int64) {
	groups, mounts := cgroupPaths(root), cgroupMounts(root)
	for _, m := range mounts {
		group, ok := groups[m.version]
		if !ok {
			continue
		}
		// A container often sees only a part of the hierarchy: the mount begins at m.root. If the path
		// is not below that, it is most likely the name of this part outside of the container.
		dir := m.dir
		if below, ok := strings.CutPrefix(group+"/", strings.TrimSuffix(m.root, "/")+"/"); ok {
			dir = path.Join(m.dir, path.Join("/", below)) // never above m.dir
		}
		for above := false; !above; dir = path.Dir(dir) {
			above = dir == m.dir
			text, _ := fs.ReadFile(root, path.Join(strings.TrimPrefix(dir, "/"), m.file))
			// Without a limit the file has the word max, or a number near 2^63.
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
				limits = append(limits, n)
			}
		}
	}
	return limits
}

// cgroupPaths returns the path of the process in the hierarchy of cgroups with limits of memory, by
// version. See cgroups(7).
func cgroupPaths(root fs.FS) map[int]string {
	paths := make(map[int]string)
	text, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(f) < 3:
		case f[0] == "0" && f[1] == "":
			paths[2] = f[2]
		case hasWord(f[1], "memory"):
			paths[1] = f[2]
		}
	}
	return paths
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// A cgroupMount is a directory with cgroups.
type cgroupMount struct {
	version   int
	dir, root string // the directory, and the cgroup that it is
	file      string // has the limit of a cgroup
}

// cgroupMounts returns the mounts of cgroups with limits of memory. See proc_pid_mountinfo(5).
func cgroupMounts(root fs.FS) (mounts []cgroupMount) {
	text, _ := fs.ReadFile(root, "proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		first, second, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(first), strings.Fields(second)
		if len(f) < 5 || len(g) < 3 {
			continue
		}
		m := cgroupMount{dir: path.Clean(unescape(f[4])), root: unescape(f[3])}
		switch {
		case g[0] == "cgroup2":
			m.version, m.file = 2, "memory.max"
		case g[0] == "cgroup" && hasWord(g[2], "memory"):
			m.version, m.file = 1, "memory.limit_in_bytes"
		default:
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// unescape replaces what mountinfo has for a space, a tab, a line break and a backslash in a path.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
