//go:build amd64 || arm64

package main

import (
	"bytes"
	"fmt"
	"syscall"
	"time"

	"ntrack/bench/measure"
)

// A burstResult is about peers that join one key within a second, each with an event stream.
type burstResult struct {
	Server   string  `json:"server"`
	Members  int     `json:"members"`
	Done     int     `json:"done"`              // streams that have sent every peer
	Seconds  float64 `json:"seconds"`           // from the first join until all have, or patience
	CPU      float64 `json:"cpu_seconds"`       // of the server, in that time
	RSS      float64 `json:"peak_rss_bytes"`    // of the server
	Sockets  float64 `json:"peak_socket_bytes"` // in the buffers of all sockets of this machine
	Quiet    float64 `json:"quiet_p99_ms"`      // of announces at another key before the burst
	P99      float64 `json:"p99_ms"`            // of these announces until every stream has sent every peer
	Reopened int     `json:"reopened"`          // streams that the server ended
}

// patience is the longest time that a burst may take.
const patience = time.Minute

// A member is a client whose stream shows which peers of the key it knows.
type member struct {
	fd    int
	sent  bool   // the request
	head  []byte // until the list begins
	phase int    // 0 is the head, 1 the list of peers, 2 events
	last  byte
	// An endpoint has three dots, and a join has one j. Nothing else after the head has either.
	listDots, dots, joins int
	done                  bool
}

// known is how many peers the stream has sent, without those that left.
func (m *member) known() int { return m.listDots/3 + m.joins - max(0, m.dots/3-m.joins) }

func (m *member) take(b []byte) error {
	if m.phase == 0 {
		m.head = append(m.head, b...)
		if !bytes.HasPrefix(m.head, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("no stream: %q", m.head)
		}
		_, list, found := bytes.Cut(m.head, []byte("\nevent: peers\n"))
		if !found {
			return nil
		}
		b, m.head, m.phase = list, nil, 1
	}
	if m.phase == 1 && len(b) > 0 {
		end := bytes.Index(b, []byte("\n\n"))
		if m.last == '\n' && b[0] == '\n' {
			end = 0
		}
		if end < 0 {
			m.listDots += bytes.Count(b, []byte("."))
			m.last = b[len(b)-1]
			return nil
		}
		m.listDots += bytes.Count(b[:end], []byte("."))
		b, m.phase = b[end:], 2
	}
	m.dots += bytes.Count(b, []byte("."))
	m.joins += bytes.Count(b, []byte("j"))
	return nil
}

// burstClients are the members, and a client that announces at another key meanwhile.
type burstClients struct {
	ep, port int
	members  []member
	opened   int
	done     int
	reopened int
	buf      [64 << 10]byte

	other   int // the connection of the other client
	waiting bool
	asked   time.Time
	times   measure.Histogram
}

const otherClient = -1 // in place of the number of a member

// burst lets n peers join a key. The CPUs have the server and the clients.
func (b *bench) burst(name string, n int) (r burstResult, err error) {
	r.Server, r.Members = name, n
	s, err := b.spawnStreams(name)
	if err != nil {
		return r, err
	}
	defer s.stop()
	c := &burstClients{port: s.port, members: make([]member, n)}
	if c.ep, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return r, err
	}
	defer syscall.Close(c.ep)
	if c.other, err = dial(s.port, [4]byte{127, 0, 0, 1}, 0); err != nil {
		return r, err
	}
	defer syscall.Close(c.other)
	defer func() {
		for _, m := range c.members[:c.opened] {
			_ = syscall.Close(m.fd)
		}
	}()
	if err := c.control(syscall.EPOLL_CTL_ADD, c.other, otherClient, syscall.EPOLLIN); err != nil {
		return r, err
	}
	for began := time.Now(); time.Since(began) < time.Second/2; {
		if err := c.step(); err != nil {
			return r, err
		}
	}
	r.Quiet, c.times = c.times.Percentile(0.99).Seconds()*1e3, measure.Histogram{}
	before, err := measure.UsageOf(s.PID)
	if err != nil {
		return r, err
	}
	sockets := socketsInUse().buffers
	peak, sampled := sockets, time.Now()
	began := time.Now()
	for c.done < n {
		since := time.Since(began)
		for ; c.opened < min(n, int(float64(n)*since.Seconds())+1); c.opened++ {
			if err := c.open(c.opened); err != nil {
				return r, err
			}
		}
		if err := c.step(); err != nil {
			return r, fmt.Errorf("%s: a burst of %d members: %w", name, n, err)
		}
		if time.Since(sampled) > 20*time.Millisecond {
			peak, sampled = max(peak, socketsInUse().buffers), time.Now()
		}
		if since > patience {
			break
		}
	}
	r.Done, r.Seconds, r.P99, r.Reopened = c.done, time.Since(began).Seconds(), c.times.Percentile(0.99).Seconds()*1e3, c.reopened
	r.Sockets = float64(peak - sockets)
	after, err := measure.UsageOf(s.PID)
	if err != nil {
		return r, err
	}
	r.CPU = (after.CPU - before.CPU).Seconds()
	rss, err := measure.PeakRSSOf(s.PID)
	r.RSS = float64(rss)
	return r, err
}

