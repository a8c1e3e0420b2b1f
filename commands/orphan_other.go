//go:build !linux

package commands

import "syscall"

// dieWithParent is for Linux.
func dieWithParent(*syscall.SysProcAttr) {}
