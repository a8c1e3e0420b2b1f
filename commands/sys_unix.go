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

// openOwn opens a file of this user for reading and writing, and creates it if it does not exist. It
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

func isOwn(info fs.FileInfo) bool { return isOf(info, os.Geteuid()) }

func isRoots(info fs.FileInfo) bool { return isOf(info, 0) }

func isOf(info fs.FileInfo, uid int) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == uid
}

// giveTo gives a file the owner and the group of another one.
func giveTo(f *os.File, other fs.FileInfo) error {
	want, ok := other.Sys().(*syscall.Stat_t)
	info, err := f.Stat()
	if err != nil || !ok {
		return err
	}
	if has, ok := info.Sys().(*syscall.Stat_t); ok && has.Uid == want.Uid && has.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}

// closeToOthers gives a Unix socket that is not bound yet its mode. Only Linux can do that.
func closeToOthers(socket uintptr) { _ = unix.Fchmod(int(socket), unixMode) }

// lockDir locks a directory that only this user can use, until the caller closes the file. The lock
// also ends when this process is killed. Programs that this process runs do not inherit the lock.
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
		return errDirTaken
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
		return errDirTaken
	}
	return nil
}

// removeIn removes a file from a directory that is open.
func removeIn(dir *os.File, name string) error { return unix.Unlinkat(int(dir.Fd()), name, 0) }

// shareByte takes a shared lock on one byte of a file. It reports whether other processes have a lock
// on this byte, even if it returns an error because this process got none.
func shareByte(f *os.File, offset int64) (others bool, err error) {
	err = lockByte(f, offset, unix.F_RDLCK)
	other := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset, Len: 1}
	errGet := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &other)
	return errGet == nil && other.Type != unix.F_UNLCK, err
}

// claimByte replaces the shared lock of this process by an exclusive one. If another process has a
// lock, it returns false, and this process has none. Any other error counts as success, because
// without working locks each process leaves for itself.
func claimByte(f *os.File, offset int64) bool {
	_ = lockByte(f, offset, unix.F_UNLCK)
	err := lockByte(f, offset, unix.F_WRLCK)
	return err != unix.EAGAIN && err != unix.EACCES
}

func lockByte(f *os.File, offset int64, kind int16) error {
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: offset, Len: 1})
}

// waitReaderGone waits until the reader of a pipe has closed it, and then returns true. A watch may
// have nothing to write for hours. Without this function, `ntrack watch KEY | head -1` would end only
// with the second line. waitReaderGone returns false at once if out is not a file.
func waitReaderGone(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} // with no events set, poll waits for POLLERR and POLLHUP
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

// notifyTerminal sends on signals when the size of the terminal changes, and when this process
// continues after it was stopped, because another program may then have written to the terminal.
func notifyTerminal(signals chan<- os.Signal) {
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGCONT)
}

func isContinued(s os.Signal) bool { return s == syscall.SIGCONT }
