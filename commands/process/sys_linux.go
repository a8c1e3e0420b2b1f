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

// dieWithParent makes the kernel kill the child when the thread that started it ends. So the child
// dies however this process ends. The signal is SIGKILL, because a child may ignore any other.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// A Reaper waits for the children of this process that no code waits for. Otherwise they would stay in
// the process table as zombies. They are orphans, if this process is the first one of a container, or
// children of a shell that became this process by exec.
//
// The Reaper leaves the programs that this package starts alone, because it would take their exit
// codes. A nil Reaper does nothing. Use nil if the process may start children in other ways.
type Reaper struct {
	mu  sync.Mutex
	own map[int]bool // process ids of the programs that this package has started
}

// StartReaper starts a Reaper. It reaps until the caller calls end.
func StartReaper() (r *Reaper, end func()) {
	r = &Reaper{own: make(map[int]bool)}
	childEnded := make(chan os.Signal, 1)
	signal.Notify(childEnded, syscall.SIGCHLD)
	var reaping sync.WaitGroup
	reaping.Go(func() {
		r.reap() // children that have ended already
		for range childEnded {
			r.reap()
		}
	})
	return r, func() {
		signal.Stop(childEnded)
		close(childEnded)
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
		// The layout of siginfo_t for SIGCHLD. Type unix.Siginfo does not have the process id.
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
		if err != nil || info.pid == 0 || r.own[int(info.pid)] {
			return // wait will reap a child of its own, and then the children behind it
		}
		_, _ = unix.Wait4(int(info.pid), nil, unix.WNOHANG, nil)
	}
}

// start is cmd.Start. The caller must call wait at once: a child that has ended and was not waited for
// hides the children behind it from the Reaper.
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

// wait is cmd.Wait. Afterwards it reaps the children that were hidden behind this one.
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
