package announce_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// relayed serves a request like an intermediary that goes on after its client has disconnected. It
// passes the reply on to the client while that is connected. show returns the bytes that it passes
// on.
func relayed(h http.Handler, w http.ResponseWriter, r *http.Request, show func(b []byte) []byte) {
	up := &upstream{header: make(http.Header), show: show, down: w}
	served := make(chan struct{})
	go func() {
		defer close(served)
		h.ServeHTTP(up, r.Clone(context.WithoutCancel(r.Context())))
	}()
	select {
	case <-served:
	case <-r.Context().Done():
	}
	up.mu.Lock()
	up.down = nil
	up.mu.Unlock()
}

// upstream is the side of relayed that reads from the tracker.
type upstream struct {
	mu     sync.Mutex
	header http.Header
	show   func([]byte) []byte
	down   http.ResponseWriter // nil when the client has disconnected
	begun  bool
}

func (u *upstream) Header() http.Header { return u.header }

func (u *upstream) WriteHeader(status int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down != nil && !u.begun {
		for name, values := range u.header {
			u.down.Header()[name] = append(u.down.Header()[name], values...)
		}
		u.begun = true
		u.down.WriteHeader(status)
		_ = http.NewResponseController(u.down).Flush()
	}
}

func (u *upstream) Write(b []byte) (int, error) {
	u.WriteHeader(200)
	u.mu.Lock()
	defer u.mu.Unlock()
	if shown := u.show(b); u.down != nil && len(shown) > 0 {
		_, _ = u.down.Write(shown)
		_ = http.NewResponseController(u.down).Flush()
	}
	return len(b), nil
}

func (u *upstream) FlushError() error { return nil }

// A member leaves within about a second through any kind of intermediary, and at any moment.
func TestLeaveThroughIntermediaries(t *testing.T) {
	type serve = func(h http.Handler, w http.ResponseWriter, r *http.Request)
	all := func(b []byte) []byte { return b }
	for name, through := range map[string]serve{
		"passes no half-close on": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
		},
		"closes one side only": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Via", "1.1 cache")
			relayed(h, w, r, all)
		},
		"closes one side only, in chunks": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			relayed(h, chunked{w}, r, all)
		},
		"buffers the events": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Via", "1.1 cache")
			relayed(h, w, r, func(b []byte) []byte {
				if bytes.Contains(b, []byte("event: ")) {
					return nil
				}
				return b
			})
		},
		"buffers events and headers": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
				h.ServeHTTP(w, r)
				return
			}
			go h.ServeHTTP(&upstream{header: make(http.Header), show: all}, r.Clone(context.WithoutCancel(r.Context())))
			<-r.Context().Done()
		},
	} {
		for _, after := range []time.Duration{0, 100 * time.Millisecond, 5 * time.Second, 12 * time.Second, 2 * time.Minute} {
			t.Run(fmt.Sprintf("%s, after %v", name, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, k := new(pipes), key(t, "k")
					tr := &tracker.Tracker{Interval: time.Minute}
					h := tracker.Handler(tr)
					p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { through(h, w, r) }))
					defer p.stop()
					defer tr.EndStreams()
					leave := start(t, p.client("192.0.2.1"), one, k, 4000)
					time.Sleep(after)
					synctest.Wait()
					began := time.Now()
					err := leave()
					if took := time.Since(began); err != nil || took > 1100*time.Millisecond {
						t.Errorf("the leave took %v: %v", took, err)
					}
					for range 2 {
						if got := listed(t, p, k); got != "" {
							t.Errorf("after the leave the tracker lists %q", got)
						}
						time.Sleep(time.Minute)
					}
				})
			})
		}
	}
}

// A member that leaves before the tracker has answered waits for the answer, and no longer.
func TestLeaveWhileJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		tr := &tracker.Tracker{Interval: time.Minute}
		h := tracker.Handler(tr)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
				time.Sleep(300 * time.Millisecond)
			}
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		defer tr.EndStreams()
		leave := start(t, p.client("192.0.2.1"), one, k, 4000)
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		err := leave()
		if took := time.Since(began); err != nil || took != 200*time.Millisecond {
			t.Errorf("the leave took %v (%v), want 200ms", took, err)
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after the leave the tracker lists %q", got)
		}
	})
}

// chunked makes net/http send a stream in chunks, as intermediaries do and trackers do not.
type chunked struct{ http.ResponseWriter }

func (c chunked) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c chunked) WriteHeader(status int) {
	c.Header().Del("Transfer-Encoding")
	c.ResponseWriter.WriteHeader(status)
}

