//go:build amd64 || arm64

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// A floor has the system calls of a server with one thread, without Go's scheduler and poller.
type floor struct{ ep, listener int }

// newFloor listens at a free port, and prints it.
func newFloor() (*floor, error) {
	runtime.LockOSThread()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	file, err := l.(*net.TCPListener).File() // without Go's poller
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	f := &floor{listener: int(file.Fd())}
	if err := syscall.SetNonblock(f.listener, true); err != nil {
		return nil, err
	}
	if f.ep, err = syscall.EpollCreate1(0); err != nil {
		return nil, err
	}
	f.watch(f.listener, syscall.EPOLLIN)
	fmt.Println(port)
	return f, nil
}

// wait waits for events. If d is not negative, it waits for at most d, rounded up to a millisecond.
func (f *floor) wait(events []syscall.EpollEvent, d time.Duration) (int, error) {
	timeout := uintptr((d + time.Millisecond - 1) / time.Millisecond)
	if d < 0 {
		timeout = ^uintptr(0)
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(f.ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), timeout, 0, 0)
	if errno == syscall.EINTR {
		return 0, nil
	}
	if errno != 0 {
		return 0, os.NewSyscallError("epoll_pwait", errno)
	}
	return int(n), nil
}

func (f *floor) watch(fd int, events uint32) {
	e := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(f.ep), syscall.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
}

// accept returns the next connection, if there is one.
func (f *floor) accept() (fd int, ok bool) {
	r, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(f.listener), 0, 0, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
	return int(r), errno == 0
}

func (f *floor) read(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

func (f *floor) write(fd int, b []byte) {
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

func (f *floor) close(fd int) { syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// runFloor runs a server that does the least any server can. It has one thread, epoll, no parser,
// no table and no clock. It sends the same reply to every request, as long as a real one. It makes
// no system call that could be left out, so no tracker takes less.
func runFloor() error {
	f, err := newFloor()
	if err != nil {
		return err
	}
	keeps, closes := floorReply("X-Padding: close"), floorReply("Connection: close")
	var events [64]syscall.EpollEvent
	var buf [2048]byte
	// answer reads one request, which it expects to come as a whole, and replies. It says whether
	// the connection has ended.
	answer := func(fd int) bool {
		n, errno := f.read(fd, buf[:])
		if errno == syscall.EAGAIN {
			return false
		}
		reply, end := keeps, n == 0 || errno != 0
		if !end && bytes.HasSuffix(buf[:n], []byte("close\r\n\r\n")) {
			reply, end = closes, true
		}
		if n > 0 && errno == 0 {
			f.write(fd, reply)
		}
		if end {
			f.close(fd)
		}
		return end
	}
	for {
		n, err := f.wait(events[:], -1)
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			if int(e.Fd) != f.listener {
				answer(int(e.Fd))
				continue
			}
			for fd, ok := f.accept(); ok; fd, ok = f.accept() {
				// Mostly the request is here already. If it also ends the connection, epoll need
				// not know the connection.
				if !answer(fd) {
					f.watch(fd, epollInET)
				}
			}
		}
	}
}

// floorReply is as long as a tracker's reply and has peers of key 0.
func floorReply(field string) []byte {
	p := population{keys: 1, peers: maxPeers}
	body := []byte("d8:completei0e11:external ip4:\x7f\x00\x00\x0110:incompletei80e8:intervali60e12:min intervali60e5:peers300:")
	for i := range 50 {
		a := address(i)
		body = binary.BigEndian.AppendUint16(append(body, a[:]...), uint16(p.port(0, i)))
	}
	body = append(body, 'e')
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n"+
		"Expires: Thu, 01 Jan 1970 00:15:00 GMT\r\nContent-Length: %d\r\n%s\r\n\r\n", len(body), field)
	return append([]byte(head), body...)
}
