package main

import (
	"errors"
	"fmt"
	"time"
)

// A runner is something that announces: a child, or clients of a child.
type runner interface {
	start() error
	mark() (mark, error)
	stop() error
}

// A contender is a process that serves announces.
type contender struct {
	name string
	runner
	child  *child
	engine *engine // nil if it has no database
	result *announceResult
}

// A childRunner announces in the child itself.
type childRunner struct {
	*child
	plan *plan
}

func (c childRunner) start() error {
	return c.call(fmt.Sprint("start ", c.plan.Keys, " ", c.plan.Peers, " ", c.plan.Callers), nil)
}

func (c childRunner) mark() (m mark, err error) { return m, c.call("mark", &m) }
func (c childRunner) stop() error               { return c.call("stop", nil) }

// The contenders of the section announces. The first two are what the others may cost.
const (
	rawName         = "commands alone"
	memoryName      = "tracker, memory"
	storeName       = "Store"
	serverName      = "tracker, shared"
	memoryStoreName = "Store, memory"
)

// announces measures the announces of all contenders, in turns.
func (b *bench) announces() error {
	e, err := b.startEngine()
	if err != nil {
		return err
	}
	defer e.stop()
	var all []*contender
	defer func() {
		for _, c := range all {
			c.child.Stop()
		}
	}()
	for _, name := range []string{rawName, storeName, serverName, memoryStoreName, memoryName} {
		c := &contender{name: name, engine: e, result: &announceResult{Name: name}}
		var args []string
		switch name {
		case rawName:
			args = []string{rawRole, "-url=" + e.url, fmt.Sprint("-peers=", b.Peers)}
		case storeName:
			args = []string{storeRole, "-url=" + e.url}
		case serverName:
			args = []string{serverRole, "-url=" + e.url}
		case memoryStoreName:
			c.engine, args = nil, []string{memoryRole}
		case memoryName:
			c.engine, args = nil, []string{serverRole}
		}
		if b.profile != "" && c.engine != nil && name != rawName {
			args = append(args, "-cpuprofile="+b.profile+"."+args[0])
		}
		if c.child, err = b.spawnRole(args...); err != nil {
			return err
		}
		all = append(all, c)
		b.report.Announces = append(b.report.Announces, c.result)
		c.runner = childRunner{c.child, &b.plan}
		if name == serverName || name == memoryName {
			var port int
			if err := c.child.call("ready", &port); err != nil {
				return err
			}
			c.runner = &clients{plan: &b.plan, port: port}
		}
		switch name {
		case rawName, memoryStoreName, memoryName: // the contenders at the database share the table
			err = c.child.call(fmt.Sprint("fill ", b.Keys, " ", b.Peers, " ", b.Callers), nil)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, c := range all {
		if err := b.warmUp(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for range b.Rounds {
		for _, c := range all {
			r, err := b.announceRound(c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.result.Rounds = append(c.result.Rounds, r)
		}
	}
	return nil
}

// warmUp lets peers announce until nearly all keys have had an announce: a Store reads more for the
// first one of a key.
func (b *bench) warmUp(c *contender) error {
	if err := c.start(); err != nil {
		return err
	}
	for done := 0; done < 4*b.Keys; {
		time.Sleep(b.Warm)
		m, err := c.mark()
		if err != nil {
			return err
		}
		done += m.Done
	}
	return c.stop()
}

// announceRound measures a contender once.
func (b *bench) announceRound(c *contender) (r announceRound, err error) {
	if err := c.start(); err != nil {
		return r, err
	}
	time.Sleep(b.Warm)
	if err := c.child.call("profile", nil); err != nil {
		return r, err
	}
	var before, after sample
	take := func(s *sample) (use time.Duration, m mark, err error) {
		if c.engine != nil {
			*s, err = c.engine.sample()
		}
		use, err2 := c.child.cpu()
		m, err3 := c.mark()
		return use, m, errors.Join(err, err2, err3)
	}
	usedBefore, _, err := take(&before)
	if err != nil {
		return r, err
	}
	began := time.Now()
	time.Sleep(b.Time)
	took := time.Since(began)
	usedAfter, m, err := take(&after)
	if err := errors.Join(err, c.stop()); err != nil {
		return r, err
	}
	if m.Done == 0 {
		return r, errors.New("no announce was answered")
	}
	if m.Refused > 0 {
		fmt.Fprintf(b.log, "bench/shared: %s: the database did not answer %d announces in time\n", c.name, m.Refused)
	}
	n := float64(m.Done)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	r = announceRound{Process: us(usedAfter-usedBefore) / n, PerSecond: n / took.Seconds(), P50: us(m.P50), P99: us(m.P99),
		Busy: float64(usedAfter-usedBefore) / float64(took)}
	if c.engine != nil {
		r.Engine = us(after.cpu-before.cpu) / n
		r.EngineBusy = float64(after.cpu-before.cpu) / float64(after.at.Sub(before.at))
		r.In, r.Out = (after.in-before.in)/n, (after.out-before.out)/n
		r.Reads, r.Writes = (after.reads-before.reads)/n, (after.writes-before.writes)/n
		r.Calls, r.Usec = make(map[string]float64), make(map[string]float64)
		for name, calls := range after.calls {
			if d := calls - before.calls[name]; d/n >= 0.01 {
				r.Calls[name], r.Usec[name] = d/n, (after.usec[name]-before.usec[name])/d
			}
		}
	}
	return r, nil
}
