//go:build !unix

package commands

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// There are no process groups here, and no signals but Ctrl-C, which the console sends to every
// process it has.

func passedOn(bool) []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

func fromTerminal(sig os.Signal) bool { return sig == os.Interrupt }

func onTerminal() bool { return true }

func inForeground() bool { return true }

func leadGroup(*syscall.SysProcAttr) {}

func signalGroup(p *os.Process, sig os.Signal) { signalProcess(p, sig) }

func signalProcess(p *os.Process, _ os.Signal) { _ = p.Kill() }

func killGroup(*os.Process, time.Duration) {}

// findCommand leaves it to package os/exec, which knows what else Windows looks for.
func findCommand(name string) (string, error) { return exec.LookPath(name) }
