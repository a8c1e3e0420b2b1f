package announce_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// Retry-After has seconds or a date. A date counts relative to the tracker's clock.
func TestRetryAfter(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	for _, c := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", date, 0},
		{"30", date, 30 * time.Second},
		{"0", date, 0},
		{"-30", date, 0},
		{"soon", date, 0},
		{"86400", date, 24 * time.Hour},
		{"86401", date, 24 * time.Hour},
		{"9999999999", date, 24 * time.Hour},
		{strings.Repeat("9", 100), date, 24 * time.Hour},
		{"Sun, 06 Nov 1994 08:50:07 GMT", date, 30 * time.Second},
		{"Sunday, 06-Nov-94 08:50:07 GMT", date, 30 * time.Second},
		{"Sun Nov  6 08:50:07 1994", date, 30 * time.Second},
		{"Mon, 07 Nov 1994 08:49:38 GMT", date, 24 * time.Hour},
		{"Fri, 31 Dec 9999 23:59:59 GMT", date, 24 * time.Hour},
		{date, date, 0},
		{"Sun, 06 Nov 1994 08:49:07 GMT", date, 0},
		{"Mon, 01 Jan 0001 00:00:00 GMT", date, 0},
		{"Sun, 06 Nov 1994 25:50:07 GMT", date, 0},
		{"in 30 s", "", 0},
		{"in 30 s", "yesterday", 0},
	} {
		for kind, answer := range map[string]func(w http.ResponseWriter){
			"503":                func(w http.ResponseWriter) { w.WriteHeader(503) },
			"429":                func(w http.ResponseWriter) { w.WriteHeader(429) },
			"a failure with 200": func(w http.ResponseWriter) { _, _ = w.Write([]byte("d14:failure reason4:busye")) },
		} {
			if c.after == "in 30 s" {
				c.after, c.want = time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat), 30*time.Second
			}
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Date"] = nil
				if c.date != "" {
					w.Header().Set("Date", c.date)
				}
				if c.after != "" {
					w.Header().Set("Retry-After", c.after)
				}
				answer(w)
			}))
			var client announce.Client
			_, err1 := client.List(t.Context(), named(t, srv.URL), announce.Request{Key: key(t, "k")})
			_, err2 := client.Index(t.Context(), named(t, srv.URL))
			for _, err := range []error{err1, err2} {
				f, ok := errors.AsType[*announce.RefusalError](err)
				near := c.date != date && ok && f.Retry > c.want-patience && f.Retry <= c.want && f.Retry%time.Second == 0
				if !ok || f.Retry != c.want && !near {
					t.Errorf("Retry-After %q at %q, %s: %+v, want %v", c.after, c.date, kind, f, c.want)
				}
			}
			client.Close()
			srv.Close()
		}
	}
}

// patience is longer than a few requests take on a busy machine.
const patience = 20 * time.Second

// asked records the requests to a tracker, and their times.
type asked struct {
	mu     sync.Mutex
	at     []time.Duration
	accept []string
	began  time.Time
}

func (a *asked) note(r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Since(a.began))
	accept, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	a.accept = append(a.accept, accept)
}

// After a refusal, every kind of session waits as long as the tracker asks, but at most an hour.
// Without Retry-After it waits, too.
func TestWaitAfterRefusal(t *testing.T) {
	for _, c := range []struct {
		after       string // Retry-After
		least, most time.Duration
	}{
		{"", time.Second / 2, time.Second},
		{"1", time.Second, 1200 * time.Millisecond},
		{"30", 30 * time.Second, 36 * time.Second},
		{"date", 30 * time.Second, 37 * time.Second},
		{"3500", 3500 * time.Second, time.Hour},
		{"86400", time.Hour, time.Hour},
	} {
		for _, status := range []int{429, 500, 502, 503, 504} {
			for _, way := range []string{"member", "watch", "classic member", "classic watch"} {
				t.Run(fmt.Sprintf("Retry-After %q, %d, %s", c.after, status, way), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p, a := new(pipes), &asked{began: time.Now()}
						p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							a.note(r)
							switch c.after {
							case "":
							case "date":
								w.Header().Set("Retry-After", time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat))
							default:
								w.Header().Set("Retry-After", c.after)
							}
							w.WriteHeader(status)
						}))
						defer p.stop()
						at, r := named(t, ""), announce.Request{Key: key(t, "k")}
						if strings.HasPrefix(way, "classic") {
							at = named(t, "http://localhost/announce")
						}
						if strings.HasSuffix(way, "member") {
							r.Port = 4000
						}
						w := watch(t, p.client("192.0.2.1"), []announce.Tracker{at}, r, 0)
						time.Sleep(c.most + time.Millisecond)
						w.stop()
						synctest.Wait()
						a.mu.Lock()
						defer a.mu.Unlock()
						if len(a.at) < 2 || a.at[1] < c.least || a.at[1] > c.most || c.least > time.Second && len(a.at) > 3 {
							t.Errorf("requests at %v, want the second one after %v to %v", a.at, c.least, c.most)
						}
						if len(a.at) > 1 && status >= 500 && a.accept[1] == "text/event-stream" {
							t.Errorf("a second request for a stream: %v", a.accept)
						}
					})
				})
			}
		}
	}
}

// If a tracker refuses only the stream, nothing is reported, and a poll follows after about a
// second. If the tracker asks for a long wait, the refusal is reported immediately.
func TestStreamRefusedQuietly(t *testing.T) {
	for after, want := range map[string]string{"": "peers []", "15": "peers []", "16": "error, peers []", "60": "error, peers []"} {
		t.Run(after, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, a := new(pipes), &asked{began: time.Now()}
				h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
				p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					a.note(r)
					if strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
						if after != "" {
							w.Header().Set("Retry-After", after)
						}
						w.WriteHeader(503)
						return
					}
					h.ServeHTTP(w, r)
				}))
				defer p.stop()
				w := watch(t, p.client("192.0.2.1"), one, announce.Request{Key: key(t, "k"), Port: 4000}, 0)
				time.Sleep(time.Second / 4)
				if got := w.next(); got != "" && got != "error" || (got == "error") != strings.HasPrefix(want, "error") {
					t.Errorf("at once reported %q", got)
				}
				time.Sleep(2 * time.Minute)
				if got := w.next(); !strings.HasSuffix(want, got) || got == "" {
					t.Errorf("then reported %q", got)
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				for i, accept := range a.accept {
					if (i > 0) == (accept == "text/event-stream") {
						t.Errorf("request %d accepts %s", i, accept)
					}
				}
			})
		})
	}
}
