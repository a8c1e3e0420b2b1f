//go:build !linux && !windows && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package commands

import "io/fs"

// availableMemory does not know how much memory other systems have.
func availableMemory(fs.FS) (n int64, known bool) { return 0, false }
