package announce_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// A follow runs Join, Watch or Gather to the end. errs are the errors that were reported on the
// way. err is the error that ended it or, if ctx did, the cause of ctx.
type follow func(ctx context.Context, c *announce.Client, trackers []announce.Tracker, k announce.Key) (errs []error, err error)

var follows = map[string]follow{
	"Join": func(ctx context.Context, c *announce.Client, trackers []announce.Tracker, k announce.Key) (errs []error, err error) {
		m, err := c.Join(ctx, trackers, announce.Request{Key: k, Port: 4000}, func(_ announce.Event, err error) {
			if err != nil {
				errs = append(errs, err)
			}
		})
		if err != nil {
			return nil, err
		}
		<-m.Done()
		if err = m.Err(); err == nil {
			err = context.Cause(ctx)
		}
		return errs, err
	},
	"Watch": func(ctx context.Context, c *announce.Client, trackers []announce.Tracker, k announce.Key) (errs []error, err error) {
		for _, err = range c.Watch(ctx, trackers, announce.Request{Key: k}) {
			if err != nil {
				errs = append(errs, err)
			}
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return errs, err
	},
	"Gather": func(ctx context.Context, c *announce.Client, trackers []announce.Tracker, k announce.Key) (errs []error, err error) {
		g, err := c.Gather(ctx, trackers[0], announce.Request{Key: k, Port: 4000}, 2, func(_ announce.Event, err error) {
			if err != nil {
				errs = append(errs, err)
			}
		})
		_ = g.Leave(ctx)
		return errs, err
	},
}

var errEnough = errors.New("enough")

// If the first request is refused with status 400, 401 or 404, Join, Watch and Gather end
// immediately. Other errors do not end them.
func TestFirstRefusal(t *testing.T) {
	for name, follow := range follows {
		for _, status := range []int{0, 400, 401, 403, 404, 429, 500, 503} {
			for _, at := range []string{"localhost", "http://localhost/announce"} {
				t.Run(fmt.Sprint(name, " ", status, " ", at), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := new(pipes)
						if status > 0 {
							p.start(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
							defer p.stop()
						}
						ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errEnough)
						defer cancel()
						began := time.Now()
						errs, err := follow(ctx, p.client("192.0.2.1"), []announce.Tracker{named(t, at)}, key(t, "k"))
						if status != 400 && status != 401 && status != 404 {
							if !errors.Is(err, errEnough) || len(errs) < 4 || len(errs) > 40 {
								t.Errorf("ended with %v after %v, reported %d errors", err, time.Since(began), len(errs))
							}
							return
						}
						refusal, ok := errors.AsType[*announce.RefusalError](err)
						if !ok || refusal.Status != status || time.Since(began) > 0 {
							t.Errorf("ended with %v after %v", err, time.Since(began))
						}
						if want := map[string]int{"Join": 1, "Watch": 1, "Gather": 0}[name]; len(errs) != want {
							t.Errorf("reported %v", errs)
						}
					})
				})
			}
		}
	}
}

// Join, Watch and Gather wait for a tracker that is absent at first.
func TestAbsentAtFirst(t *testing.T) {
	for name, follow := range follows {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, k := new(pipes), key(t, "k")
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errEnough)
				defer cancel()
				ended := make(chan error, 1)
				go func() {
					_, err := follow(ctx, p.client("192.0.2.1"), one, k)
					ended <- err
				}()
				time.Sleep(10 * time.Minute)
				p.start(tracker.Handler(new(tracker.Tracker)))
				defer p.stop()
				time.Sleep(15 * time.Second)
				if got := listed(t, p, k); (got == "192.0.2.1:4000") == (name == "Watch") {
					t.Errorf("the tracker lists %q", got)
				}
				if name == "Gather" {
					defer join(t, p.client("192.0.2.2"), one, k, 4000)()
				}
				time.Sleep(5 * time.Second)
				cancel()
				if err := <-ended; (name == "Gather") != (err == nil) {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

// refusing serves h, but refuses every request while refuses is true.
func refusing(h http.Handler, refuses *atomic.Bool, status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuses.Load() {
			w.WriteHeader(status)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// If a tracker has accepted a request, and then refuses one, the client tries again: the tracker may
// change its mind once more.
func TestLaterRefusal(t *testing.T) {
	for _, status := range []int{400, 401, 404} {
		for name, serve := range serving {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var refuses atomic.Bool
					p, k := new(pipes), key(t, "k")
					h := refusing(serve(&tracker.Tracker{Interval: time.Minute}), &refuses, status)
					p.start(h)
					w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: k}, 0)
					leave := join(t, p.client("192.0.2.1"), one, k, 4000)
					time.Sleep(2 * time.Minute)
					w.next()
					refuses.Store(true)
					p.stop()
					p.start(h)
					defer p.stop()
					time.Sleep(10 * time.Minute)
					w.expect(t, "error")
					refuses.Store(false)
					time.Sleep(2 * time.Minute)
					if got := w.next(); !strings.HasPrefix(got, "peers [") || fmt.Sprint(w.list) != "[192.0.2.1:4000]" {
						t.Errorf("reported %q, and the watch has %v", got, w.list)
					}
					if got := listed(t, p, k); got != "192.0.2.1:4000" {
						t.Errorf("the tracker lists %q", got)
					}
					_ = leave()
				})
			})
		}
	}
}

