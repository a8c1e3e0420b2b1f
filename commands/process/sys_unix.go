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

// Find finds a command as execvp(3) does. [exec.LookPath] differs: it refuses a command found by a
// relative entry of PATH, finds nothing without a PATH, and hides that a file was found but may not
// be run.
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

// Forwarded are the signals that a [Child] should get from this process: all signals that a process
// can catch, except those that concern this process alone. ownGroup is [Program.OwnGroup].
func Forwarded(ownGroup bool) []os.Signal {
	var signals []os.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP: // no process can catch them
		case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS: // this process is broken
		case syscall.SIGPIPE, syscall.SIGXFSZ: // this process has written something
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF: // its children, Go's runtime
		case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			if ownGroup { // otherwise the terminal stops both, and the shell has to see this one stop
				signals = append(signals, s)
			}
		default:
			signals = append(signals, s)
		}
	}
	return signals
}

// fromTerminal reports whether a terminal, or the shell on it, sends this signal to every process of
// a group. SIGHUP is different: a terminal that closes sends it to its session leader alone.
func fromTerminal(sig os.Signal) bool {
	return sig == syscall.SIGINT || sig == syscall.SIGQUIT || sig == syscall.SIGWINCH || sig == syscall.SIGCONT
}

// OnTerminal reports whether a terminal controls this process.
func OnTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// inForeground reports whether the terminal sends its signals to the group of this process.
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

// killGroup waits until a group is empty whose leader has ended. After grace it kills the rest.
func killGroup(leader *os.Process, grace time.Duration) {
	for end := time.Now().Add(grace); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if syscall.Kill(-leader.Pid, 0) == syscall.ESRCH {
			return
		}
	}
	signalGroup(leader, syscall.SIGKILL)
}
