package main

import (
	"encoding/json"
	"fmt"

	"ntrack/bench/measure"
)

// A child is a server that is measured.
type child struct {
	*measure.Child
	ports ports
}

// ports are where a server listens on 127.0.0.1.
type ports struct{ DNS, HTTP int }

// spawn starts this program again, in a role, on the last CPU. It ends with this thread.
func (b *bench) spawn(role string, args ...string) (*child, error) {
	p, err := measure.SpawnRole(b.cpus[len(b.cpus)-1], b.cpus[0], append([]string{role}, args...)...)
	if err != nil {
		return nil, err
	}
	c := &child{Child: p}
	line, err := c.Out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.ports)
	}
	if err != nil {
		c.Stop()
		return nil, fmt.Errorf("role %s: %w", role, err)
	}
	return c, nil
}
