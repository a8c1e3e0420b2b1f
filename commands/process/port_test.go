//go:build unix

package process_test

import (
	"net"
	"strconv"
	"testing"

	"ntrack/commands/process"
)

// No program can use a port that is held, over TCP or UDP, and any can once it is released.
func TestHoldPort(t *testing.T) {
	t.Parallel()
	held, err := process.HoldPort()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	port := ":" + strconv.Itoa(int(held.Port))
	use := func() (uses int) {
		for _, at := range []string{port, "127.0.0.1" + port, "[::1]" + port} {
			if l, err := net.Listen("tcp", at); err == nil {
				uses++
				_ = l.Close()
			}
			if l, err := net.ListenPacket("udp", at); err == nil {
				uses++
				_ = l.Close()
			}
		}
		return uses
	}
	if n := use(); n > 0 {
		t.Errorf("other sockets could use the port in %d ways", n)
	}
	// A peer that dials too early is refused.
	if c, err := net.Dial("tcp", "127.0.0.1"+port); err == nil {
		t.Errorf("the port accepts a connection, before its program has started")
		_ = c.Close()
	}
	held.Release()
	held.Release() // changes nothing
	if n := use(); n < 4 {
		t.Errorf("after Release other sockets could use the port in %d ways, not at least 4", n)
	}
	if held.Port < 20000 || held.Port > 29999 {
		t.Errorf("the port is %d", held.Port)
	}
}

// A port that is taken is not held a second time: HoldPort tries another one.
func TestHoldManyPorts(t *testing.T) {
	t.Parallel()
	seen := make(map[uint16]bool)
	for range 400 { // of 10,000: some choices are taken already
		held, err := process.HoldPort()
		if err != nil {
			t.Fatalf("with %d ports held: %v", len(seen), err)
		}
		defer held.Release()
		if seen[held.Port] {
			t.Fatalf("port %d is held twice", held.Port)
		}
		seen[held.Port] = true
	}
}
