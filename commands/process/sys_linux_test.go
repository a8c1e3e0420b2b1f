package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A child of the Reaper's own that has ended, and that nothing has waited for yet, hides the children
// behind it. The Reaper still reaps them later.
func TestReaperBehindItsOwn(t *testing.T) {
	runtime.LockOSThread() // the kernel lists children by thread
	defer runtime.UnlockOSThread()
	r := &Reaper{own: make(map[int]bool)}
	own, other := exec.Command("sh", "-c", "exit 7"), exec.Command("true")
	if err := r.start(own); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	stat := func(cmd *exec.Cmd) string {
		b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "stat"))
		return string(b)
	}
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(stat(own), ") Z") || !strings.Contains(stat(other), ") Z"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the children have not ended")
		}
	}
	r.reap()
	if stat(own) == "" {
		t.Fatal("its own child has been reaped")
	}
	if err := r.wait(own); own.ProcessState.ExitCode() != 7 {
		t.Errorf("its own child ended with %v", err)
	}
	if s := stat(other); s != "" {
		t.Errorf("the other one is still there: %s", s)
	}
	_ = other.Wait()
}
