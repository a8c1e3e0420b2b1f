package announce_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// If streams do not work, a watch polls and a member announces. Both use streams again when these
// work.
func TestFallback(t *testing.T) {
	type handler = func(w http.ResponseWriter, r *http.Request, next http.Handler)
	for name, asked := range map[string]handler{
		"a tracker without streams": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("Accept", "application/json")
			next.ServeHTTP(w, r)
		},
		"a track that is too large": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.WriteHeader(503)
		},
		"something that gathers": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"something that gathers headers, too": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			<-r.Context().Done()
		},
		"something that minds what is accepted": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.WriteHeader(406)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, k := new(pipes), key(t, "k")
				var mu sync.Mutex
				mended, streams, deletes := false, 0, 0
				h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
				p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					bad := !mended && strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
					if bad {
						streams++
					}
					if r.Method == "DELETE" {
						deletes++
					}
					mu.Unlock()
					if bad {
						asked(w, r, h)
					} else {
						h.ServeHTTP(w, r)
					}
				}))
				defer p.stop()
				w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, 0)
				leave := join(t, p.client("192.0.2.1"), one, k, 4000)
				time.Sleep(2 * time.Minute)
				if got := w.next(); got != "peers [], join 192.0.2.1:4000" && got != "peers [192.0.2.1:4000]" {
					t.Errorf("reported %q", got)
				}
				time.Sleep(time.Hour)
				w.expect(t, "")
				if got := listed(t, p, k); got != "192.0.2.1:4000" {
					t.Errorf("after an hour the tracker lists %q", got)
				}
				mu.Lock()
				if most := 2 * 13; streams > most && !strings.Contains(name, "without") {
					t.Errorf("%d requests for streams in an hour, want at most %d", streams, most)
				}
				mu.Unlock()
				if err := leave(); err != nil {
					t.Error(err)
				}
				if got := listed(t, p, k); got != "" || deletes != 1 {
					t.Errorf("after the leave, with %d DELETEs, the tracker lists %q", deletes, got)
				}
				mu.Lock()
				mended = true
				mu.Unlock()
				time.Sleep(11 * time.Minute)
				w.expect(t, "leave 192.0.2.1:4000")
				dials := p.dials()
				join(t, p.client("192.0.2.2"), one, k, 4000)
				time.Sleep(burst)
				w.expect(t, "join 192.0.2.2:4000") // without a poll
				time.Sleep(time.Hour)
				if n := p.dials() - dials; n != 1 {
					t.Errorf("%d connections in an hour of streams", n)
				}
			})
		})
	}
}

// A member that has announced and then follows a stream is listed by both. Its leave ends both.
func TestLeaveBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		var mu sync.Mutex
		n := 0
		h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			if n++; n == 1 {
				r.Header.Set("Accept", "application/json")
			}
			mu.Unlock()
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		leave := join(t, p.client("192.0.2.1"), one, k, 4000)
		time.Sleep(61 * time.Second)
		if err := leave(); err != nil {
			t.Error(err)
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after the leave the tracker lists %q", got)
		}
	})
}

// If an announce is under way when its member leaves, the tracker does not list the member
// afterwards.
func TestLeaveDuringAnnounce(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(*tracker.Tracker) http.Handler
		at    announce.Tracker
	}{
		"a stream":            {tracker.Handler, named(t, "")},
		"an announce":         {polled, named(t, "")},
		"one by BitTorrent's": {tracker.Handler, named(t, "http://localhost/announce")},
	} {
		for _, slow := range []time.Duration{500 * time.Millisecond, 3 * time.Second} {
			t.Run(fmt.Sprintf("%s, %v", name, slow), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := new(pipes)
					h := c.serve(&tracker.Tracker{Interval: time.Minute}) // made here, so that it has the clock of this test
					p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.Method != "DELETE" && r.FormValue("event") != "stopped" || slow > time.Second {
							time.Sleep(slow) // the request is served even if the client has gone by then
						}
						h.ServeHTTP(w, r)
					}))
					defer p.stop()
					k := key(t, "urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a")
					leave := join(t, p.client("192.0.2.1"), []announce.Tracker{c.at}, k, 4000)
					time.Sleep(100 * time.Millisecond)
					if err := leave(); err != nil {
						t.Error(err)
					}
					time.Sleep(10 * time.Second)
					if got := listed(t, p, k); got != "" {
						t.Errorf("after the leave the tracker lists %q", got)
					}
				})
			})
		}
	}
}

