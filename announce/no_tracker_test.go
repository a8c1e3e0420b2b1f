package announce_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
)

// Without a tracker, Join and Watch return an error immediately.
func TestNoTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var c announce.Client
		for _, r := range []announce.Request{{Key: key(t, "k")}, {Key: key(t, "k"), Port: 4000}} {
			errs := 0
			for ev, err := range c.Watch(ctx, nil, r) {
				if errs++; err == nil || !strings.Contains(err.Error(), "no tracker") {
					t.Errorf("port %d: Watch reported %+v, %v", r.Port, ev, err)
				}
			}
			m, err := c.Join(ctx, []announce.Tracker{}, r, func(ev announce.Event, err error) {
				t.Errorf("port %d: Join reported %+v, %v", r.Port, ev, err)
			})
			if m != nil || err == nil || !strings.Contains(err.Error(), "no tracker") || errs != 1 || ctx.Err() != nil {
				t.Errorf("port %d: Watch reported %d errors, Join returned %v", r.Port, errs, err)
			}
		}
	})
}

// If no tracker can ever accept a membership, it ends, and Err returns the errors.
func TestJoinUnacceptable(t *testing.T) {
	// A loop that never waits would stop virtual time.
	guard := time.AfterFunc(time.Minute, func() { panic("TestJoinUnacceptable has not ended after a minute") })
	defer guard.Stop()
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"interval":60,"peers":[]}`) // it reports no own endpoint
		}))
		defer p.stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		reported := 0
		err := stay(ctx, p.client("192.0.2.1"), one, announce.Request{Key: key(t, "k")}, func(_ announce.Event, err error) {
			if err != nil {
				reported++
			}
		})
		if err == nil || !strings.Contains(err.Error(), "port of origin") || reported != 1 || ctx.Err() != nil {
			t.Errorf("reported %d errors, ended with %v", reported, err)
		}
	})
}
