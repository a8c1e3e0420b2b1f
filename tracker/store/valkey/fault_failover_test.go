package valkey_test

import (
	"testing"

	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// The master is killed, and the sentinels put a replica in its place. Meanwhile calls are refused. Then
// everything continues.
func TestFaultSentinelFailover(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{Replicas: 1, Sentinels: 3})
	l := startLoad(t, open(t, valkey.Config{URL: engine.URL()}), open(t, valkey.Config{URL: engine.URL()}))
	l.flows()
	engine.Master("").Kill()
	refusedNow(t, l)
	engine.Master("")
	l.flows()
	l.settle()
}

// A master of a cluster is killed, and its replica takes its place. Then another master becomes a
// replica.
func TestFaultClusterFailover(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{Program: valkeytest.Valkey, Masters: 3, Replicas: 1})
	l := startLoad(t, open(t, valkey.Config{URL: engine.URL()}), open(t, valkey.Config{URL: engine.URL()}))
	l.flows()
	first, second := keysOf(t, engine.Nodes[0]), keysOf(t, engine.Nodes[1])
	engine.Nodes[0].Kill()
	refusedNow(t, l)
	engine.Master(first[0])
	l.flows()
	engine.Failover(second[0])
	l.flows()
	l.settle()
}

// Slots move from one master of a cluster to another while trackers watch tracks in them.
func TestFaultSlotsMove(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{Program: valkeytest.Valkey, Masters: 3})
	l := startLoad(t, open(t, valkey.Config{URL: engine.URL()}), open(t, valkey.Config{URL: engine.URL()}))
	l.flows()
	for _, key := range keysOf(t, engine.Nodes[0]) {
		engine.MoveSlot(key, engine.Nodes[1])
	}
	l.flows()
	l.settle()
}

// keysOf returns the keys that a node has of tracks.
func keysOf(t *testing.T, n *valkeytest.Node) (keys []string) {
	t.Helper()
	for _, key := range n.Must("KEYS", "*track*").([]any) {
		keys = append(keys, key.(string))
	}
	if len(keys) == 0 {
		t.Fatalf("%s has no track", n.Addr)
	}
	return keys
}
