//go:build unix

package process

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindPort binds the port for TCP and UDP over IPv4 and IPv6. The sockets do not listen, so that peers
// that dial too early are refused, and try again, instead of being accepted and then closed.
func bindPort(port uint16) (release func(), err error) {
	var fds []int
	release = func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		for _, at := range []unix.Sockaddr{&unix.SockaddrInet4{Port: int(port)}, &unix.SockaddrInet6{Port: int(port)}} {
			fd, err := bindSocket(kind, at)
			_, is6 := at.(*unix.SockaddrInet6)
			switch {
			case err == nil:
				fds = append(fds, fd)
			case is6 && !isInUse(err): // this machine has no IPv6
			default:
				release()
				return nil, err
			}
		}
	}
	return release, nil
}

func bindSocket(kind int, at unix.Sockaddr) (fd int, err error) {
	family := unix.AF_INET
	_, is6 := at.(*unix.SockaddrInet6)
	if is6 {
		family = unix.AF_INET6
	}
	syscall.ForkLock.RLock() // no program that starts meanwhile inherits the socket
	fd, err = unix.Socket(family, kind, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, err
	}
	if is6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, at)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func isInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