// open connects member i. If the connection is not complete at once, the request is sent later.
func (c *burstClients) open(i int) (err error) {
	m := &c.members[i]
	*m = member{done: m.done}
	if m.fd, err = dial(c.port, from(i), syscall.SOCK_NONBLOCK); err != nil {
		return err
	}
	if err := m.send(i); err != nil {
		return err
	}
	events := uint32(syscall.EPOLLIN)
	if !m.sent {
		events = syscall.EPOLLIN | syscall.EPOLLOUT
	}
	return c.control(syscall.EPOLL_CTL_ADD, m.fd, i, events)
}

func (m *member) send(i int) error {
	_, err := syscall.Write(m.fd, streamRequest("burst", 1+i%10))
	if err == syscall.EAGAIN || err == syscall.ENOTCONN {
		return nil
	}
	m.sent = err == nil
	return err
}

func (c *burstClients) control(op, fd, i int, events uint32) error {
	return syscall.EpollCtl(c.ep, op, fd, &syscall.EpollEvent{Events: events, Fd: int32(i)})
}

// step waits for at most a millisecond. It takes few events at once, so that the other client
// notices its reply soon.
func (c *burstClients) step() error {
	if !c.waiting && time.Since(c.asked) > time.Millisecond {
		c.waiting, c.asked = true, time.Now()
		if _, err := syscall.Write(c.other, []byte("GET /ntrk/other?numwant=0&port=1 HTTP/1.1\r\nHost: t\r\n\r\n")); err != nil {
			return err
		}
	}
	var events [16]syscall.EpollEvent
	n, err := syscall.EpollWait(c.ep, events[:], 1)
	if err != nil && err != syscall.EINTR {
		return err
	}
	for _, e := range events[:max(n, 0)] {
		if err := c.event(int(e.Fd), e.Events); err != nil {
			return err
		}
	}
	return nil
}

func (c *burstClients) event(i int, events uint32) error {
	if i == otherClient {
		n, err := syscall.Read(c.other, c.buf[:])
		if err != nil || !bytes.HasPrefix(c.buf[:max(n, 0)], []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("an announce at another key: %q, %v", c.buf[:max(n, 0)], err)
		}
		c.times.Add(time.Since(c.asked))
		c.waiting = false
		return nil
	}
	m := &c.members[i]
	if !m.sent && events&syscall.EPOLLOUT != 0 {
		if err := m.send(i); err != nil || !m.sent {
			return err
		}
		return c.control(syscall.EPOLL_CTL_MOD, m.fd, i, syscall.EPOLLIN)
	}
	n, err := syscall.Read(m.fd, c.buf[:])
	switch {
	case err == syscall.EAGAIN:
		return nil
	case err != nil || n == 0: // the server has ended a stream that was too slow
		c.reopened++
		_ = syscall.Close(m.fd)
		err = c.open(i)
	default:
		err = m.take(c.buf[:n])
	}
	if done := m.known() == len(c.members)-1; done != m.done {
		m.done = done
		c.done += map[bool]int{true: 1, false: -1}[done]
	}
	return err
}
