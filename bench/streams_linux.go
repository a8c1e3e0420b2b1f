//go:build amd64 || arm64

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"syscall"
	"time"
)

// A streamsResult has the costs of event streams.
type streamsResult struct {
	Streams  int     `json:"streams"`
	Baseline int64   `json:"baseline_bytes"`   // of the process before the first stream
	Members  float64 `json:"bytes_per_member"` // resident, per idle stream of a peer; each key has ten
	Lookers  float64 `json:"bytes_per_looker"` // the same for clients that only look, all at one key
	AtRest   float64 `json:"busy_at_rest"`     // the share of a CPU that the lookers take without events
	Joins    int     `json:"joins"`            // at the lookers' key, one per second
	P50      spread  `json:"event_p50_ms"`     // of one join over all streams, from the announce to the event
	P99      spread  `json:"event_p99_ms"`
	CPU      float64 `json:"cpu_us_per_event"` // of the server
	// Announce is the CPU time of keep-alive announces at other keys with the lookers' streams, as
	// a multiple of that without: see serverReport.ratio.
	Announce float64       `json:"announce_cpu_to_none"`
	Rounds   *serverReport `json:"announce_with_streams"`
}

// watchers are clients of event streams. They share one thread, which sleeps until events come.
type watchers struct {
	ep, port int
	fds      []int
	buf      [64 << 10]byte
}

func newWatchers(port int) (*watchers, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &watchers{ep: ep, port: port}, err
}

func (w *watchers) close() {
	for _, fd := range w.fds {
		_ = syscall.Close(fd)
	}
	_ = syscall.Close(w.ep)
}

