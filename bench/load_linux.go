//go:build amd64 || arm64

package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"ntrack/bench/measure"
)

// A load is a group of clients. Each announces again as soon as it has its reply. One thread runs all
// of them, without Go's scheduler and poller. The thread never sleeps: waking it up would take CPU
// time of the server, which clients on another machine do not take.
type load struct {
	*population
	port      int
	clients   int
	keepAlive bool
	listsSelf bool // see population.check
	anyKey    bool // all replies are those to key 0
	yield     bool // the server has no CPU of its own
	// gate, unless nil, stops the server while all clients connect and send, and then lets it
	// answer. To connect takes the load longer than the server. Without a gate the load would be
	// the limit, and the time in which the server falls asleep would be measured.
	gate func(open bool) error
	open time.Duration // how long the gate was open

	// next returns which peer announces next as client i. more is false at the end.
	next func(i int) (key, peer int, more bool)

	ep     int
	conns  []client
	active int
	done   int
	times  measure.Histogram
}

type client struct {
	fd        int
	key, peer int
	sent      bool
	began     time.Duration
	n         int
	buf       [2048]byte
}

const (
	epollET    = 1 << 31
	epollInET  = epollET | syscall.EPOLLIN | syscall.EPOLLRDHUP
	epollEndET = epollET | syscall.EPOLLRDHUP // all there is to read has come
	stuck      = 10 * time.Second
)

// run puts the server under load. It calls begin after warm, and end after d more. It ends earlier
// if next has no more announces.
func (l *load) run(warm, d time.Duration, begin, end func()) error {
	var err error
	if l.ep, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	defer syscall.Close(l.ep)
	l.conns = make([]client, l.clients)
	defer func() {
		for i := range l.conns {
			if c := &l.conns[i]; c.fd > 0 {
				_ = syscall.Close(c.fd)
			}
		}
	}()
	base := time.Now()
	last := time.Duration(0)
	opened, err := l.crowd(base)
	if err != nil {
		return err
	}
	var events [64]syscall.EpollEvent
	phase := 0 // 0 is warming up, 1 is measuring, 2 is over
	// step begins the next phase if it is time, and returns the time since the phase began.
	step := func(now time.Duration) time.Duration {
		if phase == 0 && now >= warm {
			begin()
			l.done, l.times, l.open = 0, measure.Histogram{}, 0
			phase, base = 1, time.Now()
			for i := range l.conns {
				l.conns[i].began -= now
			}
			now, last = 0, 0
		}
		if phase == 1 && now >= d && l.done > 0 { // on a busy machine the first reply may take longer than d
			end()
			phase = 2
		}
		return now
	}
	for l.active > 0 {
		timeout := uintptr(0)
		if l.yield {
			timeout = 1
		}
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(l.ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), timeout, 0, 0)
		if errno != 0 && errno != syscall.EINTR {
			return errno
		}
		now := time.Since(base)
		switch {
		case errno != 0 || n == 0:
			n = 0
			if now-last > stuck {
				return fmt.Errorf("no reply for %v", stuck)
			}
		default:
			last = now
		}
		if l.gate == nil {
			now = step(now)
		}
		for _, e := range events[:n] {
			if err := l.event(int(e.Fd), e.Events, now, phase < 2 && l.gate == nil); err != nil {
				return err
			}
		}
		if l.gate != nil && l.active == 0 {
			l.open += time.Since(base) - opened
			if last = step(time.Since(base)); phase == 2 {
				return nil
			}
			if opened, err = l.crowd(base); err != nil {
				return err
			}
		}
	}
	if phase < 2 {
		end()
	}
	return nil
}

// crowd lets every client announce and then opens the gate.
func (l *load) crowd(base time.Time) (opened time.Duration, err error) {
	if l.gate != nil {
		if err := l.gate(false); err != nil {
			return 0, err
		}
	}
	for i := range l.conns {
		if err := l.start(i, 0); err != nil {
			return 0, err
		}
	}
	opened = time.Since(base)
	if l.gate == nil {
		return opened, nil
	}
	for i := range l.conns {
		l.conns[i].began = opened // the server was stopped before
	}
	return opened, l.gate(true)
}

// start lets client i announce.
func (l *load) start(i int, now time.Duration) error {
	c := &l.conns[i]
	key, peer, more := l.next(i)
	if !more {
		return nil
	}
	l.active++
	c.key, c.peer, c.began, c.n, c.sent = key, peer, now, 0, false
	if c.fd == 0 {
		if err := l.connect(i); err != nil {
			return err
		}
	}
	return l.send(c)
}

