package valkeytest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// masterName is the name by which sentinels know the master.
const masterName = "ntrack"

// slots is the number of slots of a cluster.
const slots = 16384

// makeCluster makes a cluster of the nodes: the first are the masters, with as many slots each.
func (e *Engine) makeCluster() {
	e.t.Helper()
	masters := e.Nodes[:e.options.Masters]
	for i, n := range masters {
		first, next := i*slots/len(masters), (i+1)*slots/len(masters)
		n.Must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(next-1))
		n.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for _, n := range e.Nodes[1:] {
		e.Nodes[0].Must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(n.port), strconv.Itoa(n.busPort))
	}
	for _, n := range e.Nodes {
		e.await("the nodes of the cluster", func() error {
			if known := len(n.nodes()); known != len(e.Nodes) {
				return fmt.Errorf("%s knows %d of %d", n.Addr, known, len(e.Nodes))
			}
			return nil
		})
	}
	for i, n := range e.Nodes[len(masters):] {
		n.Must("CLUSTER", "REPLICATE", masters[i%len(masters)].id())
	}
	for _, n := range e.Nodes[len(masters):] {
		n.awaitLink()
	}
	for _, n := range e.Nodes {
		e.await("the cluster", n.clusterState)
	}
	// A client that asks any of the nodes must get all of them.
	for _, n := range e.Nodes {
		e.await("the roles", func() error {
			text := n.Must("CLUSTER", "NODES").(string)
			if got, want := strings.Count(text, "slave "), len(e.Nodes)-len(masters); got != want {
				return fmt.Errorf("%s knows %d of %d replicas", n.Addr, got, want)
			}
			return nil
		})
	}
}

// clusterState returns an error until the node says that every slot is served.
func (n *Node) clusterState() error {
	reply, err := n.Do("CLUSTER", "INFO")
	if err != nil {
		return err
	}
	if text, _ := reply.(string); !strings.Contains(text, "cluster_state:ok") {
		return errors.New(text)
	}
	return nil
}

// nodes returns the lines of CLUSTER NODES about nodes whose names are known.
func (n *Node) nodes() (lines []string) {
	n.engine.t.Helper()
	for line := range strings.Lines(n.Must("CLUSTER", "NODES").(string)) {
		if !strings.Contains(line, "handshake") && !strings.Contains(line, "noaddr") {
			lines = append(lines, line)
		}
	}
	return lines
}

// id returns the name of a node in its cluster.
func (n *Node) id() string {
	n.engine.t.Helper()
	return n.Must("CLUSTER", "MYID").(string)
}

// serves reports whether the node itself has the slot of a key.
func (n *Node) serves(key string) bool {
	_, err := n.Do("EXISTS", key)
	return err == nil
}

// MoveSlot moves the slot of a key, with all that is in it, from its master to another.
func (e *Engine) MoveSlot(key string, to *Node) {
	e.t.Helper()
	from := e.Master(key)
	if from == to {
		return
	}
	slot := strconv.FormatInt(from.Must("CLUSTER", "KEYSLOT", key).(int64), 10)
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.id())
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id())
	for {
		keys := from.Must("CLUSTER", "GETKEYSINSLOT", slot, "100").([]any)
		if len(keys) == 0 {
			break
		}
		args := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.port), "", "0", "5000"}
		if e.options.Password != "" {
			args = append(args, "AUTH2", admin, adminPassword)
		}
		args = append(args, "KEYS")
		for _, k := range keys {
			args = append(args, k.(string))
		}
		from.Must(args...)
	}
	id := to.id()
	to.Must("CLUSTER", "SETSLOT", slot, "NODE", id)
	from.Must("CLUSTER", "SETSLOT", slot, "NODE", id)
	for _, n := range e.Nodes {
		if n != to && n != from && !n.away() {
			_, _ = n.Do("CLUSTER", "SETSLOT", slot, "NODE", id) // a replica refuses, and learns it from its master
		}
	}
}

// awaitSentinels waits until the sentinels know each other and the replicas.
func (e *Engine) awaitSentinels() {
	e.t.Helper()
	for _, n := range e.Sentinels { // usually they look for each other every 2 s, and for replicas every 10 s
		n.Must("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "100")
	}
	for _, n := range e.Sentinels {
		e.await("the sentinels", func() error {
			reply, err := n.Do("SENTINEL", "MASTER", masterName)
			if err != nil {
				return err
			}
			fields, _ := reply.([]any)
			known := map[string]string{}
			for i := 0; i+1 < len(fields); i += 2 {
				name, _ := fields[i].(string)
				known[name], _ = fields[i+1].(string)
			}
			if known["flags"] != "master" || known["num-slaves"] != strconv.Itoa(e.options.Replicas) ||
				known["num-other-sentinels"] != strconv.Itoa(len(e.Sentinels)-1) {
				return fmt.Errorf("%s knows a %s with %s replicas and %s sentinels", n.Addr, known["flags"], known["num-slaves"], known["num-other-sentinels"])
			}
			return nil
		})
	}
	// The other sentinels see a new master before the one that leads the failover does, which looks every
	// second. After four periods without news of it they make the new master a replica again.
	for _, n := range e.Sentinels {
		n.Must("SENTINEL", "DEBUG", "PUBLISH-PERIOD", "1000")
	}
}
