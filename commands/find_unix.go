//go:build unix

package commands

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// findCommand finds a command as execvp(3) does. [exec.LookPath] refuses what it finds by a relative
// entry of PATH, finds nothing without a PATH, and does not say that it found a file which may not
// be run.
func findCommand(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = "/bin:/usr/bin"
	}
	cause := exec.ErrNotFound
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "."
		}
		switch file, err := exec.LookPath(dir + "/" + name); {
		case err == nil:
			return file, nil
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EISDIR):
			cause = err
		}
	}
	return "", cause
}
