//go:build !linux

package commands

import (
	"os/exec"
	"syscall"
)

// dieWithParent is for Linux.
func dieWithParent(*syscall.SysProcAttr) {}

// A reaper is for Linux, where ntrack may be the first process of a container.
type reaper struct{}

func startReaper() (*reaper, func()) { return nil, func() {} }

func (*reaper) start(cmd *exec.Cmd) error { return cmd.Start() }

func (*reaper) wait(cmd *exec.Cmd) error { return cmd.Wait() }
