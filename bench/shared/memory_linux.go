package main

import (
	"fmt"
	"time"
)

// memory measures what peers take in the database, each table in a database of its own.
func (b *bench) memory() error {
	for _, t := range b.Tables {
		r, err := b.fillTable(t)
		if err != nil {
			return fmt.Errorf("%d x %d: %w", t.Keys, t.Peers, err)
		}
		b.report.Memory = append(b.report.Memory, r)
	}
	return nil
}

func (b *bench) fillTable(t table) (r memoryResult, err error) {
	e, err := b.startEngine()
	if err != nil {
		return r, err
	}
	defer e.stop()
	c, err := b.spawnRole(storeRole, "-url="+e.url)
	if err != nil {
		return r, err
	}
	defer c.Stop()
	empty, err := e.sample()
	if err != nil {
		return r, err
	}
	args := fmt.Sprint(" ", t.Keys, " ", t.Peers, " ", b.Callers)
	if err := c.call("fill"+args, nil); err != nil {
		return r, err
	}
	full, err := e.sample()
	if err != nil {
		return r, err
	}
	n := float64(t.Keys * t.Peers)
	r = memoryResult{table: t, Bytes: (full.used - empty.used) / n, Join: float64(full.cpu-empty.cpu) / 1e3 / n}

	if err := c.call("start"+args, nil); err != nil {
		return r, err
	}
	time.Sleep(b.Warm)
	if _, err := (childRunner{c, &b.plan}).mark(); err != nil {
		return r, err
	}
	before, err := e.sample()
	if err != nil {
		return r, err
	}
	time.Sleep(b.Time)
	after, err := e.sample()
	if err != nil {
		return r, err
	}
	m, err := childRunner{c, &b.plan}.mark()
	if err != nil {
		return r, err
	}
	r.Renew = float64(after.cpu-before.cpu) / 1e3 / float64(max(m.Done, 1))
	return r, c.call("stop", nil)
}
