//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ntrack/announce/wire"
	"ntrack/bench/measure"
)

// A rival is a server process that is measured.
type rival struct {
	name      string
	port      int
	procs     int  // GOMAXPROCS; 0 if it is no Go program
	keepAlive bool // it can keep connections
	listsSelf bool // see population.check
	floor     bool
	*measure.Child
}

// nobody is the user id for opentracker if bench runs as root. As root it would change its root
// directory and not find its files.
const nobody = 65534

// spawn starts a program on the CPU cpu; home is the CPU of this thread. It must be called from a
// locked thread: the child gets that thread's CPUs and ends with it.
func spawn(name string, cpu, home int, cmd *exec.Cmd) (*rival, error) {
	c, err := measure.Spawn(cmd, cpu, home)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &rival{name: name, Child: c}, nil
}

// spawnRole starts this program again, in a role.
func spawnRole(name string, cpu, home int, args ...string) (*rival, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return spawnRoleOf(self, name, cpu, home, args...)
}

// spawnRoleOf starts this program, or another build of it, in a role.
func spawnRoleOf(program, name string, cpu, home int, args ...string) (*rival, error) {
	cmd := exec.Command(program, append([]string{"role"}, args...)...)
	procs := 1
	if name == "ntrack-2" {
		procs = 2
	}
	cmd.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", procs))
	if name == "floor" {
		cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1") // no signals
	}
	s, err := spawn(name, cpu, home, cmd)
	if err != nil {
		return nil, err
	}
	s.procs = procs
	if name != "memory" {
		if s.port, err = s.number(); err != nil {
			s.stop()
		}
	}
	return s, err
}

// number reads a number, which is the next line of the child's output.
func (s *rival) number() (int, error) {
	line, err := s.Out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.name, err)
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// command sends a command to the child and returns how long it took.
func (s *rival) command(line string) (time.Duration, error) {
	if _, err := io.WriteString(s.In, line+"\n"); err != nil {
		return 0, fmt.Errorf("%s: %w", s.name, err)
	}
	n, err := s.number()
	return time.Duration(n), err
}

// spawnOpentracker starts opentracker as Debian builds it. It serves only the keys in a file.
func spawnOpentracker(cpu, home int, keys int) (*rival, error) {
	file, err := os.CreateTemp("", "ntrack-bench-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var list strings.Builder
	for k := range keys {
		fmt.Fprintf(&list, "%x\n", infoHash(k))
	}
	if _, err := file.WriteString(list.String()); err != nil {
		return nil, err
	}
	if err := file.Chmod(0o644); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	// The file is inherited, so that the child can read it without access to its directory.
	cmd := exec.Command("opentracker", "-i", "127.0.0.1", "-p", strconv.Itoa(port), "-w", "/dev/fd/3")
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = io.Discard
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	s, err := spawn("opentracker", cpu, home, cmd)
	if err != nil {
		return nil, err
	}
	s.port, s.listsSelf = port, true
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := s.admits(keys - 1)
		if err == nil {
			return s, nil
		}
		if time.Now().After(deadline) {
			s.stop()
			return nil, err
		}
	}
}

// admits returns an error unless opentracker answers for a key. It listens before it has read the
// list of keys. The request is a leave of a peer that is not there, so it changes nothing.
func (s *rival) admits(key int) error {
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.port))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	hash := infoHash(key)
	request := append([]byte("GET /announce?port=1&event=stopped&peer_id=-XX0000-xxxxxxxxxxxx&info_hash="), wire.AppendEscaped(nil, hash[:])...)
	if _, err := c.Write(append(request, " HTTP/1.0\r\n\r\n"...)); err != nil {
		return err
	}
	reply, err := io.ReadAll(c)
	if err == nil && strings.Contains(string(reply), "failure reason") {
		err = fmt.Errorf("opentracker refuses a key of its list: %q", reply)
	}
	return err
}

// pause and resume stop a server while another one is measured.
func (s *rival) pause() error  { return syscall.Kill(s.PID, syscall.SIGSTOP) }
func (s *rival) resume() error { return syscall.Kill(s.PID, syscall.SIGCONT) }

// stop ends the process. A child in a role ends when its standard input does.
func (s *rival) stop() {
	_ = s.resume()
	if s.name == "opentracker" || s.floor {
		s.Kill()
	}
	s.Stop()
}
