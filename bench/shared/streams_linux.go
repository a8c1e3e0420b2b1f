package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/bench/measure"
)

// perKey is how many watchers a key has.
const perKey = 10

// A pair is two trackers that share a table, and event streams at both.
type pair struct {
	engine   *engine
	alone    sample // of the database before the trackers came
	trackers [2]*child
	ports    [2]int

	mu     sync.Mutex
	conns  []*conn
	group  sync.WaitGroup
	ended  atomic.Bool
	failed atomic.Pointer[error]

	base  time.Time
	sent  []time.Duration // when each join was sent, since base
	times [2][]time.Duration
}

func (b *bench) newPair(joins int) (p *pair, err error) {
	p = &pair{base: time.Now(), sent: make([]time.Duration, joins)}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	if p.engine, err = b.startEngine(); err != nil {
		return p, err
	}
	if p.alone, err = p.engine.sample(); err != nil {
		return p, err
	}
	for i := range p.trackers {
		if p.trackers[i], err = b.spawnRole(serverRole, "-url="+p.engine.url); err != nil {
			return p, err
		}
		if err = p.trackers[i].call("ready", &p.ports[i]); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *pair) stop() {
	p.ended.Store(true)
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.group.Wait()
	for _, t := range p.trackers {
		if t != nil {
			t.Stop()
		}
	}
	if p.engine != nil {
		p.engine.stop()
	}
}

func streamKey(k int) string { return "watched" + strconv.Itoa(k) }

// open opens event streams of peers, ten for each key, half of them at each tracker.
func (p *pair) open(n int) error {
	var next atomic.Int64
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for p.failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := p.watch(i); err != nil {
					p.failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	group.Wait()
	return p.err()
}

func (p *pair) err() error {
	if err := p.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// events is how many events the streams have sent.
func (p *pair) events() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.times[0]) + len(p.times[1])
}

// watch opens stream i, again if the tracker's store did not answer in time.
func (p *pair) watch(i int) (err error) {
	for range 20 {
		if err = p.watchOnce(i); !errors.Is(err, errUnavailable) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// watchOnce opens stream i, and returns when it has the first list of peers.
func (p *pair) watchOnce(i int) error {
	side, k := i%2, i/perKey
	c, err := dial(p.ports[side])
	if err != nil {
		return err
	}
	e := endpointOf(k, i%perKey)
	c.request = fmt.Appendf(nil, "GET /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\nX-Forwarded-For: %v\r\n\r\n", streamKey(k), e.Port(), e.Addr())
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	var got []byte
	for !bytes.Contains(got, []byte("\nevent: peers\n")) || !bytes.HasSuffix(got, []byte("\n\n")) {
		line, err := c.in.ReadSlice('\n')
		if bytes.HasPrefix(line, []byte("HTTP/1.1 503 ")) {
			_ = c.Close()
			return errUnavailable
		}
		if got = append(got, line...); err != nil {
			return fmt.Errorf("a stream of %s: %q, %w", streamKey(k), got, err)
		}
	}
	_ = c.SetDeadline(time.Time{})
	p.mu.Lock()
	p.conns = append(p.conns, c)
	p.mu.Unlock()
	p.group.Go(func() {
		if err := p.read(c, side); !p.ended.Load() {
			err = fmt.Errorf("a stream of %s ended: %w", streamKey(k), err)
			p.failed.CompareAndSwap(nil, &err)
		}
	})
	return nil
}

// read notes the time of every join that a stream reports, until the stream ends. It returns how.
func (p *pair) read(c *conn, side int) error {
	join := false
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		at := time.Since(p.base)
		if text, ok := bytes.CutPrefix(line, []byte("data: ")); ok && join {
			e, err := netip.ParseAddrPort(string(bytes.TrimSpace(text)))
			if err != nil {
				return err
			}
			if n := joinNumber(e); n >= 0 {
				p.mu.Lock()
				p.times[side] = append(p.times[side], at-p.sent[n])
				p.mu.Unlock()
			}
		}
		join = bytes.Equal(line, []byte("event: join\n"))
	}
}

// joiner returns the endpoint of join number n, and joinNumber the number, or -1.
func joiner(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{200, byte(n >> 16), byte(n >> 8), byte(n)}), 7000)
}

func joinNumber(e netip.AddrPort) int {
	a := e.Addr().As4()
	if a[0] != 200 {
		return -1
	}
	return int(a[1])<<16 | int(a[2])<<8 | int(a[3])
}

// use has what the trackers and the database used.
type use struct {
	trackers time.Duration
	sample
}

func (p *pair) use() (u use, err error) {
	for _, t := range p.trackers {
		cpu, err := t.cpu()
		if err != nil {
			return u, err
		}
		u.trackers += cpu
	}
	u.sample, err = p.engine.sample()
	return u, err
}

