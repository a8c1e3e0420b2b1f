//go:build unix

package process

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Find finds a command as execvp(3) does. [exec.LookPath] does not: it refuses a command in a relative
// directory of PATH, finds nothing if PATH is not set, and does not report that it found a file which
// may not be run.
func Find(name string) (string, error) {
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

// Forwarded returns the signals that a [Child] should get from this process: all signals that a
// process can catch, except those that concern only this process. ownGroup is [Program.OwnGroup].
func Forwarded(ownGroup bool) []os.Signal {
	var signals []os.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP: // no process can catch them
		case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS: // this process has an error
		case syscall.SIGPIPE, syscall.SIGXFSZ: // this process could not write
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF: // from a child, and for Go's runtime
		case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			if ownGroup { // otherwise the terminal stops both processes, and the shell has to see this process stop
				signals = append(signals, s)
			}
		default:
			signals = append(signals, s)
		}
	}
	return signals
}

// fromTerminal reports whether a terminal, or the shell on it, sends sig to every process of a group.
// SIGHUP is different: a terminal that closes sends it only to the leader of the session.
func fromTerminal(sig os.Signal) bool {
	return sig == syscall.SIGINT || sig == syscall.SIGQUIT || sig == syscall.SIGWINCH || sig == syscall.SIGCONT
}

// OnTerminal reports whether this process has a controlling terminal.
func OnTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// inForeground reports whether the group of this process is the one to which the terminal sends its
// signals.
func inForeground() bool {
	f, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer f.Close()
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func leadGroup(a *syscall.SysProcAttr) { a.Setpgid = true }

func signalGroup(leader *os.Process, sig os.Signal) {
	_ = syscall.Kill(-leader.Pid, sig.(syscall.Signal))
}

func signalProcess(p *os.Process, sig os.Signal) { _ = p.Signal(sig) }

// killGroup waits until the group of leader has no process. After grace it kills the group.
func killGroup(leader *os.Process, grace time.Duration) {
	for end := time.Now().Add(grace); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if syscall.Kill(-leader.Pid, 0) == syscall.ESRCH {
			return
		}
	}
	signalGroup(leader, syscall.SIGKILL)
}
