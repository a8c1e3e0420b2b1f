//go:build linux

package interop_test

import (
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const unitFile = "../packaging/ntrack.service"

// unit writes the unit file with this program in place of /usr/bin/ntrack, which is not installed here.
func unit(t *testing.T, bin string) (file string) {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	must(t, err)
	file = filepath.Join(t.TempDir(), filepath.Base(unitFile))
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/bin/ntrack", bin)), 0o644))
	return file
}

// systemd understands every line of the unit file, and rates how much the service may do, from 0 to 10.
// 1.4 is what is left for a program that serves the internet below port 1024.
func systemdUnit(t *testing.T, bin string) {
	file := unit(t, bin)
	socket, err := os.ReadFile("../packaging/ntrack.socket")
	must(t, err)
	socketFile := filepath.Join(filepath.Dir(file), "ntrack.socket")
	must(t, os.WriteFile(socketFile, socket, 0o644))
	for _, args := range [][]string{
		{"verify", "--man=no", file, socketFile}, // the manual page is not installed here
		{"security", "--offline=true", "--threshold=14", "--no-pager", file},
	} {
		stdout, stderr, code := run(t, "systemd-analyze", args...)
		if code != 0 || stderr != "" {
			t.Errorf("systemd-analyze %q: exit code %d\n%s%s", args, code, stderr, stdout)
		}
	}
}

// The service of docs/operating.md works: this test does what systemd does with the unit file, and what the
// reader does to check the tracker. The tracker has free ports, and reads a certificate of the test where
// systemd would have put that of the operator.
func operatingService(t *testing.T, bin string) {
	text, err := os.ReadFile(unitFile)
	must(t, err)
	setting := func(name string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("the unit file has no %s=", name)
		}
		return m[1]
	}
	port, secure, admin, state := freePort(t), freePort(t), freePort(t), t.TempDir()
	both := filepath.Join(t.TempDir(), "both.pem")
	writeCertificate(t, both)
	here := strings.NewReplacer("6969", port, ":443", ":"+secure, "9696", admin,
		"/run/credentials/ntrack.service/ntrack.crt", both, "/run/credentials/ntrack.service/ntrack.key", both, "tracker.example", "127.0.0.1", "/usr/bin/ntrack", bin, "/var/lib/ntrack", state)
	if file := setting("EnvironmentFile"); file != "-/etc/default/ntrack" {
		t.Errorf("EnvironmentFile=%s", file)
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	must(t, err)
	defer notify.Close()
	variables := append(strings.Fields(here.Replace(operatingBlock(t, "Configure", "sh")+operatingBlock(t, "Add https", "sh"))),
		"NOTIFY_SOCKET="+notify.LocalAddr().String(), "STATE_DIRECTORY="+state)
	tracker := start(t, t.TempDir(), "env", append(variables, strings.Fields(here.Replace(setting("ExecStart")))...)...)
	if setting("Type") != "notify" {
		t.Error("the unit is not ready when the tracker says so")
	}
	states := make([]byte, 4096)
	must(t, notify.SetReadDeadline(time.Now().Add(patience)))
	until := func(want string) {
		t.Helper()
		for {
			n, err := notify.Read(states)
			if err != nil {
				t.Fatalf("%v before %s", err, want)
			}
			if slices.Contains(strings.Split(string(states[:n]), "\n"), want) {
				return
			}
		}
	}
	until("READY=1")
	command := strings.Fields(here.Replace(operatingBlock(t, "Check", "sh")))
	stdout, stderr, code := run(t, bin, command[1:]...)
	if code != 0 || !strings.Contains(stdout, "127.0.0.1:4000") {
		t.Errorf("%q: exit code %d\n%s%s", command, code, stdout, stderr)
	}
	expect(t, endpoints("4000"), "env", "SSL_CERT_FILE="+both, bin, "list", "https://127.0.0.1:"+secure, "lobby", "-q")
	reply, err := http.Get("http://127.0.0.1:" + admin + "/readyz")
	must(t, err)
	must(t, reply.Body.Close())
	if reply.StatusCode != http.StatusOK {
		t.Errorf("readyz: status %s", reply.Status)
	}
	lines := strings.Split(strings.TrimSpace(operatingBlock(t, "Start", "text")), "\n")
	open := tracker.output(t, "stderr") // without https, because the reader adds that later
	open = regexp.MustCompile(` https [^;]*;`).ReplaceAllString(open, "")
	if want := here.Replace(lines[len(lines)-1]) + "\n"; !strings.Contains(open, want) {
		t.Errorf("the tracker prints\n%s\nwant\n%s", open, want)
	}
	if reload := setting("ExecReload"); reload != "/bin/kill -HUP $MAINPID" {
		t.Errorf("ExecReload=%s", reload)
	}
	must(t, tracker.cmd.Process.Signal(syscall.SIGHUP))
	until("RELOADING=1")
	until("READY=1")
	must(t, tracker.cmd.Process.Signal(syscall.SIGTERM))
	until("STOPPING=1")
	tracker.wait(t)
}

// The system calls of a tracker at work are among those that the unit file allows.
func systemCalls(t *testing.T, bin string) {
	text, err := os.ReadFile(unitFile)
	must(t, err)
	allowed := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^SystemCallFilter=(~?)(.+)$`).FindAllStringSubmatch(string(text), -1) {
		for group := range strings.FieldsSeq(line[2]) {
			for call := range callsOf(t, group) {
				allowed[call] = line[1] == ""
			}
		}
	}
	if !allowed["accept4"] || allowed["reboot"] {
		t.Fatalf("the unit file allows accept4: %v, reboot: %v", allowed["accept4"], allowed["reboot"])
	}

	traces := filepath.Join(t.TempDir(), "trace")
	addrs := filepath.Join(t.TempDir(), "addr")
	tracker := start(t, t.TempDir(), "strace", "-f", "-qq", "-e", "signal=none", "-o", traces,
		bin, "serve", "--listen", "127.0.0.1:0", "--addr-file", addrs)
	var addr string
	eventually(t, func() error {
		b, err := os.ReadFile(addrs)
		addr = strings.TrimSpace(string(b))
		return err
	}, tracker)
	stay := start(t, t.TempDir(), bin, "announce", addr, "room", "--port", "4000", "--stay")
	listed(t, addr, "", "127.0.0.1:4000")
	must(t, stay.cmd.Process.Signal(syscall.SIGINT))
	<-stay.done
	must(t, syscall.Kill(childOf(t, tracker.cmd.Process.Pid), syscall.SIGTERM))
	tracker.wait(t)

	trace, err := os.ReadFile(traces)
	must(t, err)
	made := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?([a-z]\w*)`).FindAllStringSubmatch(string(trace), -1) {
		made[m[1]] = true
	}
	if !made["epoll_ctl"] || !made["accept4"] {
		t.Errorf("the tracker made the system calls %v", slices.Sorted(maps.Keys(made)))
	}
	for call := range made {
		if !allowed[call] {
			t.Errorf("the unit file does not allow %s", call)
		}
	}
}

// callsOf returns the system calls of a group of systemd, such as @system-service.
func callsOf(t *testing.T, group string) map[string]bool {
	t.Helper()
	stdout, stderr, code := run(t, "systemd-analyze", "syscall-filter", "--no-pager", group)
	if code != 0 {
		t.Fatalf("systemd-analyze syscall-filter %s: %s", group, stderr)
	}
	calls := make(map[string]bool)
	for line := range strings.SplitSeq(stdout, "\n") {
		switch name := strings.TrimSpace(line); {
		case name == group, name == "", strings.HasPrefix(name, "#"):
		case strings.HasPrefix(name, "@"):
			maps.Copy(calls, callsOf(t, name))
		default:
			calls[name] = true
		}
	}
	return calls
}

// childOf returns the only child of a process.
func childOf(t *testing.T, pid int) (child int) {
	t.Helper()
	tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/children"))
	must(t, err)
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		must(t, err)
		for field := range strings.FieldsSeq(string(b)) {
			child, err = strconv.Atoi(field)
			must(t, err)
		}
	}
	return child
}
