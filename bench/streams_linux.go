//go:build amd64 || arm64

package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"ntrack/bench/measure"
)

// A streamsPlan says how many event streams are measured.
type streamsPlan struct {
	Growth  []int         `json:"growth"`   // of idle streams, in rising order
	Resting int           `json:"resting"`  // idle streams while announces and CPU time are measured
	Watched int           `json:"watchers"` // of the key that a peer joins
	Joins   int           `json:"joins"`    // of a peer, in each round
	Every   time.Duration `json:"every_ns"` // a join
	Burst   int           `json:"burst"`    // peers that join one key within a second
}

// A streamsResult has the costs of event streams.
type streamsResult struct {
	streamsPlan
	Idle   []idleStreams  `json:"idle"`
	FanOut []*fanOut      `json:"fan_out"`
	Beside []besideReport `json:"announces_beside_idle_streams"`
	Bursts []burstResult  `json:"bursts"`
}

// idleStreams has the resident memory of the server for each stream, without that of the server
// before the first one.
type idleStreams struct {
	Server  string  `json:"server"`
	Streams int     `json:"streams"`
	Member  float64 `json:"bytes_per_member"` // of a peer; each key has ten
	Looker  float64 `json:"bytes_per_looker"` // of a client that only looks; all are at one key
	Kernel  float64 `json:"kernel_bytes"`     // of the system, for a TCP socket; 0 if unknown
	Files   int     `json:"files"`            // that the server has open, with the lookers
}

// A fanOut is about a server with lookers at one key, while a peer joins that key again and again.
type fanOut struct {
	Server string        `json:"server"`
	CPU    spread        `json:"cpu_us_per_event"` // of the server
	P50    spread        `json:"p50_ms"`           // of one join over all streams, from the announce to the event
	P99    spread        `json:"p99_ms"`           // both over all joins of all rounds
	AtRest spread        `json:"busy_at_rest"`     // the share of a CPU that the idle streams take
	Rounds []fanOutRound `json:"rounds"`
}

type fanOutRound struct {
	CPU, AtRest float64
	P50, P99    []float64 // of each join
}

// A besideReport compares keep-alive announces at other keys with those of a server without streams.
type besideReport struct {
	Server  string        `json:"server"`
	Without float64       `json:"cpu_to_none"`
	Rounds  *serverReport `json:"with_streams"`
}

// spawnStreams starts a server for event streams on the last CPU. The clients run on the first.
func (b *bench) spawnStreams(name string) (s *rival, err error) {
	switch name {
	case "floor":
		if s, err = spawnRole(name, b.serverCPU, b.loadCPU, "stream-floor"); s != nil {
			s.floor = true
		}
	case "before":
		s, err = spawnRoleOf(b.before[0], name, b.serverCPU, b.loadCPU, b.before[1])
	default:
		s, err = spawnRole(name, b.serverCPU, b.loadCPU, name)
	}
	return s, err
}

