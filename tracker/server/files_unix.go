//go:build unix

package server

import (
	"math"
	"syscall"
)

// maxFiles is how many files this process may have open. A connection is one.
func maxFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}