// With several trackers, the client ends only after all have refused. The error joins the errors of
// all. Until then the client tries again with those that have refused.
func TestRefusedBySeveral(t *testing.T) {
	for _, name := range []string{"Join", "Watch"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := new(pipes), new(pipes)
				net := internet{"a.example": a, "b.example": b}
				both := []announce.Tracker{named(t, "a.example"), named(t, "b.example")}
				var asked atomic.Int32
				refuse := func(status int) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						asked.Add(1)
						w.WriteHeader(status)
					})
				}
				a.start(refuse(401))
				defer a.stop()
				var mu sync.Mutex
				var err error
				ended := false
				go func() {
					_, e := follows[name](t.Context(), net.client("192.0.2.1"), both, key(t, "k"))
					mu.Lock()
					defer mu.Unlock()
					err, ended = e, true
				}()
				state := func() bool {
					synctest.Wait()
					mu.Lock()
					defer mu.Unlock()
					return ended
				}
				time.Sleep(10 * time.Minute)
				if state() {
					t.Fatalf("ended with %v though one of two is only away", err)
				}
				before := asked.Load()
				time.Sleep(time.Minute)
				if asked.Load() == before {
					t.Error("the one that has refused is not asked again")
				}
				b.start(refuse(404))
				defer b.stop()
				time.Sleep(16 * time.Second)
				if !state() || name == "Join" && (!strings.Contains(err.Error(), "401") || !strings.Contains(err.Error(), "404")) {
					t.Errorf("both refuse: ended %v with %v", ended, err)
				}
			})
		})
	}
}

// Join returns immediately. The own endpoints are known after the tracker has answered.
func TestMembership(t *testing.T) {
	for name, serve := range serving {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, k := new(pipes), key(t, "k")
				began := time.Now()
				m, err := p.both("192.0.2.1", "2001:db8::1").Join(t.Context(), one, announce.Request{Key: k, Port: 4000}, nil)
				if err != nil || time.Since(began) > 0 || len(m.You()) > 0 || m.Err() != nil {
					t.Fatalf("%v after %v", err, time.Since(began))
				}
				time.Sleep(time.Minute)
				p.start(serve(new(tracker.Tracker)))
				defer p.stop()
				time.Sleep(15 * time.Second)
				if got := fmt.Sprint(m.You()); got != "[192.0.2.1:4000 [2001:db8::1]:4000]" {
					t.Errorf("own endpoints: %s", got)
				}
				select {
				case <-m.Done():
					t.Error("done")
				default:
				}
				for range 2 {
					if err := m.Leave(t.Context()); err != nil {
						t.Error(err)
					}
					<-m.Done()
				}
				if got := listed(t, p, k); got != "" || m.Err() != nil {
					t.Errorf("after the leave the tracker lists %q, and Err is %v", got, m.Err())
				}
			})
		})
	}
}

// When the context of Join ends, the member leaves.
func TestMembershipContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		ctx, cancel := context.WithCancelCause(t.Context())
		m, err := p.client("192.0.2.1").Join(ctx, one, announce.Request{Key: k, Port: 4000}, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel(errEnough)
		<-m.Done()
		if got := listed(t, p, k); got != "" {
			t.Errorf("after the end of its context the tracker lists %q", got)
		}
		if err := m.Leave(ctx); err != nil || m.Err() != nil {
			t.Errorf("Leave returned %v, Err %v", err, m.Err())
		}
	})
}

// Leave waits no longer than its context. The next call goes on waiting, and returns why the leave
// failed.
func TestLeaveIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frozen atomic.Bool
		thaw := make(chan struct{})
		p := new(pipes)
		h := polled(new(tracker.Tracker))
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if frozen.Load() {
				<-thaw
			}
			h.ServeHTTP(w, r)
		}))
		defer p.stop()
		defer close(thaw)
		m, err := p.client("192.0.2.1").Join(t.Context(), one, announce.Request{Key: key(t, "k"), Port: 4000}, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		frozen.Store(true)
		began := time.Now()
		for _, after := range []time.Duration{time.Second, 1500 * time.Millisecond} {
			ctx, cancel := context.WithDeadlineCause(t.Context(), began.Add(after), errEnough)
			if err := m.Leave(ctx); err != errEnough || time.Since(began) != after {
				t.Errorf("Leave took %v: %v", time.Since(began), err)
			}
			cancel()
		}
		for range 2 {
			err := m.Leave(t.Context())
			if _, ok := errors.AsType[*announce.UnreachableError](err); !ok || time.Since(began) != 4*time.Second {
				t.Errorf("Leave took %v: %v", time.Since(began), err)
			}
		}
		if m.Err() != nil {
			t.Errorf("after Leave, Err is %v, want nil", m.Err())
		}
	})
}
