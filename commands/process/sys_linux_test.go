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

// A program that this package has started, and has not waited for, hides other children from the
// Reaper. The Reaper reaps them when the program has been waited for.
func TestReaperHiddenChild(t *testing.T) {
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
		t.Fatal("the Reaper has reaped the program")
	}
	if err := r.wait(own); own.ProcessState.ExitCode() != 7 {
		t.Errorf("the program ended with %v", err)
	}
	if s := stat(other); s != "" {
		t.Errorf("the other child is still there: %s", s)
	}
	_ = other.Wait()
}