func (l *load) connect(i int) error {
	fd, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return errno
	}
	c := &l.conns[i]
	c.fd = int(fd)
	// The system chooses the port at connect. At bind there would not be enough ports.
	const bindAddressNoPort = 24
	one := uint32(1)
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_IP, bindAddressNoPort, uintptr(unsafe.Pointer(&one)), 4, 0)
	from := syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: address(c.peer)}
	if _, _, errno = syscall.RawSyscall(syscall.SYS_BIND, fd, uintptr(unsafe.Pointer(&from)), unsafe.Sizeof(from)); errno != 0 {
		return fmt.Errorf("bind: %w", errno)
	}
	to := syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: [4]byte{127, 0, 0, 1}}
	*(*[2]byte)(unsafe.Pointer(&to.Port)) = [2]byte{byte(l.port >> 8), byte(l.port)}
	_, _, errno = syscall.RawSyscall(syscall.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
	if errno != 0 && errno != syscall.EINPROGRESS {
		return fmt.Errorf("connect: %w", errno)
	}
	events := uint32(epollInET)
	if !l.keepAlive {
		events = epollEndET
	}
	return l.control(syscall.EPOLL_CTL_ADD, i, events)
}

func (l *load) control(op uintptr, i int, events uint32) error {
	e := syscall.EpollEvent{Events: events, Fd: int32(i)}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(l.ep), op, uintptr(l.conns[i].fd), uintptr(unsafe.Pointer(&e)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// send writes the request. On the loopback device a connection is mostly established when connect
// returns. If it is not, send is called again later.
func (l *load) send(c *client) error {
	r := l.request(c.key, c.peer)
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&r[0])), uintptr(len(r)))
	switch {
	case errno == syscall.EAGAIN:
		return l.control(syscall.EPOLL_CTL_MOD, c.index(l), epollInET|syscall.EPOLLOUT)
	case errno != 0:
		return fmt.Errorf("send: %w", errno)
	case int(n) != len(r):
		return errors.New("send: cut short")
	}
	c.sent = true
	return nil
}

func (c *client) index(l *load) int {
	return int((uintptr(unsafe.Pointer(c)) - uintptr(unsafe.Pointer(&l.conns[0]))) / unsafe.Sizeof(*c))
}

// event reads what has come for client i, and checks a complete reply.
func (l *load) event(i int, events uint32, now time.Duration, again bool) error {
	c := &l.conns[i]
	if !c.sent {
		return l.send(c)
	}
	b := c.buf[c.n:]
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno == syscall.EAGAIN {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("receive: %w", errno)
	}
	c.n += int(n)
	whole, err := replyLen(c.buf[:c.n])
	if err != nil {
		return err
	}
	ended := events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP) != 0
	switch {
	case whole > 0 && c.n > whole, ended && c.n != whole:
		return fmt.Errorf("%d bytes, with a reply of %d: %q", c.n, whole, c.buf[:c.n])
	case c.n != whole, !l.keepAlive && !ended:
		return nil // more is to come
	case l.keepAlive && ended:
		return errors.New("the server ended a connection that it must keep")
	}
	key := c.key
	if l.anyKey {
		key = 0
	}
	if err := l.check(c.buf[:c.n], key, c.peer, l.listsSelf); err != nil {
		return err
	}
	l.times.Add(now - c.began)
	l.done++
	l.active--
	if !l.keepAlive {
		syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(c.fd), 0, 0)
		c.fd = 0
	}
	if !again {
		return nil
	}
	return l.start(i, now)
}

// random lets random peers of random keys announce. A connection that is kept has the address of
// one peer, and announces for every key.
func (l *load) random(seed uint64) {
	x := seed | 1
	l.next = func(i int) (int, int, bool) {
		x ^= x << 13 // xorshift64
		x ^= x >> 7
		x ^= x << 17
		peer := i % l.peers
		if !l.keepAlive {
			peer = int(x & 0xffffffff % uint64(l.peers))
		}
		return int(x >> 33 % uint64(l.keys)), peer, true
	}
}

// everyone lets every peer announce once.
func (l *load) everyone() {
	l.clients = l.peers
	announced := make([]int, l.clients) // by client
	l.next = func(i int) (int, int, bool) {
		key := announced[i]
		announced[i]++
		return key, i, key < l.keys
	}
}
