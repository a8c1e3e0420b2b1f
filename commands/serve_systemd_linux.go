package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// activatedEndpoints returns the sockets that systemd has opened for this process (sd_listen_fds(3)),
// and none if another program started it. Closing an endpoint does not close the socket, because
// systemd keeps it. So connections that arrive while the tracker restarts wait for the next process.
func activatedEndpoints() (endpoints []endpoint, err error) {
	for _, f := range activation.Files(true) {
		e, activationErr := activatedEndpoint(f)
		_ = f.Close() // the listener has a copy
		if activationErr != nil {
			err = errors.Join(err, activationErr)
			continue
		}
		endpoints = append(endpoints, e)
	}
	if err != nil {
		closeAll(endpoints)
		return nil, err
	}
	return endpoints, nil
}

func activatedEndpoint(f *os.File) (endpoint, error) {
	name := f.Name()
	kind := endpointKind(name)
	switch {
	case kind == plainEndpoint, kind == tlsEndpoint, kind == adminEndpoint:
	case strings.HasSuffix(name, ".socket"), strings.HasPrefix(name, "LISTEN_FD_"), name == "unknown":
		kind = plainEndpoint // the unit has no FileDescriptorName
	case name == "connection":
		return endpoint{}, errors.New("systemd passed a connection instead of a listening socket: remove Accept=yes from the .socket unit")
	default:
		return endpoint{}, fmt.Errorf("systemd socket %q: FileDescriptorName must be plain, tls or admin", shown(name))
	}
	if listens, err := socketOption(f, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return endpoint{}, fmt.Errorf("systemd socket %q does not listen: the .socket unit must have ListenStream=", shown(name))
	}
	l, err := net.FileListener(f)
	if err != nil {
		return endpoint{}, fmt.Errorf("systemd socket %q: %w", shown(name), err)
	}
	e := endpoint{kind: kind, listener: l, option: listenOf(f, l)}
	if e.address = e.option; l.Addr().Network() != "unix" {
		e.address = boundTo(l, e.option)
	}
	return e, nil
}

// listenOf is the --listen that would open the same socket.
func listenOf(f *os.File, l net.Listener) string {
	at, ok := l.Addr().(*net.TCPAddr)
	switch {
	case !ok:
		return "unix:" + l.Addr().String()
	case at.IP.To4() == nil && at.IP.IsUnspecified():
		if only6, err := socketOption(f, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); err == nil && only6 == 0 {
			return fmt.Sprintf(":%d", at.Port)
		}
	}
	return l.Addr().String()
}

// socketOption reads an option of a socket. File.Fd would make the socket blocking, also for another
// process that still accepts connections from it.
func socketOption(f *os.File, level, option int) (value int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if controlErr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, option) }); controlErr != nil {
		return 0, controlErr
	}
	return value, err
}

// notifyReady reports to systemd that the tracker listens, or that a reload is over (sd_notify(3)).
func notifyReady(log *slog.Logger) { notifySystemd(log, daemon.SdNotifyReady+"\nSTATUS=serving") }

func notifyReloading(log *slog.Logger) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	notifySystemd(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d\nSTATUS=reading files again", daemon.SdNotifyReloading, now.Nano()/1000))
}

// notifyStopping reports that the tracker ends within a time. systemd then waits for that long, even
// if the unit has a shorter TimeoutStopSec.
func notifyStopping(log *slog.Logger, within time.Duration) {
	notifySystemd(log, fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d\nSTATUS=ending", daemon.SdNotifyStopping, within.Microseconds()))
}

// watchdog reports to systemd that check succeeds, twice in the unit's WatchdogSec, until ctx ends.
// check shows that the tracker works, and not only that this process exists. It asks the tracker from
// inside: during an attack a connection of its own might not get through, and then systemd would
// restart a tracker that works.
func watchdog(ctx context.Context, log *slog.Logger, check func(context.Context) error) {
	timeout, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of systemd is off: " + err.Error())
	}
	if timeout <= 0 {
		return
	}
	for tick := time.Tick(timeout / 2); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		checkCtx, cancel := context.WithTimeout(ctx, timeout/2)
		err := check(checkCtx)
		cancel()
		switch {
		case err == nil:
			notifySystemd(log, daemon.SdNotifyWatchdog)
		case ctx.Err() == nil:
			log.Error("the tracker does not answer its own check; systemd may end it: " + err.Error())
		}
	}
}

func notifySystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot report the state to systemd: " + err.Error())
	}
}