// A tracker may have listed a member even if the answer was lost or the stream broke. If the member
// leaves after that, it is not listed.
func TestLeaveAfterDoubt(t *testing.T) {
	all := func(b []byte) []byte { return b }
	lose := func(h http.Handler, w http.ResponseWriter, r *http.Request) {
		go h.ServeHTTP(&upstream{header: make(http.Header), show: all}, r.Clone(context.WithoutCancel(r.Context())))
		time.Sleep(10 * time.Millisecond)
	}
	for name, first := range map[string]func(h http.Handler, w http.ResponseWriter, r *http.Request){
		"no answer": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			lose(h, w, r)
			panic(http.ErrAbortHandler)
		},
		"half an answer": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			lose(h, w, r)
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"the answer of a gateway": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			lose(h, w, r)
			w.WriteHeader(504)
		},
		"an error of the tracker": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			lose(h, w, r)
			w.WriteHeader(500)
		},
		"no answer that makes sense": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			lose(h, w, r)
			_, _ = w.Write([]byte("<html>"))
		},
		"a stream that falls silent": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			relayed(h, w, r.WithContext(context.WithoutCancel(r.Context())), func(b []byte) []byte {
				if bytes.Contains(b, []byte("event: you")) {
					return b
				}
				return nil
			})
		},
		"a stream that is cut": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			limited, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			relayed(h, w, r.WithContext(limited), all)
			panic(http.ErrAbortHandler)
		},
	} {
		for kind, serve := range serving {
			for _, after := range []time.Duration{200 * time.Millisecond, 1400 * time.Millisecond, 35100 * time.Millisecond, 45 * time.Second} {
				t.Run(fmt.Sprintf("%s by %s, after %v", name, kind, after), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p, k := new(pipes), key(t, "k")
						tr := &tracker.Tracker{Interval: time.Minute}
						h := serve(tr)
						var asked atomic.Int32
						p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if asked.Add(1) == 1 {
								first(h, w, r)
							} else {
								h.ServeHTTP(w, r)
							}
						}))
						defer p.stop()
						defer tr.EndStreams()
						leave := start(t, p.client("192.0.2.1"), one, k, 4000)
						time.Sleep(after)
						if err := leave(); err != nil {
							t.Error(err)
						}
						if got := listed(t, p, k); got != "" {
							t.Errorf("after the leave the tracker lists %q", got)
						}
					})
				})
			}
		}
	}
}

// If the context has ended before Join, the member sends nothing.
func TestJoinAfterEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := stay(ctx, p.client("192.0.2.1"), one, announce.Request{Key: key(t, "k"), Port: 4000}, nil); err != nil || p.dials() != 0 {
			t.Errorf("%d connections, %v", p.dials(), err)
		}
	})
}

// If the tracker does not answer, a leave takes five seconds at most, whatever Client.Timeout is.
// In this time, the member does not announce again.
func TestLeaveFrozen(t *testing.T) {
	for kind, serve := range serving {
		for _, classic := range []bool{false, true} {
			for _, c := range []struct {
				begun   bool
				timeout time.Duration
			}{{false, time.Hour}, {true, time.Hour}, {false, 20500 * time.Millisecond}} {
				begun := c.begun
				t.Run(fmt.Sprintf("%s, classic %v, %v", kind, classic, c), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p, k := new(pipes), key(t, "k")
						tr := &tracker.Tracker{Interval: time.Minute}
						h := serve(tr)
						var frozen atomic.Bool
						frozen.Store(!begun)
						thaw := make(chan struct{})
						var leaving atomic.Bool
						p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if leaving.Load() && r.Method != "DELETE" && r.FormValue("event") != "stopped" {
								t.Errorf("request during the leave: %s %s", r.Method, r.RequestURI)
							}
							if frozen.Load() {
								<-thaw
							}
							h.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
						}))
						defer p.stop()
						defer tr.EndStreams()
						defer close(thaw)
						at := named(t, "")
						if classic {
							at = named(t, "http://localhost/announce")
						}
						client := p.client("192.0.2.1")
						client.Timeout = c.timeout
						leave := start(t, client, []announce.Tracker{at}, k, 4000)
						time.Sleep(20 * time.Second)
						frozen.Store(true)
						leaving.Store(true)
						began := time.Now()
						err := leave()
						if took := time.Since(began); took > 5*time.Second || took < 2*time.Second {
							t.Errorf("the leave took %v", took)
						}
						if _, ok := errors.AsType[*announce.UnreachableError](err); !ok {
							t.Errorf("Leave returned %v, want an UnreachableError", err)
						}
					})
				})
			}
		}
	}
}

