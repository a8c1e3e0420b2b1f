package commands

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel kill the child when the thread that starts it ends, in whichever way
// ntrack does. No milder signal keeps the promise: a child may ignore it.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// A reaper waits for the children of this process that nothing else does: orphans, where it is the
// first process of a container, and what a shell had started before it became ntrack by exec. What
// ntrack starts itself goes through it, and keeps its exit status for who asks. A nil reaper is for
// a process that is somebody else's.
type reaper struct {
	mu  sync.Mutex
	own map[int]bool
}

// startReaper reaps until the caller calls end.
func startReaper() (r *reaper, end func()) {
	r = &reaper{own: make(map[int]bool)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	var reaping sync.WaitGroup
	reaping.Go(func() {
		r.reap() // those that have ended before
		for range ended {
			r.reap()
		}
	})
	return r, func() {
		signal.Stop(ended)
		close(ended)
		reaping.Wait()
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reapLocked()
}

func (r *reaper) reapLocked() {
	for {
		// The layout of the C library's siginfo_t, for SIGCHLD.
		var info struct {
			_   [3]int32
			_   [0]uintptr
			pid int32
			_   [128]byte
		}
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || info.pid == 0 || r.own[int(info.pid)] { // whoever waits for that one comes here next
			return
		}
		_, _ = unix.Wait4(int(info.pid), nil, unix.WNOHANG, nil)
	}
}

// start is cmd.Start. The caller calls wait at once.
func (r *reaper) start(cmd *exec.Cmd) error {
	if r == nil {
		return cmd.Start()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		r.own[cmd.Process.Pid] = true
	}
	return err
}

// wait is cmd.Wait.
func (r *reaper) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.own, cmd.Process.Pid)
		r.reapLocked()
	}
	return err
}