// If Poll is longer than the interval, a member still renews at the interval.
func TestMemberRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		p.start(polled(&tracker.Tracker{Interval: time.Minute}))
		defer p.stop()
		w := watch(t, p.client("192.0.2.1"), one, announce.Request{Key: k, Port: 4000}, time.Hour)
		time.Sleep(50 * time.Minute)
		if got := listed(t, p, k); got != "192.0.2.1:4000" {
			t.Errorf("the tracker lists %q", got)
		}
		w.end()
	})
}

// A client waits longer and longer after streams that end right after they begin. The same is true of
// failures over a family that does not reach the tracker.
func TestStreamBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "retry: 0\n\nevent: you\nid: e\ndata:\ndata: 150\n\nevent: peers\ndata:\n\n")
		}))
		w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, 0)
		time.Sleep(10 * time.Minute)
		if n := p.dials(); n < 20 || n > 80 {
			t.Errorf("%d short streams in ten minutes", n)
		}
		w.expect(t, "peers []")
		w.end()
		p.stop()

		p = newPipes(t)
		w = watch(t, p.both("192.0.2.1", ""), one, announce.Request{Key: k, Port: 4000}, 0)
		time.Sleep(2 * time.Hour)
		if n := p.dials(); n < 5 || n > 40 {
			t.Errorf("%d connection attempts in two hours over a family without a path", n)
		}
		w.expect(t, "peers []")
	})
}

// If the tracker neither closes its side of a stream nor answers a DELETE, it may still list the
// member. Leave reports this within five seconds.
func TestLeaveUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		end := make(chan struct{})
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: you\ndata: 192.0.2.1:4000\ndata: 150\n\nevent: peers\ndata:\n\n")
			_ = http.NewResponseController(w).Flush()
			<-end
		}))
		defer p.stop()
		defer close(end)
		leave := join(t, p.client("192.0.2.1"), one, k, 4000)
		time.Sleep(time.Second)
		began := time.Now()
		if err := leave(); err == nil || time.Since(began) > 6*time.Second {
			t.Errorf("left after %v: %v", time.Since(began), err)
		}
	})
}

// A client ignores unexpected events in a stream. An event that exceeds the limits is an error.
func TestHostileStreams(t *testing.T) {
	const begin = "event: you\nid: e\ndata: 192.0.2.1:4000\ndata: 150\n\nevent: peers\ndata: 192.0.2.7:7\n\n"
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // for all cases together
	defer cancel()
	for _, s := range []struct{ about, stream, want string }{
		{"events before the peers", "event: join\ndata: 192.0.2.8:8\n\nevent: leave\ndata: 192.0.2.8:8\n\n" + begin, "[192.0.2.7:7]"},
		{"a peer that joins twice", begin + strings.Repeat("event: join\ndata: 192.0.2.8:8\n\n", 2), "[192.0.2.7:7 192.0.2.8:8]"},
		{"one that joins twice and leaves", begin + strings.Repeat("event: join\ndata: 192.0.2.8:8\n\n", 2) + "event: leave\ndata: 192.0.2.8:8\n\n", "[192.0.2.7:7]"},
		{"one who is not there leaves", begin + "event: leave\ndata: 192.0.2.8:8\n\n", "[192.0.2.7:7]"},
		{"events unknown", begin + "event: ping\ndata: 192.0.2.8:8\n\ndata: 192.0.2.8:8\n\n", "[192.0.2.7:7]"},
		{"peers that cannot be dialled", begin + "event: join\ndata: 0.0.0.0:8\ndata: 224.0.0.1:8\ndata: x\n\n", "[192.0.2.7:7]"},
		{"yourself among the peers", "event: you\ndata: 192.0.2.1:4000\n\nevent: peers\ndata: 192.0.2.1:4000\ndata: 192.0.2.7:7\n\n", "[192.0.2.7:7]"},
		{"sharing nothing", begin + "event: shared\ndata: x\n\nevent: unshared\ndata: x\n\nevent: shared\ndata: 192.0.2.1:1\ndata: 192.0.2.1:2\n\n", "[192.0.2.7:7]"},
		{"an endless line", begin + "data: " + strings.Repeat("x", 1<<20), "error"},
		{"an endless event", begin + strings.Repeat("data: 192.0.2.8:8\n", 1<<16), "error"},
		{"peers once more", begin + "event: peers\ndata: 192.0.2.8:8\n\n", "[192.0.2.8:8]"},
		{"no beginning", "event: you\ndata: 192.0.2.1:4000\n\n", "error"},
	} {
		t.Run(s.about, func(t *testing.T) {
			const last = "203.0.113.9:9"
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept") == "application/json" {
					w.WriteHeader(404)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
				_, _ = io.WriteString(w, s.stream)
				if s.want != "error" {
					_, _ = io.WriteString(w, "event: join\ndata: "+last+"\n\n")
					_ = http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
					case <-ctx.Done():
						t.Error("the connection is left behind")
					}
				}
			}))
			defer srv.Close()
			var c announce.Client
			got := "nothing"
			for ev, err := range c.Watch(ctx, []announce.Tracker{named(t, srv.URL)}, announce.Request{Key: key(t, "k"), Port: 4000}) {
				if got = strings.Replace(fmt.Sprint(ev.Peers), " "+last, "", 1); err != nil {
					got = "error"
				}
				if err != nil || strings.Contains(fmt.Sprint(ev.Peers), last) {
					break
				}
			}
			if got != s.want {
				t.Errorf("reported %s, want %s", got, s.want)
			}
		})
	}
}

