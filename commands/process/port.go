package process

import (
	"errors"
	"math/rand/v2"
)

// Most systems give their clients ports from 32768 or 49152 up. So a port below that stays free until a
// program asks for exactly this one.
const (
	firstPort = 20000
	lastPort  = 29999
)

// A HeldPort is a port that is free for TCP and UDP, on every address of this machine.
type HeldPort struct {
	Port    uint16
	release func()
}

// HoldPort chooses a free port at random, and holds it on Unix: no other program can bind it, and a
// connection to it is refused. Release it just before a program starts that binds it. In between,
// another program may take it, but only if it asks for this number.
func HoldPort() (*HeldPort, error) {
	var err error
	for range 100 {
		port := uint16(firstPort + rand.N(lastPort-firstPort+1))
		var release func()
		if release, err = bindPort(port); err == nil {
			return &HeldPort{port, release}, nil
		}
		if !isInUse(err) {
			break
		}
	}
	return nil, errors.Join(errors.New("no free port found"), err)
}

// Release gives up the port. The Release of a nil HeldPort does nothing, nor does a second one.
func (h *HeldPort) Release() {
	if h != nil && h.release != nil {
		h.release()
		h.release = nil
	}
}
