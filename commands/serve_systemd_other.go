//go:build !linux

package commands

import (
	"context"
	"log/slog"
	"time"
)

// Only Linux has systemd.

func activatedEndpoints() ([]endpoint, error) { return nil, nil }

func notifyReady(*slog.Logger) {}

func notifyReloading(*slog.Logger) {}

func notifyStopping(*slog.Logger, time.Duration) {}

func watchdog(context.Context, *slog.Logger, func(context.Context) error) {}
