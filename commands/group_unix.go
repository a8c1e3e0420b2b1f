//go:build unix

package commands

import (
	"os"
	"syscall"
	"time"
)

// childSignals are those that a command under announce gets to see, and ntrack does not act upon.
// SIGURG is not one: Go's runtime sends it to itself all the time.
var childSignals = []os.Signal{
	syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

// fromTerminal says whether it is a terminal's keys that send the signal, and so to every process of
// a group. SIGHUP is not one: a terminal that is closed tells the leader of its session alone.
func fromTerminal(sig os.Signal) bool { return sig == syscall.SIGINT || sig == syscall.SIGQUIT }

// onTerminal says whether a terminal controls this process.
func onTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err == nil {
		_ = f.Close()
	}
	return err == nil
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
