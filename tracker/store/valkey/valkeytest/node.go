package valkeytest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Node is one server.
type Node struct {
	Addr string // its host and port

	port, busPort int
	sentinel      bool
	dir           string
	engine        *Engine

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil while the server is not running
	ended chan struct{} // closed when cmd has ended
	conn  *Conn
}

// start starts a server on free ports, and waits until it answers.
func (e *Engine) start(sentinel bool) *Node {
	e.t.Helper()
	n := &Node{sentinel: sentinel, dir: e.t.TempDir(), engine: e}
	e.t.Cleanup(func() {
		n.Kill()
		if e.t.Failed() {
			e.t.Logf("the log of %s:\n%s", n.Addr, n.logEnd())
		}
	})
	for range 10 {
		n.port, n.busPort = freePort(e.t), freePort(e.t)
		n.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port))
		if n.run() {
			return n
		}
	}
	e.t.Fatalf("the server finds no free port:\n%s", n.logEnd())
	return nil
}

// freePort returns a port below those that the kernel gives to clients, and below those of the tests of other
// packages. So only another freePort can take it.
func freePort(t interface{ Fatal(...any) }) int {
	for range 1000 {
		port := 10_000 + rand.IntN(10_000)
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// run starts the server, and returns false if one of its ports is in use.
func (n *Node) run() bool {
	t := n.engine.t
	t.Helper()
	file := filepath.Join(n.dir, "server.conf")
	if _, err := os.Stat(file); err != nil || n.conn == nil { // a sentinel keeps what it knows there
		if err := os.WriteFile(file, []byte(strings.Join(n.settings(), "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	began, err := log.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if n.sentinel {
		args = append(args, "--sentinel")
	}
	cmd := exec.Command(n.engine.program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	cmd.Env = append(os.Environ(), n.engine.options.Env...)
	dieWithParent(cmd)
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the server dies with the thread that started it
		// Otherwise the thread ends with this goroutine. What it has started before would die with it.
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.cmd, n.ended = cmd, ended
	n.mu.Unlock()
	end := time.Now().Add(patience)
	for {
		if _, err = n.Do("PING"); err == nil && (n.sentinel || n.Info("persistence", "loading") == "0") {
			return true
		}
		select {
		case <-ended:
			all, _ := os.ReadFile(log.Name())
			if bytes.Contains(all[began:], []byte("already in use")) || bytes.Contains(all[began:], []byte("Failed listening")) {
				return false
			}
			t.Fatalf("the server ended at its start:\n%s", n.logEnd())
		case <-time.After(10 * time.Millisecond): // between two questions to another process
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not answer: %v\n%s", err, n.logEnd())
		}
	}
}

// settings returns the lines of the server's file of settings.
func (n *Node) settings() []string {
	o := n.engine.options
	lines := []string{"bind 127.0.0.1", "dir " + n.dir, "daemonize no"}
	if o.TLS {
		lines = append(lines, "port 0", fmt.Sprintf("tls-port %d", n.port), "tls-auth-clients no", "tls-replication yes",
			"tls-cluster yes", "tls-cert-file "+n.engine.tls.certFile, "tls-key-file "+n.engine.tls.keyFile, "tls-ca-cert-file "+n.engine.tls.caFile)
	} else {
		lines = append(lines, fmt.Sprintf("port %d", n.port))
	}
	if n.sentinel {
		master := n.engine.Nodes[0]
		lines = append(lines,
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d %d", masterName, master.port, o.Sentinels/2+1),
			fmt.Sprintf("sentinel down-after-milliseconds %s %d", masterName, o.NodeTimeout.Milliseconds()),
			fmt.Sprintf("sentinel failover-timeout %s %d", masterName, 5*o.NodeTimeout.Milliseconds()))
		if o.Password != "" {
			lines = append(lines, fmt.Sprintf("sentinel auth-user %s admin", masterName), fmt.Sprintf("sentinel auth-pass %s %s", masterName, adminPassword))
		}
		return lines
	}
	lines = append(lines, `save ""`, "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
	if o.Durable {
		lines = append(lines, "appendonly yes", "appendfsync everysec")
	}
	if o.Masters > 0 {
		lines = append(lines, "cluster-enabled yes", fmt.Sprintf("cluster-port %d", n.busPort),
			fmt.Sprintf("cluster-node-timeout %d", o.NodeTimeout.Milliseconds()), "cluster-replica-validity-factor 0")
	}
	if o.Password != "" {
		rules := o.Rules
		if rules == "" {
			rules = "~* &* +@all"
		}
		user := o.User
		if user == "" {
			user = "default"
		}
		lines = append(lines, fmt.Sprintf("user %s on >%s %s", user, o.Password, rules),
			fmt.Sprintf("user %s on >%s ~* &* +@all", admin, adminPassword), "masteruser "+admin, "masterauth "+adminPassword)
		if user != "default" {
			lines = append(lines, "user default off")
		}
	}
	return append(lines, o.Config...)
}

// Tests send their own commands as this user, if the servers have users.
const admin, adminPassword = "admin", "of-tests"

// Kill kills the server without a warning, and returns when it has ended. It does nothing if the server
// is not running.
func (n *Node) Kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		<-n.ended
		n.cmd = nil
	}
	n.disconnect()
}

// Restart starts the server on the same ports, after it killed it. Without keepData, its data are
// removed first. With keepData it has what it wrote to the disk; see [Options.Durable]. A node of a cluster
// keeps its slots either way.
func (n *Node) Restart(keepData bool) {
	n.engine.t.Helper()
	n.Kill()
	if !keepData {
		for _, name := range []string{"appendonlydir", "dump.rdb", "appendonly.aof"} {
			if err := os.RemoveAll(filepath.Join(n.dir, name)); err != nil {
				n.engine.t.Fatal(err)
			}
		}
	}
	n.engine.await("the ports of "+n.Addr, func() error {
		if !n.run() {
			return errors.New("they are in use")
		}
		return nil
	})
	if n.engine.options.Masters > 0 {
		n.engine.await("the cluster", n.clusterState)
	}
}

// Suspend makes the server stand still, with its connections open.
func (n *Node) Suspend() { n.signal(suspend) }

// Resume ends Suspend.
func (n *Node) Resume() { n.signal(resume) }

func (n *Node) signal(send func(*os.Process) error) {
	n.engine.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		n.engine.t.Fatalf("%s is not running", n.Addr)
	}
	if err := send(n.cmd.Process); err != nil {
		n.engine.t.Fatal(err)
	}
}

// PID returns the id of the server's process.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		n.engine.t.Fatalf("%s is not running", n.Addr)
	}
	return n.cmd.Process.Pid
}

func (n *Node) away() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd == nil
}

// Do sends a command with all rights, and returns its reply: a string, an int64, nil, or an []any of
// these. An error reply is an error.
func (n *Node) Do(args ...string) (any, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		user, password := "", ""
		if n.engine.options.Password != "" && !n.sentinel {
			user, password = admin, adminPassword
		}
		c, err := Dial(n.Addr, n.engine.tls.client(), user, password)
		if err != nil {
			return nil, err
		}
		n.conn = c
	}
	reply, err := n.conn.Do(args...)
	if _, refused := err.(ErrorReply); err != nil && !refused {
		n.disconnect()
	}
	return reply, err
}

// disconnect forgets the connection. The caller holds n.mu.
func (n *Node) disconnect() {
	if n.conn != nil {
		n.conn.Close()
		n.conn = nil
	}
}

// Must sends a command as Do does. An error fails the test.
func (n *Node) Must(args ...string) any {
	n.engine.t.Helper()
	reply, err := n.Do(args...)
	if err != nil {
		n.engine.t.Fatalf("%s: %s: %v", n.Addr, strings.Join(args, " "), err)
	}
	return reply
}

// Info returns a value of the reply to INFO, or "" if there is none.
func (n *Node) Info(section, name string) string {
	reply, err := n.Do("INFO", section)
	if err != nil {
		return ""
	}
	text, _ := reply.(string)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// awaitLink waits until a replica has the data of its master.
func (n *Node) awaitLink() {
	n.engine.t.Helper()
	n.engine.await("the replica "+n.Addr, func() error {
		if state := n.Info("replication", "master_link_status"); state != "up" {
			return fmt.Errorf("its link is %q", state)
		}
		return nil
	})
}

// logEnd returns the last lines of the server's log.
func (n *Node) logEnd() string {
	all, err := os.ReadFile(filepath.Join(n.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(all), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "")
}
