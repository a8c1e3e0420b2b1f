package commands

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
)

// unixPrefix begins a --listen that is a Unix socket, as in unix:/run/ntrack.sock.
const unixPrefix = "unix:"

// unixMode is the mode of a Unix socket. A proxy at the socket may name any address as that of a
// client. So only the user and the group of the tracker may connect.
const unixMode = 0o660

// maxUnixPath is how many bytes the path of a Unix socket may have.
const maxUnixPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// checkUnixPath checks the path of a --listen. The names of Linux that begin with @ are refused,
// because everybody on the machine may connect to them.
func checkUnixPath(c *cli.Context, path string) error {
	switch {
	case path == "" || path[0] == '@' || strings.ContainsRune(path, 0):
		return usage(c, "--listen %q: unix:PATH, such as unix:/run/ntrack.sock", wire.Clean(unixPrefix+path))
	case len(path) > maxUnixPath:
		return usage(c, "--listen %q: a path of %d bytes at most; this one has %d", wire.Clean(unixPrefix+path), maxUnixPath, len(path))
	}
	return nil
}

// listenUnix listens at a Unix socket. It replaces a socket at which nobody listens any more: a
// tracker that was killed leaves one. The listener removes its socket when it is closed.
func listenUnix(path string) (net.Listener, error) {
	option := "--listen " + wire.Clean(unixPrefix+path)
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%s: %s", option, reasonOf(err))
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s: a file that is not a socket has this path; remove it, or choose another path", option)
	default:
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("%s: another program listens at this socket; end it, or choose another path", option)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("%s: cannot replace this old socket: %s", option, reasonOf(err))
		}
	}
	l, err := unixListener(path)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil, fmt.Errorf("%s: there is no such directory; make it first", option)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: not permitted; choose a directory in which the tracker may make files", option)
	case err != nil:
		return nil, fmt.Errorf("%s: %s", option, reasonOf(err))
	}
	if err := os.Chmod(path, unixMode); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("%s: %s", option, reasonOf(err))
	}
	return l, nil
}

// unixListener listens at a path. On Linux the socket gets its mode before its path exists. Else another
// user could connect before Chmod, if the umask lets everybody write.
func unixListener(path string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { closeToOthers(fd) })
	}}
	return config.Listen(context.Background(), "unix", path)
}

// reasonOf is the reason of the system for an error, without the operation and the path.
func reasonOf(err error) string {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return wire.Clean(err.Error())
}
