//go:build unix

package commands

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// passedOn are the signals that a command under announce gets to see, and ntrack does not act upon:
// all that a process can catch, but for those that are about ntrack itself.
func passedOn(ownGroup bool) []os.Signal {
	var signals []os.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP: // nobody can catch them
		case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS: // ntrack is broken
		case syscall.SIGPIPE, syscall.SIGXFSZ: // it has written something
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF: // its children, Go's runtime
		case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			if ownGroup { // a terminal's stop both, and a shell sees ntrack
				signals = append(signals, s)
			}
		default:
			signals = append(signals, s)
		}
	}
	return signals
}

// fromTerminal says whether a terminal, or the shell on it, sends the signal to every process of a
// group. SIGHUP is not one: a terminal that is closed sends it to the leader of its session alone.
func fromTerminal(sig os.Signal) bool {
	return sig == syscall.SIGINT || sig == syscall.SIGQUIT || sig == syscall.SIGWINCH || sig == syscall.SIGCONT
}

// onTerminal says whether a terminal controls this process.
func onTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// inForeground says whether the terminal sends signals to this process's group.
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

// killGroup waits until nobody is left in a group whose leader has ended, and kills who still is
// after so long.
func killGroup(leader *os.Process, after time.Duration) {
	for end := time.Now().Add(after); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if syscall.Kill(-leader.Pid, 0) == syscall.ESRCH {
			return
		}
	}
	signalGroup(leader, syscall.SIGKILL)
}
