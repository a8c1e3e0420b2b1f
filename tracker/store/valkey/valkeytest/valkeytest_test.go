package valkeytest

import (
	"fmt"
	"strings"
	"testing"
)

// Each shape of an engine starts, keeps a value, and answers with all its nodes.
func TestStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		o    Options
		url  string // the beginning of the engine's URL
	}{
		{"redis", Options{}, "valkey://127.0.0.1:"},
		{"valkey", Options{Program: Valkey}, "valkey://127.0.0.1:"},
		{"tls and a user", Options{TLS: true, User: "tracker", Password: "a/c"}, "valkeys://tracker:a%2Fc@127.0.0.1:"},
		{"redis cluster", Options{Masters: 3, Replicas: 1, Password: "secret"}, "valkey://:secret@127.0.0.1:"},
		{"valkey cluster", Options{Program: Valkey, Masters: 3}, "valkey://127.0.0.1:"},
		{"sentinels", Options{Replicas: 1, Sentinels: 3, Password: "secret"}, "valkey://:secret@127.0.0.1:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := Start(t, tt.o)
			if !strings.HasPrefix(e.URL(), tt.url) {
				t.Errorf("the URL is %s", e.URL())
			}
			master := e.Master("k")
			master.Must("SET", "k", "v")
			if tt.o.Masters > 0 {
				to := e.Nodes[0]
				if to == master {
					to = e.Nodes[1]
				}
				e.MoveSlot("k", to)
				if master = e.Master("k"); master != to {
					t.Errorf("the slot is at %s after a move to %s", master.Addr, to.Addr)
				}
				to.awaitReplicas(t, tt.o.Replicas)
			}
			if tt.o.Replicas > 0 {
				master.Must("WAIT", fmt.Sprint(tt.o.Replicas), "0") // until they have the value
				master = e.Failover("k")
			}
			if got := master.Must("GET", "k"); got != "v" {
				t.Errorf("the value is %v", got)
			}
			if e.UsedCPU() <= 0 || e.UsedMemory() <= 0 {
				t.Errorf("%v of the processor and %d bytes are used", e.UsedCPU(), e.UsedMemory())
			}
		})
	}
}

// A server comes back on its ports, with its data or without.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Durable: true}, {Durable: true, Masters: 3}} {
		e := Start(t, o)
		n := e.Master("k")
		n.Must("SET", "k", "v")
		n.Must("BGREWRITEAOF") // writes everything, and Restart must not lose it
		e.await("the file", func() error {
			if n.Info("persistence", "aof_rewrite_in_progress") != "0" || n.Info("persistence", "aof_rewrite_scheduled") != "0" {
				return ErrorReply("it is being written")
			}
			return nil
		})
		n.Suspend()
		n.Resume()
		n.Kill()
		if _, err := n.Do("PING"); err == nil {
			t.Fatal("a killed server answers")
		}
		n.Restart(true)
		if got := e.Master("k").Must("GET", "k"); got != "v" {
			t.Errorf("with its data, the value is %v", got)
		}
		n.Restart(false)
		if got := e.Master("k").Must("GET", "k"); got != nil {
			t.Errorf("without its data, the value is %v", got)
		}
	}
}

// awaitReplicas waits until a node has these replicas, and they have its data.
func (n *Node) awaitReplicas(t *testing.T, count int) {
	t.Helper()
	for _, r := range n.engine.Nodes {
		if count > 0 && r.Info("replication", "role") == "slave" {
			r.awaitLink()
		}
	}
}
