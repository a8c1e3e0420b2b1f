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
	"unsafe"
)

// runFloor runs a server that does the least any server can. It has one thread, epoll, no parser,
// no table and no clock. It sends the same reply to every request, as long as a real one. It makes
// no system call that could be left out, so no tracker takes less.
func runFloor() error {
	runtime.LockOSThread()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	file, err := l.(*net.TCPListener).File() // without Go's poller
	if err != nil {
		return err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	listener := int(file.Fd())
	if err := syscall.SetNonblock(listener, true); err != nil {
		return err
	}
	ep, err := syscall.EpollCreate1(0)
	if err != nil {
		return err
	}
	watch := func(fd int, events uint32) {
		e := syscall.EpollEvent{Events: events, Fd: int32(fd)}
		syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(ep), syscall.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	}
	watch(listener, syscall.EPOLLIN)
	fmt.Println(port)

	keeps, closes := floorReply("X-Padding: close"), floorReply("Connection: close")
	var events [64]syscall.EpollEvent
	var buf [2048]byte
	// answer reads one request, which it expects to come as a whole, and replies. It says whether
	// the connection has ended.
	answer := func(fd int) bool {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if errno == syscall.EAGAIN {
			return false
		}
		reply, end := keeps, n == 0 || errno != 0
		if !end && bytes.HasSuffix(buf[:n], []byte("close\r\n\r\n")) {
			reply, end = closes, true
		}
		if n > 0 && errno == 0 {
			syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&reply[0])), uintptr(len(reply)))
		}
		if end {
			syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0)
		}
		return end
	}
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), ^uintptr(0), 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return os.NewSyscallError("epoll_pwait", errno)
		}
		for _, e := range events[:n] {
			if int(e.Fd) != listener {
				answer(int(e.Fd))
				continue
			}
			for {
				fd, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(listener), 0, 0, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
				if errno != 0 {
					break
				}
				// Mostly the request is here already. If it also ends the connection, epoll need
				// not know the connection.
				if !answer(int(fd)) {
					watch(int(fd), epollInET)
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
