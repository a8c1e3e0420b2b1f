package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"ntrack/bench/measure"
)

// A child is a process in a role.
type child struct{ *measure.Child }

// spawnRole starts this program again, in a role, on the last CPU.
func (b *bench) spawnRole(args ...string) (*child, error) {
	p, err := measure.SpawnRole(b.cpus[len(b.cpus)-1], b.cpus[0], args...)
	if err != nil {
		return nil, err
	}
	c := &child{p}
	if err := c.call("ready", nil); err != nil {
		c.Stop()
		return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return c, nil
}

// call sends a command to the child, and waits for its reply.
func (c *child) call(line string, reply any) error {
	if _, err := io.WriteString(c.In, line+"\n"); err != nil {
		return err
	}
	text, err := c.Out.ReadBytes('\n')
	if err != nil || reply == nil {
		return err
	}
	return json.Unmarshal(text, reply)
}

func (c *child) cpu() (time.Duration, error) {
	use, err := measure.UsageOf(c.PID)
	return use.CPU, err
}
