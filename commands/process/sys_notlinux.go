//go:build !linux

package process

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing: only Linux can kill a child together with its parent.
func dieWithParent(*syscall.SysProcAttr) {}

// A Reaper does nothing here. Only on Linux may this process be the first one of a container.
type Reaper struct{}

// StartReaper returns nil, and a function that does nothing.
func StartReaper() (*Reaper, func()) { return nil, func() {} }

func (*Reaper) start(cmd *exec.Cmd) error { return cmd.Start() }

func (*Reaper) wait(cmd *exec.Cmd) error { return cmd.Wait() }
