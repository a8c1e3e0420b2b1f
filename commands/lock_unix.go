//go:build unix && !aix && !solaris

package commands

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errLost says that another process has locked a directory, or has put another one in its place.
var errLost = errors.New("the directory is another process's")

func isLost(err error) bool { return errors.Is(err, errLost) || errors.Is(err, fs.ErrNotExist) }

// lockDir locks a directory that this user alone can use, until the file is closed. The lock ends
// with this process however that ends, and what it runs does not inherit it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := lockOpenDir(f, dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func lockOpenDir(f *os.File, dir string) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		return errLost
	}
	if err != nil {
		return err
	}
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := locked.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) != os.Geteuid() || locked.Mode().Perm() != 0o700 || !os.SameFile(locked, there) {
		return errLost
	}
	return nil
}

// tidySelfFiles removes what runs left behind that were killed: directories of this user that have
// the name of a selfFile's, nothing else in them, and no lock.
func tidySelfFiles() {
	temp := os.TempDir()
	entries, _ := os.ReadDir(temp)
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), selfPrefix)
		if !ours || !e.IsDir() || strings.Trim(number, "0123456789") != "" {
			continue
		}
		dir := filepath.Join(temp, e.Name())
		f, err := lockDir(dir)
		if err != nil {
			continue
		}
		names, err := f.Readdirnames(-1)
		others := slices.ContainsFunc(names, func(n string) bool { return n != selfName && !strings.HasPrefix(n, tempPrefix) })
		if err == nil && !others {
			for _, name := range names {
				_ = unix.Unlinkat(int(f.Fd()), name, 0)
			}
			_ = os.Remove(dir)
		}
		_ = f.Close()
	}
}
