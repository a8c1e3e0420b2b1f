package commands

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// The message about a port that --dns cannot have says what helps, as the user knows the port.
func TestDNSError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{syscall.EACCES, "--dns 192.0.2.1:53: not permitted; a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE"},
		{syscall.EADDRINUSE, "--dns 192.0.2.1:53: another program has this port, such as a resolver; name one address of this machine, as in --dns 192.0.2.1:53, or another port"},
		{syscall.ENOBUFS, "--dns 192.0.2.1:53: " + syscall.ENOBUFS.Error()},
	} {
		err := dnsError("192.0.2.1:53", &net.OpError{Op: "listen", Net: "udp", Err: os.NewSyscallError("bind", tt.err)})
		if got := err.Error(); got != tt.want {
			t.Errorf("%s\nwant %s", got, tt.want)
		}
	}
}
