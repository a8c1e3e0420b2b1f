package commands

import "syscall"

// dieWithParent has the kernel kill the child when the thread that starts it ends, in whichever way
// ntrack does. No milder signal keeps the promise: a child may ignore it.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
