package announce_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// Leave waits for both families, however slow one of them is, and returns an error if the tracker
// does not answer over one. A family without a path to the tracker is no error: the tracker has
// listed no peer over it.
func TestLeaveBothFamilies(t *testing.T) {
	const four, six = "192.0.2.1", "2001:db8::1"
	slow := func(d time.Duration) func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			time.Sleep(d)
			h.ServeHTTP(w, r)
		}
	}
	for _, c := range []struct {
		about, addr6 string
		over6        func(w http.ResponseWriter, r *http.Request, h http.Handler)
		lost         bool          // packets over IPv6 get lost
		ends         time.Duration // when the context ends; 0 is never
		listed       string
		err          string // "" for none
		within       time.Duration
	}{
		{about: "half a second later", addr6: six, over6: slow(500 * time.Millisecond), within: 501 * time.Millisecond},
		{about: "eight seconds later", addr6: six, over6: slow(8 * time.Second), within: 8001 * time.Millisecond},
		{about: "no answer", addr6: six, over6: slow(20 * time.Second), listed: "[" + six + "]:4000", err: "no answer within 10s", within: 10 * time.Second},
		{about: "the end of its context", addr6: six, over6: slow(5 * time.Second), ends: time.Second, listed: "[" + six + "]:4000", err: "context deadline exceeded", within: time.Second},
		{about: "a refusal", addr6: six, over6: func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(503)
			_, _ = w.Write([]byte("too much\n"))
		}, listed: "[" + six + "]:4000", err: "too much", within: time.Second},
		{about: "no route", over6: slow(0), within: time.Second},
		{about: "nothing gets through", addr6: six, lost: true, listed: "[" + six + "]:4000", within: 10 * time.Second},
		{about: "nothing gets through, and the end of its context", addr6: six, lost: true, ends: time.Second,
			listed: "[" + six + "]:4000", err: "context deadline exceeded", within: time.Second},
	} {
		for _, classic := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, classic %v", c.about, classic), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, at := new(pipes), named(t, "")
					if classic {
						at = named(t, "http://localhost/announce")
					}
					k := key(t, "urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a")
					h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
					var leaving atomic.Bool
					p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if leaving.Load() && strings.HasPrefix(r.RemoteAddr, "[") {
							c.over6(w, r, h)
						} else {
							h.ServeHTTP(w, r)
						}
					}))
					defer p.stop()
					client := p.both(four, c.addr6)
					defer client.Close()
					r := announce.Request{Key: k, Port: 4000}
					reply, err := client.Announce(t.Context(), at, r)
					if err != nil || len(reply.Endpoints) != len(strings.Fields(four+" "+c.addr6)) {
						t.Fatalf("%+v, %v", reply, err)
					}
					leaving.Store(true)
					if c.lost {
						client.Close()
						p.lose(c.addr6, true)
					}
					ctx := t.Context()
					if c.ends > 0 {
						limited, cancel := context.WithTimeout(ctx, c.ends)
						defer cancel()
						ctx = limited
					}
					began := time.Now()
					err = client.Leave(ctx, at, r)
					if took := time.Since(began); took > c.within {
						t.Errorf("the leave took %v", took)
					}
					if got := listed(t, p, k); got != c.listed {
						t.Errorf("after the leave the tracker lists %q, want %q", got, c.listed)
					}
					if err != nil && (c.err == "" || !strings.Contains(err.Error(), c.err)) || err == nil && c.err != "" {
						t.Errorf("Leave returned %v, want %q", err, c.err)
					}
					time.Sleep(time.Minute) // until the requests that were given up have ended
				})
			})
		}
	}
}

// If the tracker is unreachable over all families, Leave returns an error.
func TestLeaveNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes(t)
		p.stop()
		r := announce.Request{Key: key(t, "k"), Port: 4000}
		for _, c := range []*announce.Client{p.both("192.0.2.1", "2001:db8::1"), p.both("192.0.2.1", ""), p.both("", "")} {
			err := c.Leave(t.Context(), named(t, ""), r)
			if _, ok := errors.AsType[*announce.UnreachableError](err); !ok {
				t.Errorf("Leave returned %v", err)
			}
		}
	})
}

// If a member cannot leave a tracker over either family, Leave returns one error for this tracker.
func TestLeaveOneError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(polled(&tracker.Tracker{Interval: time.Minute}))
		leave := join(t, p.both("192.0.2.1", "2001:db8::1"), one, key(t, "k"), 4000)
		p.stop()
		if err := leave(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("Leave returned %v, want one error", err)
		}
	})
}