// joins measures the time from a join at one tracker to its events at both.
func (b *bench) joins() error {
	n := int(b.Joining.Seconds() * float64(b.Rate))
	p, err := b.newPair(n)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.open(b.Watchers); err != nil {
		return err
	}
	time.Sleep(b.Settle)
	before, err := p.use()
	if err != nil {
		return err
	}
	jobs := make(chan int, n)
	var group sync.WaitGroup
	for range 8 {
		c, err := dial(p.ports[0])
		if err != nil {
			return err
		}
		defer c.Close()
		group.Go(func() {
			for i := range jobs {
				e := joiner(i)
				c.request = fmt.Appendf(c.request[:0], "GET /ntrk/%s?port=%d&numwant=0 HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: %v\r\n\r\n",
					streamKey(rand.IntN(b.Watchers/perKey)), e.Port(), e.Addr())
				p.mu.Lock()
				p.sent[i] = time.Since(p.base)
				p.mu.Unlock()
				_, err := c.ask()
				for again := 0; errors.Is(err, errUnavailable) && again < 20; again++ {
					_, err = c.ask()
				}
				if err != nil {
					p.failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	tick := time.NewTicker(time.Second / time.Duration(b.Rate))
	defer tick.Stop()
	for i := range n {
		<-tick.C
		jobs <- i
	}
	close(jobs)
	group.Wait()
	after, err := p.use()
	if err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && p.events() < n*perKey; {
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.err(); err != nil {
		return err
	}
	r := joinsResult{Joins: n, Seconds: after.at.Sub(before.at).Seconds(), Expected: n * perKey / 2}
	r.Trackers = float64(after.trackers-before.trackers) / 1e9 / r.Seconds
	r.Engine = float64(after.cpu-before.cpu) / 1e9 / r.Seconds
	p.mu.Lock()
	defer p.mu.Unlock()
	for side, times := range p.times {
		slices.Sort(times)
		at := func(share float64) float64 {
			if len(times) == 0 {
				return 0
			}
			return times[min(int(share*float64(len(times))), len(times)-1)].Seconds() * 1e3
		}
		r.Sides[side] = joinsSide{Events: len(times), P50: at(0.5), P99: at(0.99), Most: at(1)}
		if len(times) != r.Expected {
			fmt.Fprintf(b.log, "bench/shared: %d events at tracker %d, and not %d\n", len(times), side, r.Expected)
		}
	}
	b.report.Joins = &r
	return nil
}

// holds measures what peers cost that subscriptions of one Store hold, and those of real streams at
// two trackers.
func (b *bench) holds() error {
	e, err := b.startEngine()
	if err != nil {
		return err
	}
	defer e.stop()
	alone, err := e.sample()
	if err != nil {
		return err
	}
	c, err := b.spawnRole(storeRole, "-url="+e.url)
	if err != nil {
		return err
	}
	defer c.Stop()
	empty, err := measure.RSSOf(c.PID)
	if err != nil {
		return err
	}
	began, start := time.Now(), sample{}
	if start, err = e.sample(); err != nil {
		return err
	}
	if err := c.call(fmt.Sprint("hold ", b.Held, " ", perKey), nil); err != nil {
		return err
	}
	r := holdsResult{Name: "Store", Held: b.Held, Seconds: time.Since(began).Seconds()}
	use := func() (u use, err error) {
		var err1, err2 error
		u.sample, err1 = e.sample()
		u.trackers, err2 = c.cpu()
		return u, errors.Join(err1, err2)
	}
	if err := b.rest(&r, start, alone.conns, use); err != nil {
		return err
	}
	rss, err := measure.RSSOf(c.PID)
	if err != nil {
		return err
	}
	r.RSS = float64(rss-empty) / float64(b.Held)
	if err := c.call("live", &r.Live); err != nil {
		return err
	}
	b.report.Holds = append(b.report.Holds, r)
	return b.heldStreams()
}

func (b *bench) heldStreams() error {
	p, err := b.newPair(0)
	if err != nil {
		return err
	}
	defer p.stop()
	r := holdsResult{Name: "streams at 2 trackers", Held: b.Streams}
	rss := func() (n int64, err error) {
		for _, t := range p.trackers {
			m, err := measure.RSSOf(t.PID)
			if err != nil {
				return 0, err
			}
			n += m
		}
		return n, nil
	}
	empty, err := rss()
	if err != nil {
		return err
	}
	start, err := p.engine.sample()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := p.open(b.Streams); err != nil {
		return err
	}
	r.Seconds = time.Since(began).Seconds()
	if err := b.rest(&r, start, p.alone.conns, p.use); err != nil {
		return err
	}
	full, err := rss()
	if err != nil {
		return err
	}
	if err := p.err(); err != nil {
		return err
	}
	r.RSS, r.Live = float64(full-empty)/float64(b.Streams), b.Streams
	b.report.Holds = append(b.report.Holds, r)
	return nil
}

// rest measures peers that are held, and nothing else happens.
func (b *bench) rest(r *holdsResult, start sample, conns float64, measured func() (use, error)) error {
	time.Sleep(b.Settle)
	before, err := measured()
	if err != nil {
		return err
	}
	time.Sleep(b.Rest)
	after, err := measured()
	if err != nil {
		return err
	}
	s := after.at.Sub(before.at).Seconds()
	r.Trackers = float64(after.trackers-before.trackers) / 1e9 / s
	r.Engine = float64(after.cpu-before.cpu) / 1e9 / s
	r.Bytes = (after.used - start.used) / float64(r.Held)
	r.Conns = after.conns - conns
	r.In, r.Out = (after.in-before.in)/s, (after.out-before.out)/s
	r.Calls = make(map[string]float64)
	for name, calls := range after.calls {
		if d := (calls - before.calls[name]) / s; d >= 0.5 {
			r.Calls[name] = d
		}
	}
	return nil
}
