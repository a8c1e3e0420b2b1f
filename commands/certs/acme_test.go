package certs_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/commands/certs"
)

// A clockLog keeps when each line was logged.
type clockLog struct {
	slog.Handler
	times *[]time.Time
}

func (clockLog) Enabled(context.Context, slog.Level) bool { return true }

func (l clockLog) Handle(context.Context, slog.Record) error {
	*l.times = append(*l.times, time.Now())
	return nil
}

// failing runs an authority whose orders fail. It returns when each order failed.
func failing(t *testing.T, during func(*certs.Authority)) []time.Time {
	t.Helper()
	a, err := certs.NewAuthority([]string{"t.example"}, t.TempDir(), "none://authority")
	if err != nil {
		t.Fatal(err)
	}
	var times []time.Time
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(ctx, slog.New(clockLog{slog.DiscardHandler, &times}))
	}()
	synctest.Wait()
	during(a)
	cancel()
	<-ended
	return times
}

// The time between orders that fail doubles from a minute to an hour, and is up to a tenth longer.
func TestOrdersBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := failing(t, func(*certs.Authority) { time.Sleep(8 * time.Hour) })
		wants := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}
		if len(times) <= len(wants) {
			t.Fatalf("%d orders in 8 hours", len(times))
		}
		for i, want := range wants {
			want *= time.Minute
			if got := times[i+1].Sub(times[i]); got < want || got > want+want/10 {
				t.Errorf("order %d comes after %v, want %v", i+2, got, want)
			}
		}
	})
}

// A reload makes the next order at once.
func TestReloadOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := failing(t, func(a *certs.Authority) {
			a.Reload()
			synctest.Wait()
		})
		if len(times) != 2 || times[1] != times[0] {
			t.Errorf("orders at %v, want two at once", times)
		}
	})
}
