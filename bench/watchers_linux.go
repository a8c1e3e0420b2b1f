//go:build amd64 || arm64

package main

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchers are clients of event streams. They share one thread, which sleeps until events come.
// Stream i comes from the address from(i).
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
	w.shrink(0)
	_ = syscall.Close(w.ep)
}

// shrink ends all streams but the first n.
func (w *watchers) shrink(n int) {
	for _, fd := range w.fds[min(n, len(w.fds)):] {
		_ = syscall.Close(fd)
	}
	w.fds = w.fds[:min(n, len(w.fds))]
}

// from is a loopback address. Ten streams in a row have the same one.
func from(stream int) [4]byte {
	n := stream / 10
	return [4]byte{127, 1, byte(n / 250), byte(1 + n%250)}
}

// dial begins a connection to a port of 127.0.0.1. Unless it blocks, the connection may be complete
// later.
func dial(port int, from [4]byte, flags int) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, err
	}
	// The system chooses the port at connect. At bind there would not be enough ports.
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: from}); err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil && err != syscall.EINPROGRESS {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

func streamRequest(key string, port int) []byte {
	return fmt.Appendf(nil, "GET /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", key, port)
}

// open opens a stream and waits for its first two events.
func (w *watchers) open(key string, port int) error {
	fd, err := dial(w.port, from(len(w.fds)), 0)
	if err != nil {
		return err
	}
	w.fds = append(w.fds, fd)
	if _, err := syscall.Write(fd, streamRequest(key, port)); err != nil {
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

// openMembers opens streams of peers until there are n. Each key has ten.
func (w *watchers) openMembers(n int) error {
	for i := len(w.fds); i < n; i++ {
		if err := w.open(fmt.Sprint("members", i/10), 1+i%10); err != nil {
			return err
		}
	}
	return nil
}

// openLookers opens streams of one key that only look, until there are n.
func (w *watchers) openLookers(n int) error {
	for len(w.fds) < n {
		if err := w.open("lookers", 0); err != nil {
			return err
		}
	}
	return nil
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

// rest reads heartbeats for a while.
func (w *watchers) rest(d time.Duration) error {
	_, err := w.await(math.MaxInt, d, func() {})
	return err
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