// open opens a stream and waits for its first two events.
func (w *watchers) open(key string, port int) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.fds = append(w.fds, fd)
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: w.port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if _, err := syscall.Write(fd, fmt.Appendf(nil, "GET /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", key, port)); err != nil {
		return err
	}
	for got := []byte(nil); !bytes.Contains(got, []byte("\nevent: peers\n")) || !bytes.HasSuffix(got, []byte("\n\n")); {
		n, err := syscall.Read(fd, w.buf[:])
		if err != nil || n <= 0 {
			return fmt.Errorf("a stream of %s: %q, %v", key, got, err)
		}
		got = append(got, w.buf[:n]...)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	return syscall.EpollCtl(w.ep, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

// await calls got for every join and returns the number of joins. It returns after n of them, or
// after d.
func (w *watchers) await(n int, d time.Duration, got func()) (int, error) {
	var events [256]syscall.EpollEvent
	joins, end := 0, time.Now().Add(d)
	for joins < n {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		k, err := syscall.EpollWait(w.ep, events[:], int(left.Milliseconds())+1)
		if err != nil && err != syscall.EINTR {
			return joins, err
		}
		for _, e := range events[:max(k, 0)] {
			n, err := syscall.Read(int(e.Fd), w.buf[:])
			if err != nil || n <= 0 {
				return joins, fmt.Errorf("a stream ended: %v", err)
			}
			for range bytes.Count(w.buf[:n], []byte("event: join\n")) {
				joins++
				got()
			}
		}
	}
	return joins, nil
}

// measureStreams opens n streams at a time. While events are sent, server and clients use all CPUs.
func (b *bench) measureStreams(n, joins int) (r streamsResult, err error) {
	r.Streams, r.Joins = n, joins
	if err := b.members(&r); err != nil {
		return r, err
	}
	var with, without *rival
	for _, s := range []**rival{&with, &without} {
		if *s, err = spawnRole("ntrack", b.serverCPU, b.loadCPU, "ntrack"); err != nil {
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
	if err := b.lookers(with, w, &r); err != nil {
		return r, err
	}
	if err := b.fanOut(with, w, &r); err != nil {
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
	r.Announce = r.Rounds.ratio(m.named("without"))
	return r, errors.Join(with.resume(), without.resume())
}

// members opens streams at a server of their own and measures the memory that each takes.
func (b *bench) members(r *streamsResult) error {
	s, err := spawnRole("ntrack", b.serverCPU, b.loadCPU, "ntrack")
	if err != nil {
		return err
	}
	defer s.stop()
	w, err := newWatchers(s.port)
	if err != nil {
		return err
	}
	defer w.close()
	if r.Baseline, err = rssOf(s.pid); err != nil {
		return err
	}
	for i := range r.Streams {
		if err := w.open(fmt.Sprint("members", i/10), 1+i%10); err != nil {
			return err
		}
	}
	after, err := w.rest(s, 3*b.rest) // long enough for a heartbeat of each
	r.Members = float64(after-r.Baseline) / float64(r.Streams)
	return err
}

// lookers opens streams at one key and measures their memory and CPU time.
func (b *bench) lookers(s *rival, w *watchers, r *streamsResult) error {
	// Otherwise a later collection could make the process smaller than it is before the streams.
	if _, err := s.command("gc"); err != nil {
		return err
	}
	before, err := rssOf(s.pid)
	if err != nil {
		return err
	}
	for range r.Streams {
		if err := w.open("lookers", 0); err != nil {
			return err
		}
	}
	began, err := usageOf(s.pid)
	if err != nil {
		return err
	}
	after, err := w.rest(s, 3*b.rest) // long enough for a heartbeat of each
	if err != nil {
		return err
	}
	rested, err := usageOf(s.pid)
	r.Lookers = float64(after-before) / float64(r.Streams)
	r.AtRest = float64(rested.cpu-began.cpu) / float64(3*b.rest)
	return err
}

// rest reads heartbeats for a while and then returns the resident memory.
func (w *watchers) rest(s *rival, d time.Duration) (int64, error) {
	if _, err := w.await(math.MaxInt, d, func() {}); err != nil {
		return 0, err
	}
	return rssOf(s.pid)
}

// fanOut lets a peer join once a second and measures when each stream reports it.
func (b *bench) fanOut(s *rival, w *watchers, r *streamsResult) error {
	if err := errors.Join(s.useCPUs(len(b.cpus), b.cpus...), pinProcess(os.Getpid(), setOf(b.cpus...))); err != nil {
		return err
	}
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", s.port))
	if err != nil {
		return err
	}
	defer c.Close()
	var p50, p99 []float64
	var cpu time.Duration
	for i := range r.Joins {
		before, err := usageOf(s.pid)
		if err != nil {
			return err
		}
		var times histogram
		began := time.Now()
		if err := ask(c, fmt.Sprint("/ntrk/lookers?numwant=0&port=", 1+i)); err != nil {
			return err
		}
		reported, err := w.await(r.Streams, stuck, func() { times.add(time.Since(began)) })
		if err != nil {
			return err
		}
		if reported != r.Streams {
			return fmt.Errorf("%d of %d streams reported a join", reported, r.Streams)
		}
		after, err := usageOf(s.pid)
		if err != nil {
			return err
		}
		cpu += after.cpu - before.cpu
		p50 = append(p50, times.percentile(0.5).Seconds()*1e3)
		p99 = append(p99, times.percentile(0.99).Seconds()*1e3)
		if again, err := w.await(1, time.Until(began.Add(time.Second)), func() {}); err != nil || again > 0 {
			return errors.Join(err, fmt.Errorf("a join was reported %d times too often", again))
		}
	}
	r.P50, r.P99 = spreadOf(p50), spreadOf(p99)
	r.CPU = float64(cpu.Nanoseconds()) / 1e3 / float64(r.Joins*r.Streams)
	return errors.Join(s.useCPUs(1, b.serverCPU), pinProcess(os.Getpid(), setOf(b.loadCPU)))
}

// ask sends a request and expects status 200.
func ask(c net.Conn, target string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: t\r\n\r\n", target); err != nil {
		return err
	}
	var reply [2048]byte
	n, err := c.Read(reply[:])
	if err != nil || !bytes.HasPrefix(reply[:n], []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%s: %q, %v", target, reply[:n], err)
	}
	return nil
}
