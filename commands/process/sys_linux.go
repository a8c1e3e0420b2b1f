package process

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dieWithParent makes the kernel kill the child when the thread that started it ends, however this
// process ends. A child could ignore any milder signal.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// A Reaper waits for the children of this process that nothing else waits for. These are orphans, if
// this process is the first one of a container, and children of a shell that became this process by
// exec. Programs that this package starts register with the Reaper, which leaves their exit codes
// alone. A nil Reaper does nothing: it is for a process that may have children of its own.
type Reaper struct {
	mu  sync.Mutex
	own map[int]bool // process ids of the programs that this package has started
}

// StartReaper reaps until the caller calls end.
func StartReaper() (r *Reaper, end func()) {
	r = &Reaper{own: make(map[int]bool)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	var reaping sync.WaitGroup
	reaping.Go(func() {
		r.reap() // children that have ended before
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

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reapLocked()
}

func (r *Reaper) reapLocked() {
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
		if err != nil || info.pid == 0 || r.own[int(info.pid)] { // its own wait comes here next
			return
		}
		_, _ = unix.Wait4(int(info.pid), nil, unix.WNOHANG, nil)
	}
}

// start is cmd.Start. The caller must call wait at once: until then the child hides other children.
func (r *Reaper) start(cmd *exec.Cmd) error {
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
func (r *Reaper) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.own, cmd.Process.Pid)
		r.reapLocked()
	}
	return err
}
