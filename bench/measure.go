//go:build linux && (amd64 || arm64)

package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

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
