//go:build cgo && linux

package commands_test

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A program that ntrack runs ignores exactly the signals that were ignored when ntrack started.
func TestInheritedSignals(t *testing.T) {
	ct := newCommandTest(t)
	show := []string{"grep", "SigIgn", "/proc/self/status"}
	watch := []string{"watch", ct.tracker.HostPort(), "lobby", "--exec", strings.Join(show, " ") + "; kill -KILL $PPID"}
	every := allSignals()
	for _, ignored := range [][]syscall.Signal{
		nil,
		{syscall.SIGPIPE},
		{syscall.SIGTERM, syscall.SIGUSR1},
		{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCHLD, syscall.SIGURG},
		every,
	} {
		want := uint64(0)
		for _, s := range ignored {
			switch s {
			case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF: // ntrack handles these for itself
			default:
				want |= 1 << (s - 1)
			}
		}
		start := "for s in " + numbers(every) + " 20 21 22; do trap - $s; done; for s in " + numbers(ignored) + `; do trap "" $s; done; exec ntrack "$@"`
		for _, args := range [][]string{ct.args(show...), watch} {
			cmd := exec.Command("sh", append([]string{"-c", start, "sh"}, args...)...)
			var out strings.Builder
			cmd.Stdout = &out
			ct.start(cmd)
			_ = cmd.Wait()
			_, mask, _ := strings.Cut(strings.TrimSpace(out.String()), "\t")
			if got, err := strconv.ParseUint(mask, 16, 64); err != nil || got != want {
				t.Errorf("%s with %v ignored: %q, want %016x", args[0], ignored, out.String(), want)
			}
		}
	}
}
