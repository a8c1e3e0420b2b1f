//go:build unix

package server

import (
	"errors"
	"syscall"
)

// acceptsLater reports whether an accept that failed with an error of the system may succeed later.
// Only the errors that say that the socket does not listen are final. All others pass: a lack of
// descriptors or memory, a firewall, and the errors of a network, which Linux reports here for the
// connection that it would have returned (accept(2)).
func acceptsLater(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && errno != syscall.EBADF && errno != syscall.ENOTSOCK && errno != syscall.EINVAL
}
