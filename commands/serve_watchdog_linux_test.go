package commands

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A check that fails leaves systemd's watchdog without a sign of life, and the log says why.
func TestWatchdogFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	checks := 0
	var out bytes.Buffer
	watchdog(ctx, slog.New(slog.NewTextHandler(&out, nil)), func(context.Context) error {
		if checks++; checks < 3 {
			return errors.New("a worker is stuck")
		}
		cancel()
		return nil
	})
	_ = notify.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 100)
	n, err := notify.Read(b)
	if err != nil || string(b[:n]) != "WATCHDOG=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
	_ = notify.SetReadDeadline(time.Unix(1, 0))
	if n, err := notify.Read(b); err == nil {
		t.Errorf("another sign of life: %q", b[:n])
	}
	if got := strings.Count(out.String(), "a worker is stuck"); got != 2 {
		t.Errorf("the log has\n%s", &out)
	}
}
