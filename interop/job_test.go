//go:build linux

package interop_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	python = "/usr/bin/python3" // of Debian, which has these packages
	torch  = "/usr/lib/python3/dist-packages/torch"
	mpi4py = "/usr/lib/python3/dist-packages/mpi4py"
)

// torchSum is a job of four ranks that add up a tensor by gloo. Nobody tells torch anything: what it
// needs is in the environment.
func torchSum(t *testing.T, bin string) {
	dir, at := t.TempDir(), serve(t, bin)
	script(t, dir, "sum.py", `
import torch, torch.distributed as dist
dist.init_process_group("gloo")
t = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(t)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {t.item():.0f}", flush=True)
dist.destroy_process_group()
`)
	began := time.Now()
	parts := job(t, dir, bin, "watch", at, "sum", "--port", "0", "--min", "4", "--exactly", "--", python, "sum.py")
	for _, p := range parts {
		p.wait(t)
	}
	t.Logf("four ranks of torch took %v", time.Since(began).Round(time.Millisecond))
	if got, want := outputs(t, parts), "rank 0 of 4: 10\nrank 1 of 4: 10\nrank 2 of 4: 10\nrank 3 of 4: 10\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// torchKilled kills one rank of a job that computes without talking, so that no socket shows its
// death. With --on-leave kill the others end at once.
func torchKilled(t *testing.T, bin string) {
	dir, at := t.TempDir(), serve(t, bin)
	script(t, dir, "compute.py", `
import os, time, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
print(os.getpid(), flush=True)
time.sleep(3600)
`)
	parts := job(t, dir, bin, "watch", at, "compute", "--port", "0", "--min", "4", "--exactly", "--on-leave", "kill", "--", python, "compute.py")
	var pids []int
	for _, p := range parts {
		eventually(t, func() error {
			pid, err := strconv.Atoi(strings.TrimSpace(p.output(t, "stdout")))
			pids = append(pids, pid)
			return err
		}, p)
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == 0 })
	killed := time.Now()
	must(t, syscall.Kill(pids[2], syscall.SIGKILL))
	for i, p := range parts {
		want := 6
		if i == 2 {
			want = 137
		}
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("part %d has not ended %v after another one was killed", i, patience)
		}
		if exit, ok := errors.AsType[*exec.ExitError](p.err); !ok || exit.ExitCode() != want {
			t.Errorf("part %d: %v, want exit code %d", i, p.err, want)
		}
	}
	took := time.Since(killed)
	t.Logf("a job of torch was over %v after one of its ranks was killed", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("that is too long: about a second is usual")
	}
}

// openMPI is a job on two machines with two slots each. Rank 0 runs mpirun over the host file that
// ntrack has written, and the others wait for its end. mpirun starts its daemon on the other machine by
// an agent, which is a shell in the network of that machine here, and ssh elsewhere.
func openMPI(t *testing.T, bin string) {
	a, b := namespaces(t)
	machines := map[string]string{"10.0.0.1": a, "10.0.0.2": b}
	for addr, net := range machines {
		ip(t, "-n", net, "addr", "add", addr+"/24", "dev", "veth0")
	}
	dir := t.TempDir()
	script(t, dir, "agent", `#!/bin/sh
host=$1; shift
case $host in 10.0.0.1) net=`+a+`;; 10.0.0.2) net=`+b+`;; *) echo "no machine $host" >&2; exit 1;; esac
exec ip netns exec $net sh -c "$*"
`)
	script(t, dir, "sum.py", `
from mpi4py import MPI
c = MPI.COMM_WORLD
print(f"rank {c.rank} of {c.size}: {c.allreduce(c.rank + 1)}\n", end="", flush=True)
`)
	script(t, dir, "part.sh", `
if [ "$NTRACK_RANK" = 0 ]; then
	mpirun --hostfile hosts `+python+` sum.py
else
	ntrack watch -- "$NTRACK_KEY" | grep -qx "leave ${NTRACK_PEERS%% *}"
fi
`)
	const at = "10.0.0.1:6969"
	file := filepath.Join(dir, "addr")
	tracker := start(t, dir, "ip", "netns", "exec", a, bin, "serve", "--listen", at, "--addr-file", file)
	eventually(t, func() error {
		_, err := os.Stat(file)
		return err
	}, tracker)

	began := time.Now()
	var parts []*program
	for _, net := range []string{a, b, a, b} {
		parts = append(parts, start(t, dir, "ip", "netns", "exec", net,
			"env", "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"),
			"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "OMPI_MCA_plm_rsh_agent="+filepath.Join(dir, "agent"),
			"OMPI_MCA_btl=self,tcp", // both machines have one name here, but they share no memory
			bin, "watch", at, "sum", "--port", "0", "--min", "4", "--exactly", "--on-leave", "kill",
			"--format", "{{.IP}}", "--to", "hosts", "--", "sh", "part.sh"))
	}
	for _, p := range parts {
		p.wait(t)
	}
	t.Logf("a job of openmpi on two machines took %v", time.Since(began).Round(time.Millisecond))
	if got, want := outputs(t, parts), "rank 0 of 4: 10\nrank 1 of 4: 10\nrank 2 of 4: 10\nrank 3 of 4: 10\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// job starts the same command line four times.
func job(t *testing.T, dir, name string, args ...string) (parts []*program) {
	t.Helper()
	for range 4 {
		parts = append(parts, start(t, dir, name, args...))
	}
	return parts
}

// outputs are all lines of standard output, sorted.
func outputs(t *testing.T, parts []*program) string {
	t.Helper()
	var lines []string
	for _, p := range parts {
		lines = slices.AppendSeq(lines, strings.Lines(p.output(t, "stdout")))
	}
	slices.Sort(lines)
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" }), "")
}

func script(t *testing.T, dir, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
}
