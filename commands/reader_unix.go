//go:build unix

package commands

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// waitReaderGone waits until whoever reads the pipe out has closed it, and is then true. A watch
// may have nothing to write for hours, and a pipeline must not wait for it that long to learn that
// `head -1` has ended. It is false at once where out is no file.
func waitReaderGone(out io.Writer) bool {
	r, _ := out.(results)
	f, ok := r.Writer.(*os.File)
	if !ok {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} // no events: only POLLERR and POLLHUP are told
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return false
		}
		switch {
		case fds[0].Revents&unix.POLLNVAL != 0:
			return false
		case fds[0].Revents != 0:
			return true
		}
	}
}
