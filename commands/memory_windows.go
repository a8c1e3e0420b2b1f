package commands

import (
	"io/fs"
	"unsafe"

	"golang.org/x/sys/windows"
)

// availableMemory is how many bytes of memory the machine has. It does not look at limits of this
// process. known is false if the system does not say.
func availableMemory(fs.FS) (n int64, known bool) {
	var status struct { // MEMORYSTATUSEX
		length, load uint32
		total        uint64
		_            [6]uint64
	}
	status.length = uint32(unsafe.Sizeof(status))
	ask := windows.NewLazySystemDLL("kernel32.dll").NewProc("GlobalMemoryStatusEx")
	if ask.Find() != nil {
		return 0, false
	}
	ok, _, _ := ask.Call(uintptr(unsafe.Pointer(&status)))
	return int64(status.total), ok != 0
}
