//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package commands

import (
	"io/fs"
	"runtime"

	"golang.org/x/sys/unix"
)

// availableMemory is how many bytes of memory the machine has. It does not look at limits of this
// process. known is false if the system does not say.
func availableMemory(fs.FS) (n int64, known bool) {
	name := "hw.physmem"
	switch runtime.GOOS {
	case "darwin":
		name = "hw.memsize"
	case "netbsd":
		name = "hw.physmem64"
	}
	raw, err := unix.SysctlRaw(name)
	for i := len(raw) - 1; i >= 0; i-- { // little-endian, as all ports of ntrack to these systems
		n = n<<8 | int64(raw[i])
	}
	return n, err == nil && n > 0
}