// withStreams starts a server, lets do open streams and measure them, and ends both.
func (b *bench) withStreams(name string, do func(s *rival, w *watchers) error) error {
	s, err := b.spawnStreams(name)
	if err != nil {
		return err
	}
	defer s.stop()
	w, err := newWatchers(s.port)
	if err != nil {
		return err
	}
	defer w.close()
	if err := do(s, w); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (b *bench) measureStreams(p streamsPlan) (r streamsResult, err error) {
	r.streamsPlan = p
	var servers []string
	for _, name := range []string{"floor", "ntrack", "before"} {
		if b.wants(names, name) && (name != "before" || b.before != nil) {
			servers = append(servers, name)
			r.FanOut = append(r.FanOut, &fanOut{Server: name})
		}
	}
	for _, name := range servers {
		idle, err := b.idle(name, p.Growth)
		if err != nil {
			return r, err
		}
		r.Idle = append(r.Idle, idle...)
	}
	for range b.rounds/2 + 1 { // a round takes half a minute for each server
		for _, f := range r.FanOut {
			if err := b.fanOutRound(f, p); err != nil {
				return r, err
			}
		}
	}
	for _, f := range r.FanOut {
		f.finish()
	}
	for _, name := range servers {
		if name == "floor" {
			continue
		}
		beside, err := b.beside(name, p.Resting)
		if err != nil {
			return r, err
		}
		r.Beside = append(r.Beside, beside)
		burst, err := b.burst(name, p.Burst)
		if err != nil {
			return r, err
		}
		r.Bursts = append(r.Bursts, burst)
	}
	return r, nil
}

// idle measures the memory of more and more streams. With the last ones it waits for a heartbeat of
// each.
func (b *bench) idle(name string, growth []int) ([]idleStreams, error) {
	all := make([]idleStreams, len(growth))
	grow := func(open func(w *watchers, n int) error, measured func(r *idleStreams, each float64, s *rival) error) error {
		return b.withStreams(name, func(s *rival, w *watchers) error {
			baseline, err := measure.RSSOf(s.PID)
			if err != nil {
				return err
			}
			for i, n := range growth {
				rest := b.rest / 5
				if i == len(growth)-1 {
					rest = 3 * b.rest
				}
				if err := errors.Join(open(w, n), w.rest(rest)); err != nil {
					return err
				}
				rss, err := measure.RSSOf(s.PID)
				if err != nil {
					return err
				}
				all[i].Server, all[i].Streams = name, n
				if err := measured(&all[i], float64(rss-baseline)/float64(n), s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := grow((*watchers).openMembers, func(r *idleStreams, each float64, _ *rival) error {
		r.Member = each
		return nil
	})
	if err != nil {
		return nil, err
	}
	before := socketsInUse()
	err = grow((*watchers).openLookers, func(r *idleStreams, each float64, s *rival) (err error) {
		r.Looker, r.Kernel = each, socketsInUse().perSocket(before)
		r.Files, err = measure.FilesOf(s.PID)
		return err
	})
	return all, err
}

// fanOutRound measures a server of its own.
func (b *bench) fanOutRound(f *fanOut, p streamsPlan) error {
	return b.withStreams(f.Server, func(s *rival, w *watchers) error {
		var r fanOutRound
		if err := w.openLookers(p.Resting); err != nil {
			return err
		}
		began, err := measure.UsageOf(s.PID)
		if err != nil {
			return err
		}
		if err := w.rest(3 * b.rest); err != nil { // long enough for a heartbeat of each
			return err
		}
		rested, err := measure.UsageOf(s.PID)
		if err != nil {
			return err
		}
		r.AtRest = float64(rested.CPU-began.CPU) / float64(3*b.rest)
		w.shrink(p.Watched)
		if err := w.rest(p.Every); err != nil { // until the server has noticed
			return err
		}
		c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", s.port))
		if err != nil {
			return err
		}
		defer c.Close()
		var cpu time.Duration
		for i := range p.Joins {
			times, used, err := w.join(s, c, 1+i, p.Every)
			if err != nil {
				return err
			}
			cpu += used
			r.P50 = append(r.P50, times.Percentile(0.5).Seconds()*1e3)
			r.P99 = append(r.P99, times.Percentile(0.99).Seconds()*1e3)
		}
		r.CPU = float64(cpu.Nanoseconds()) / 1e3 / float64(p.Joins*p.Watched)
		f.Rounds = append(f.Rounds, r)
		return nil
	})
}

// join lets a peer announce over c. It returns when the streams sent the join, and the CPU time that
// the server used.
func (w *watchers) join(s *rival, c net.Conn, port int, every time.Duration) (times *measure.Histogram, used time.Duration, err error) {
	before, err := measure.UsageOf(s.PID)
	if err != nil {
		return nil, 0, err
	}
	times = new(measure.Histogram)
	began := time.Now()
	if err := ask(c, fmt.Sprint("/ntrk/lookers?numwant=0&port=", port)); err != nil {
		return nil, 0, err
	}
	sent, err := w.await(len(w.fds), stuck, func() { times.Add(time.Since(began)) })
	if err != nil {
		return nil, 0, err
	}
	if sent != len(w.fds) {
		return nil, 0, fmt.Errorf("%d of %d streams sent a join", sent, len(w.fds))
	}
	after, err := measure.UsageOf(s.PID)
	if err != nil {
		return nil, 0, err
	}
	if again, err := w.await(1, time.Until(began.Add(every)), func() {}); err != nil || again > 0 {
		return nil, 0, errors.Join(err, fmt.Errorf("a join was sent %d times too often", again))
	}
	return times, after.CPU - before.CPU, nil
}

func (f *fanOut) finish() {
	var cpu, rest, p50, p99 []float64
	for _, r := range f.Rounds {
		cpu, rest = append(cpu, r.CPU), append(rest, r.AtRest)
		p50, p99 = append(p50, r.P50...), append(p99, r.P99...)
	}
	f.CPU, f.AtRest, f.P50, f.P99 = spreadOf(cpu), spreadOf(rest), spreadOf(p50), spreadOf(p99)
}

// ratio is the median over the rounds of a number of f, divided by that of another server. It is 0
// if that is unknown.
func (f *fanOut) ratio(to *fanOut, number func(fanOutRound) float64) float64 {
	var all []float64
	for i := range f.Rounds {
		if to != nil && number(to.Rounds[i]) > 0 {
			all = append(all, number(f.Rounds[i])/number(to.Rounds[i]))
		}
	}
	return spreadOf(all).Median
}

// beside measures announces at a server with idle streams and at one without, in turns.
func (b *bench) beside(name string, idle int) (r besideReport, err error) {
	r.Server = name
	var with, without *rival
	for _, s := range []**rival{&with, &without} {
		if *s, err = b.spawnStreams(name); err != nil {
			return r, err
		}
		defer (*s).stop()
		(*s).keepAlive = true
		if err := b.fill(*s); err != nil {
			return r, err
		}
	}
	w, err := newWatchers(with.port)
	if err != nil {
		return r, err
	}
	defer w.close()
	if err := w.openLookers(idle); err != nil {
		return r, err
	}
	m := modeReport{Servers: []*serverReport{{Name: "without"}, {Name: "with"}}}
	p := newPopulation(b.keys, maxPeers, 50, true)
	for i := 0; !m.enough(b.rounds) && i < b.retries*b.rounds; i++ {
		for j, s := range []*rival{without, with} {
			other := []*rival{with, without}[j]
			if err := errors.Join(other.pause(), s.resume()); err != nil {
				return r, err
			}
			l := b.load(s, p)
			l.random(mix(uint64(i)))
			round, err := b.round(s, l)
			if err != nil {
				return r, err
			}
			m.Servers[j].All = append(m.Servers[j].All, round)
		}
	}
	m.finish()
	r.Rounds = m.named("with")
	r.Without = r.Rounds.ratio(m.named("without"))
	return r, errors.Join(with.resume(), without.resume())
}
