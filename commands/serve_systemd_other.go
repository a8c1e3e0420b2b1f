//go:build !linux

package commands

import (
	"log/slog"
	"time"
)

// Only Linux has systemd.

func activatedEndpoints() ([]endpoint, error) { return nil, nil }

func notifyReady(*slog.Logger) {}

func notifyReloading(*slog.Logger) {}

func notifyStopping(*slog.Logger, time.Duration) {}