// A watch that only looks sends no leave, and ends immediately.
func TestLookEnds(t *testing.T) {
	for kind, serve := range serving {
		for _, slow := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("%s, answered after %v", kind, slow), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, k := new(pipes), key(t, "k")
					var mu sync.Mutex
					var asked []string
					h := serve(&tracker.Tracker{Interval: time.Minute})
					p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						mu.Lock()
						asked = append(asked, r.Method)
						mu.Unlock()
						select {
						case <-time.After(slow):
							h.ServeHTTP(w, r)
						case <-r.Context().Done():
						}
					}))
					defer p.stop()
					c := p.client("192.0.2.9")
					c.From = netip.MustParseAddrPort("192.0.2.9:4000") // a DELETE would remove a peer with this port
					w := watch(t, c, one, announce.Request{Key: k}, 0)
					time.Sleep(5 * time.Second)
					began := time.Now()
					if w.end(); time.Since(began) > 0 {
						t.Errorf("ended after %v", time.Since(began))
					}
					mu.Lock()
					defer mu.Unlock()
					if got := strings.Join(asked, " "); got != "GET" {
						t.Errorf("requests %s", got)
					}
				})
			})
		}
	}
}

// If a member uses the port of origin, and no tracker has reported it, the member sends no leave:
// it does not know its port.
func TestLeaveUnknownPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "DELETE" {
				t.Errorf("DELETE %s", r.RequestURI)
			}
			<-r.Context().Done()
		}))
		defer p.stop()
		leave := start(t, p.client("192.0.2.1"), one, key(t, "k"), 0)
		time.Sleep(5 * time.Second)
		if err := leave(); err != nil {
			t.Error(err)
		}
	})
}

// If the tracker has refused a member, or has not listed it because of a limit, the member sends no
// leave.
func TestLeaveRefused(t *testing.T) {
	for _, status := range []int{401, 403, 404, 429, 503} {
		for _, name := range []string{"localhost", "http://localhost/announce"} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := new(pipes)
					p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.WriteHeader(status)
						if r.Method == "DELETE" || r.FormValue("event") == "stopped" {
							t.Errorf("%s %s", r.Method, r.RequestURI)
						}
					}))
					defer p.stop()
					leave := start(t, p.client("192.0.2.1"), []announce.Tracker{named(t, name)}, key(t, "k"), 4000)
					time.Sleep(100 * time.Millisecond)
					if err := leave(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// An announce lists its member for a ttl, even if a stream of the member ends within this time.
func TestLeaveAfterAnnounceAndStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := new(pipes), key(t, "k")
		tr := &tracker.Tracker{Interval: 10 * time.Minute}
		h := tracker.Handler(tr)
		var asked atomic.Int32
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch asked.Add(1) {
			case 1:
				r.Header.Set("Accept", "application/json")
			case 2:
				w.Header().Set("Content-Length", "1000000")
				limited, cancel := context.WithTimeout(r.Context(), time.Second)
				defer cancel()
				relayed(h, w, r.WithContext(limited), func(b []byte) []byte { return b })
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		defer tr.EndStreams()
		leave := join(t, p.client("192.0.2.1"), one, k, 4000)
		time.Sleep(14 * time.Minute)
		if n := asked.Load(); n != 3 {
			t.Fatalf("%d requests", n)
		}
		if err := leave(); err != nil {
			t.Error(err)
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after the leave the tracker lists %q", got)
		}
	})
}

// Until a classic tracker has answered, each announce has event=started, since the tracker may not
// have listed the peer.
func TestStartedUntilAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		h := tracker.Handler(&tracker.Tracker{Interval: time.Minute})
		var mu sync.Mutex
		var events []string
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			events = append(events, r.FormValue("event"))
			first := len(events) == 1
			mu.Unlock()
			if first {
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		leave := start(t, p.client("192.0.2.1"), []announce.Tracker{named(t, "http://localhost/announce")}, key(t, "k"), 4000)
		time.Sleep(70 * time.Second)
		if err := leave(); err != nil {
			t.Error(err)
		}
		if got := strings.Join(events, ","); got != "started,started,,stopped" {
			t.Errorf("events %s", got)
		}
	})
}

// If a look has to announce at a classic tracker, it stops again, even if its context has ended. A
// tracker that does not answer the stop delays the look only a little.
func TestLookStopsAgain(t *testing.T) {
	for _, freezes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := new(pipes)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			thaw := make(chan struct{})
			var mu sync.Mutex
			var events []string
			p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				events = append(events, r.FormValue("event"))
				n := len(events)
				mu.Unlock()
				if n == 2 {
					cancel()
				}
				if n == 2 || n == 3 && freezes {
					<-thaw
				}
				_, _ = w.Write([]byte("d10:incompletei2e8:intervali60e5:peers0:e"))
			}))
			defer p.stop()
			defer close(thaw)
			c := p.client("192.0.2.1")
			c.Timeout = time.Hour
			defer c.Close()
			began := time.Now()
			_, err := c.List(ctx, named(t, "http://localhost/announce"), announce.Request{Key: key(t, "k")})
			if took := time.Since(began); !errors.Is(err, context.Canceled) || took > 2*time.Second {
				t.Errorf("the look took %v: %v", took, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(events, " "); got != "stopped started stopped" {
				t.Errorf("sent %s", got)
			}
		})
	}
}
