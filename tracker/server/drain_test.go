package server_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// A drain serves everything, and ends connections after their reply. Then streams end, and only then
// announces.
func TestDrain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}}
		announce := func(wantClose bool) {
			t.Helper()
			c := pipe(s)
			defer c.Close()
			go io.WriteString(c, "GET /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != 200 || resp.Close != wantClose {
				t.Errorf("%+v, %v", resp, err)
			}
		}
		announce(false)
		began := time.Now()
		drained := make(chan time.Duration, 1)
		ended := make(chan time.Duration, 1)
		stream := openStream(t, pipe(s), "/ntrk/k?port=0")
		go func() {
			s.Drain(t.Context(), 20*time.Second)
			drained <- time.Since(began)
		}()
		go func() {
			if rest, err := io.ReadAll(stream); err != nil || !strings.Contains(string(rest), "retry: ") {
				t.Errorf("the end of the stream: %q, %v", rest, err)
			}
			ended <- time.Since(began)
		}()
		synctest.Wait()
		announce(true)
		late := openStream(t, pipe(s), "/ntrk/k?port=0") // a stream may still begin
		if d := await(t, "the end of a stream", ended); d != 18*time.Second {
			t.Errorf("streams end after %v, want 18s", d)
		}
		if rest, err := io.ReadAll(late); err != nil || !strings.Contains(string(rest), "retry: ") {
			t.Errorf("the end of a late stream: %q, %v", rest, err)
		}
		announce(true)
		if d := await(t, "the end of the drain", drained); d != 20*time.Second {
			t.Errorf("the drain lasts %v", d)
		}
		announce(true)
		if err := shutdown(s); err != nil {
			t.Error(err)
		}
	})
}

// In a short drain, streams end in its last quarter.
func TestDrainShort(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}}
		defer shutdown(s)
		stream := openStream(t, pipe(s), "/ntrk/k?port=0")
		began := time.Now()
		go s.Drain(t.Context(), 4*time.Second)
		if _, err := io.ReadAll(stream); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("a stream ends after %v of 4s, %v", time.Since(began), err)
		}
		time.Sleep(time.Second) // until Drain has returned
	})
}

// Drain ends with its context.
func TestDrainNow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &server.Server{Tracker: &tracker.Tracker{}}
	s.Drain(ctx, time.Hour)
}
