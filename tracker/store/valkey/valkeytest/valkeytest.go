// Package valkeytest starts real Redis and Valkey servers for tests: a single server, a server with
// sentinels, or a cluster.
//
//	engine := valkeytest.Start(t, valkeytest.Options{})
//	s, err := valkey.Open(ctx, valkey.Config{URL: engine.URL()})
//
// The servers listen on free ports of 127.0.0.1, have a folder of their own, and end with the test,
// even if the test process is killed. If the test fails, it shows the end of their logs.
package valkeytest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A Program is the server that a test starts.
type Program string

// The programs. $NTRACK_VALKEY names the file of Valkey's server, and $PATH has the others.
const (
	Redis  Program = "redis-server"
	Valkey Program = "valkey-server"
)

// patience bounds every wait for a server.
const patience = 30 * time.Second

// Options say what Start starts. The zero value is a single Redis server without a password, which
// writes nothing to the disk.
type Options struct {
	Program Program // "" is Redis
	// Masters is the number of masters of a cluster; 0 is no cluster.
	Masters int
	// Replicas is the number of replicas of each master.
	Replicas int
	// Sentinels is the number of sentinels that watch the master, which they call "ntrack". 0 is none.
	Sentinels int
	// NodeTimeout is the time after which sentinels, or the other nodes of a cluster, replace a master
	// that does not answer. 0 is 2 seconds.
	NodeTimeout time.Duration
	// TLS makes the servers accept only TLS. Engine.CA is the file of the authority of their
	// certificate. PyPI's Valkey has no TLS.
	TLS bool
	// User and Password are of the only user who may log in. Rules are its rights, as in "ACL
	// SETUSER"; "" are all rights. Sentinels accept everyone.
	User, Password, Rules string
	// Durable makes the servers write each change to the disk.
	Durable bool
	// Config has more lines for the servers' file of settings, such as "maxmemory 20mb".
	Config []string
	// Env has more environment variables of the servers, such as "LD_PRELOAD=/a/file.so".
	Env []string
}

// An Engine is one server, or several that belong together.
type Engine struct {
	// Nodes are the servers without the sentinels. The masters that the engine begins with are the
	// first.
	Nodes     []*Node
	Sentinels []*Node
	// CA is the file with the certificate of the authority, if the servers use TLS.
	CA string

	options Options
	program string
	tls     *certificates
	t       testing.TB
}

// Start starts servers, and waits until they are ready. A missing program skips the test. It fails the
// test if $NTRACK_INTEROP is 1.
func Start(t testing.TB, o Options) *Engine {
	t.Helper()
	if o.NodeTimeout == 0 {
		o.NodeTimeout = 2 * time.Second
	}
	e := &Engine{options: o, program: find(t, o.Program), t: t}
	if o.TLS {
		e.tls = makeCertificates(t)
		e.CA = e.tls.caFile
	}
	masters := max(1, o.Masters)
	for range masters * (1 + o.Replicas) {
		e.Nodes = append(e.Nodes, e.start(false))
	}
	switch {
	case o.Masters > 0:
		e.makeCluster()
	case o.Replicas > 0:
		for _, n := range e.Nodes[1:] {
			n.Must("REPLICAOF", "127.0.0.1", strconv.Itoa(e.Nodes[0].port))
			n.awaitLink()
		}
	}
	for range o.Sentinels {
		e.Sentinels = append(e.Sentinels, e.start(true))
	}
	e.awaitSentinels()
	return e
}

// find returns the path of a program.
func find(t testing.TB, p Program) string {
	t.Helper()
	if p == "" {
		p = Redis
	}
	name := string(p)
	if own := os.Getenv("NTRACK_VALKEY"); p == Valkey && own != "" {
		name = own
	}
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, err)
	}
	return path
}

// Missing skips the test because something is not installed. If $NTRACK_INTEROP is 1, it fails the test.
func Missing(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("NTRACK_INTEROP") == "1" {
		t.Fatalf("%v; .ci/run installs it", err)
	}
	t.Skipf("%v; .ci/run installs it", err)
}

