//go:build !unix

package process

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// This file is for Windows, which has no process groups like those of Unix. Its only signal is Ctrl-C,
// which the console sends to all its processes.

// Find leaves the search to package os/exec, which knows the file name extensions of Windows.
func Find(name string) (string, error) { return exec.LookPath(name) }

// Forwarded returns the signals that a [Child] should get from this process.
func Forwarded(bool) []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

func fromTerminal(sig os.Signal) bool { return sig == os.Interrupt }

// OnTerminal returns true, as if a terminal controlled this process. A [Child] then needs no group of
// its own.
func OnTerminal() bool { return true }

func inForeground() bool { return true }

func leadGroup(*syscall.SysProcAttr) {}

func signalGroup(p *os.Process, sig os.Signal) { signalProcess(p, sig) }

func signalProcess(p *os.Process, _ os.Signal) { _ = p.Kill() }

func killGroup(*os.Process, time.Duration) {}