// A stream may send bytes without ever sending its first event, or without ending it. A watch then
// polls instead, and does not report the tracker as unreachable.
func TestStreamsWithoutEnd(t *testing.T) {
	const you, peers = "event: you\nid: e\ndata: 192.0.2.1:4000\ndata: 150\n\n", "event: peers\ndata:\n\n"
	for _, c := range []struct {
		about, begin, goOn string
		every              time.Duration // how often goOn is sent
	}{
		{"an event that never ends", you + peers, "data: 192.0.2.8:8\n", 0},
		{"a line that never ends", you + peers, "data: 192.0.2.8:8", 0},
		{"a first event that never ends", "", "data: 192.0.2.8:8\n", 0},
		{"a first line that never ends", "", "x", 0},
		{"a list of peers that never ends", you + "event: peers\n", "data: 192.0.2.8:8\n", 0},
		{"comments that never end", "", ":\n", 5 * time.Second},
		{"no peers, and comments that never end", you, ":\n\n", 5 * time.Second},
		{"other events that never end", you, "event: news\ndata: x\n\n", 5 * time.Second},
	} {
		t.Run(c.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, k, a := new(pipes), key(t, "k"), &asked{began: time.Now()}
				h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
				p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					a.note(r)
					if !strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
						h.ServeHTTP(w, r)
						return
					}
					w.Header().Set("Content-Type", "text/event-stream")
					_, err := io.WriteString(w, c.begin)
					for err == nil && r.Context().Err() == nil {
						_, err = io.WriteString(w, c.goOn)
						if c.every > 0 {
							_ = http.NewResponseController(w).Flush()
							select {
							case <-time.After(c.every):
							case <-r.Context().Done():
							}
						}
					}
				}))
				defer p.stop()
				var news []error
				ctx, cancel := context.WithCancel(t.Context())
				left := make(chan error)
				go func() {
					left <- stay(ctx, p.client("192.0.2.1"), one, announce.Request{Key: k, Port: 4000}, func(_ announce.Event, err error) {
						if err != nil {
							news = append(news, err)
						}
					})
				}()
				time.Sleep(4*time.Minute + time.Second)
				if got := listed(t, p, k); got != "192.0.2.1:4000" {
					t.Errorf("the tracker lists %q", got)
				}
				cancel()
				if err := <-left; err != nil {
					t.Error(err)
				}
				for _, err := range news {
					if _, ok := errors.AsType[*announce.ReplyError](err); !ok || len(news) > 1 {
						t.Errorf("reported %v", err)
					}
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				for i, accept := range a.accept {
					if (i > 0) == (accept == "text/event-stream") {
						t.Errorf("request %d, at %v, accepts %s", i, a.at[i], accept)
					}
				}
			})
		})
	}
}
