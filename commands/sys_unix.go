//go:build unix && !aix && !solaris

package commands

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// openOwn opens a file of this user for reading and writing, which it creates if there is none. It
// refuses links and files of other users.
func openOwn(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !(isOwn(info) && info.Mode().IsRegular()) {
		err = fmt.Errorf("%s is not this user's file", name)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func isOwn(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Geteuid()
}

// lockDir locks a directory that only this user can use, until the caller closes the file. The lock
// ends with this process however that ends, and programs that this process runs do not inherit it.
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
		return errNotOurs
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
	if !isOwn(locked) || locked.Mode().Perm() != 0o700 || !os.SameFile(locked, there) {
		return errNotOurs
	}
	return nil
}

// removeIn removes a file from a directory that is open.
func removeIn(dir *os.File, name string) error { return unix.Unlinkat(int(dir.Fd()), name, 0) }

// shareByte takes a shared lock on one byte of a file. It reports whether another process has a lock
// there. The error says that this process did not get its own.
func shareByte(f *os.File, at int64) (others bool, err error) {
	err = lockByte(f, at, unix.F_RDLCK)
	other := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	asked := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &other)
	return asked == nil && other.Type != unix.F_UNLCK, err
}

// claimByte gives up a shared lock and takes an exclusive one instead. It reports whether another
// process has a lock, so that this one got none.
func claimByte(f *os.File, at int64) (others bool) {
	_ = lockByte(f, at, unix.F_UNLCK)
	err := lockByte(f, at, unix.F_WRLCK)
	return err == unix.EAGAIN || err == unix.EACCES
}

func lockByte(f *os.File, at int64, kind int16) error {
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1})
}

// waitReaderGone waits until the reader of a pipe has closed it, and returns true then. A watch may
// have nothing to write for hours. Without this, a pipeline would wait as long to see that its
// `head -1` has ended. waitReaderGone returns false at once if out is not a file.
func waitReaderGone(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} // without events, poll reports only POLLERR and POLLHUP
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

// notifyTerminal sends on signals when the terminal has changed its size, or when this process goes
// on after a shell has used the terminal.
func notifyTerminal(signals chan<- os.Signal) {
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGCONT)
}

func isContinued(s os.Signal) bool { return s == syscall.SIGCONT }