// URL returns the URL of the engine, with the user and its password. It names every server, so that a
// client can connect while one is away.
func (e *Engine) URL() string {
	u := url.URL{Scheme: "valkey", Host: e.Nodes[0].Addr}
	nodes := e.Nodes
	query := url.Values{}
	if len(e.Sentinels) > 0 {
		nodes = e.Sentinels
		u.Host = nodes[0].Addr
		query.Set("master_set", masterName)
	} else if e.options.Masters == 0 {
		nodes = nodes[:1]
	}
	for _, n := range nodes[1:] {
		query.Add("addr", n.Addr)
	}
	if e.options.TLS {
		u.Scheme = "valkeys"
	}
	if e.options.User != "" || e.options.Password != "" {
		u.User = url.UserPassword(e.options.User, e.options.Password)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// Master returns the node that has the slot of a key, or the master if the engine is no cluster. It
// fails the test if there is none within half a minute.
func (e *Engine) Master(key string) *Node {
	e.t.Helper()
	var found *Node
	e.await("a master", func() error {
		for _, n := range e.Nodes {
			if n.away() {
				continue
			}
			reply, err := n.Do("ROLE")
			if err != nil {
				continue
			}
			role, _ := reply.([]any)
			if len(role) == 0 || role[0] != "master" {
				continue
			}
			if e.options.Masters > 0 && !n.serves(key) {
				continue
			}
			found = n
			return nil
		}
		return fmt.Errorf("no node is the master of %q", key)
	})
	return found
}

// Failover makes a replica of the master that has the key the master instead, while both are alive. It
// returns the new master.
func (e *Engine) Failover(key string) *Node {
	e.t.Helper()
	old := e.Master(key)
	switch {
	case len(e.Sentinels) > 0:
		e.await("the sentinels' consent", func() error {
			_, err := e.Sentinels[0].Do("SENTINEL", "FAILOVER", masterName)
			return err
		})
	case e.options.Masters > 0:
		for _, n := range e.Nodes {
			if !n.away() && strings.Contains(n.Must("INFO", "replication").(string), fmt.Sprintf("master_port:%d\r", old.port)) {
				n.awaitLink()
				n.Must("CLUSTER", "FAILOVER")
				break
			}
		}
	default:
		e.t.Fatal("a single server has no failover")
	}
	var master *Node
	e.await("the new master", func() error {
		if master = e.Master(key); master == old {
			return fmt.Errorf("%s is still the master", old.Addr)
		}
		return nil
	})
	return master
}

// Kill kills the server without a warning. Of several it kills the first.
func (e *Engine) Kill() { e.Nodes[0].Kill() }

// Suspend makes the server stand still, with its connections open. Of several it suspends the first.
func (e *Engine) Suspend() { e.Nodes[0].Suspend() }

// Resume ends Suspend.
func (e *Engine) Resume() { e.Nodes[0].Resume() }

// Restart starts the server again after Kill, or kills it first. See [Node.Restart].
func (e *Engine) Restart(keepData bool) { e.Nodes[0].Restart(keepData) }

// Must sends a command to the first server. See [Node.Must].
func (e *Engine) Must(args ...string) any {
	e.t.Helper()
	return e.Nodes[0].Must(args...)
}

// UsedCPU returns the processor time that all nodes have used since they started.
func (e *Engine) UsedCPU() time.Duration {
	e.t.Helper()
	var sum float64
	for _, n := range e.Nodes {
		for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
			seconds, err := strconv.ParseFloat(n.Info("cpu", name), 64)
			if err != nil {
				e.t.Fatal(err)
			}
			sum += seconds
		}
	}
	return time.Duration(sum * float64(time.Second))
}

// UsedMemory returns the bytes that all nodes have allocated.
func (e *Engine) UsedMemory() int {
	e.t.Helper()
	sum := 0
	for _, n := range e.Nodes {
		bytes, err := strconv.Atoi(n.Info("memory", "used_memory"))
		if err != nil {
			e.t.Fatal(err)
		}
		sum += bytes
	}
	return sum
}

// await repeats try until it succeeds.
func (e *Engine) await(what string, try func() error) {
	e.t.Helper()
	end := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			e.t.Fatalf("waiting for %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // between two questions to another process
	}
}
