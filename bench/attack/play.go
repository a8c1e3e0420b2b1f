//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A row is one attack on one server.
type row struct {
	Server string       `json:"server"`
	Attack string       `json:"attack"`
	Title  string       `json:"title"`
	Conns  int          `json:"conns"` // that the attackers wanted to have
	Honest honestResult `json:"honest"`
	Start  figures      `json:"start"` // before the attack
	Peak   figures      `json:"peak"`  // the most of each, during the attack and after it
	CPU    float64      `json:"cpus"`  // that the server used, on average
	Gain   gain         `json:"gain"`
	Back   float64      `json:"back_seconds"` // from the end of the attack to the start figures; less than 0 if they did not come back
	Not    string       `json:"not_back"`     // the figure that did not
	Died   string       `json:"died"`         // how the server ended during the attack

	Metrics map[string]float64 `json:"metrics"` // of the server, right after the attack
}

// play plays one attack on a new server.
func (b *bench) play(ctx context.Context, server string, a *attack) (r row, err error) {
	r = row{Server: server, Attack: a.name, Title: a.title}
	t, err := b.start(ctx, server)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	plan := b.honest
	plan.Port = t.port
	if plan.Classic = server == openServer; plan.Classic {
		plan.Streams, plan.Kept = 0, 0
	}
	h, err := b.child(ctx, "honest", plan)
	if err != nil {
		return r, err
	}
	defer h.stop()
	if err := h.expect("ready", time.Minute); err != nil {
		return r, err
	}
	if a.crowd > 0 {
		if err := crowd(t.port, max(10, a.crowd/b.shrink), true); err != nil {
			return r, fmt.Errorf("the crowd: %w", err)
		}
	}
	if err := sleep(ctx, b.settle); err != nil {
		return r, err
	}
	m := watch(t)
	defer m.stop()
	r.Start = m.now()
	h.say("begin")
	began, used := time.Now(), m.cpu()
	profiled := make(chan error, 1)
	if b.profile != "" && t.admin != "" {
		go func() { profiled <- m.profile(b.profile, b.time) }()
	} else {
		profiled <- nil
	}
	if err := errors.Join(b.attack(ctx, t, a, &r), <-profiled); err != nil {
		return r, err
	}
	if t.admin != "" {
		r.Metrics = m.metrics()
	}
	r.CPU = (m.cpu() - used).Seconds() / time.Since(began).Seconds()
	h.say("end")
	ended := time.Now()
	if a.crowd > 0 {
		_ = crowd(t.port, max(10, a.crowd/b.shrink), false)
	}
	for r.Back = -1; ; {
		if r.Not = m.now().exceeds(r.Start, b.honest.lapsing()); r.Not == "" {
			r.Back = time.Since(ended).Seconds()
			break
		}
		if time.Since(ended) > b.recover || t.ended() {
			break
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return r, err
		}
	}
	r.Peak = m.peak()
	if t.ended() {
		r.Died = t.cmd.ProcessState.String()
	}
	h.say("report")
	line, err := h.line(2 * patience)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(line), &r.Honest)
}

// attack runs the attackers until they end.
func (b *bench) attack(ctx context.Context, t *target, a *attack, r *row) error {
	if a.name == noAttack {
		return sleep(ctx, b.time)
	}
	plan := attackPlan{Attack: a.name, Server: t.name, Port: t.port, Time: b.time, Of: b.parallel}
	if a.tls {
		plan.Port = t.tlsPort
	}
	plan.Total = a.total / b.shrink / b.parallel
	switch conns := a.conns; {
	case conns == allFiles: // no process can have more files, so together the attackers have more than the server
		plan.Conns = min(b.files-100, 120_000/b.parallel)
		if b.parallel > 1 {
			plan.Conns = min(plan.Conns, b.files*11/10/b.parallel)
		}
	case conns >= 1000:
		plan.Conns = min(conns/b.shrink/b.parallel, b.files-100)
	default:
		plan.Conns = max(1, conns/b.parallel)
	}
	r.Conns = plan.Conns * b.parallel
	if a.name == hogAttack {
		r.Conns = 0
	}
	var attackers []*child
	defer func() {
		for _, c := range attackers {
			c.stop()
		}
	}()
	for i := range b.parallel {
		plan.Number = i
		c, err := b.child(ctx, "attacker", plan)
		if err != nil {
			return err
		}
		attackers = append(attackers, c)
	}
	for _, c := range attackers {
		line, err := c.line(b.time + time.Minute)
		if err != nil {
			return err
		}
		var g gain
		if err := json.Unmarshal([]byte(line), &g); err != nil {
			return err
		}
		r.Gain.add(g)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
