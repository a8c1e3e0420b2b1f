package announce_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// gathered is the result of one process, and the time it took.
type gathered struct {
	*announce.Gathering
	err   error
	after time.Duration
}

func (g gathered) String() string {
	var peers []string
	for _, p := range g.Peers {
		peers = append(peers, p.String())
	}
	return fmt.Sprint(g.Rank, " of ", strings.Join(peers, " "), ", ", g.err)
}

// deadline stops a test that hangs. The test would never end by itself: the heartbeats of a stream
// keep virtual time going.
func deadline(t *testing.T, d time.Duration) {
	timer := time.AfterFunc(d, func() { panic(fmt.Sprint(t.Name(), " has not ended after ", d)) })
	t.Cleanup(func() { timer.Stop() })
}

// Four processes join one after the other. All get the same list, and each gets a different rank. The
// first one leaves only after the last one has joined.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p, k := newPipes(t), key(t, "k")
		began := time.Now()
		results, leaves := make(chan gathered, 4), make(chan time.Duration, 4)
		for i, port := range []uint16{4002, 4000, 4003, 4001} {
			time.Sleep(1700 * time.Millisecond)
			go func() {
				c := p.client(fmt.Sprint("192.0.2.", 9-i))
				g, err := c.Gather(ctx, named(t, ""), announce.Request{Key: k, Port: port}, 4, nil)
				results <- gathered{g, err, time.Since(began)}
				g.Leave(ctx)
				g.Leave(ctx) // changes nothing
				leaves <- time.Since(began)
			}()
		}
		var all []string
		var last time.Duration
		for range 4 {
			g := <-results
			all = append(all, g.String())
			last = max(last, g.after)
		}
		if got := listed(t, p, k); strings.Count(got, ":") != 4 {
			t.Errorf("after all have met, the tracker lists %q, want four peers", got)
		}
		slices.Sort(all)
		for i, got := range all {
			if want := fmt.Sprint(i, " of 192.0.2.6:4001 192.0.2.7:4003 192.0.2.8:4000 192.0.2.9:4002, <nil>"); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		}
		if last > 4*1700*time.Millisecond+time.Second {
			t.Errorf("the last call of Gather returned after %v", last)
		}
		for range 4 {
			if at := <-leaves; at < 4*1700*time.Millisecond+2*time.Second || at > last+2*time.Second {
				t.Errorf("a process left after %v", at)
			}
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after all have left, the tracker lists %q", got)
		}
	})
}

// At the deadline, Gather returns the peers that are present, and leaves.
func TestGatherDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		if _, err := p.client("192.0.2.9").Announce(t.Context(), named(t, ""), announce.Request{Key: k, Port: 4000}); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, cause)
		defer cancel()
		began := time.Now()
		reported := ""
		g, err := p.client("192.0.2.1").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: 4001}, 3, func(ev announce.Event, err error) {
			reported += fmt.Sprintln(ev.Type, len(ev.Peers), err)
		})
		if got, want := (gathered{g, err, 0}).String(), "0 of 192.0.2.1:4001 192.0.2.9:4000, enough"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if reported != "peers 1 <nil>\n" {
			t.Errorf("news reported %q", reported)
		}
		if got := listed(t, p, k); got != "192.0.2.9:4000" {
			t.Errorf("after the deadline the tracker lists %q", got)
		}
		g.Leave(t.Context())
		if d := time.Since(began); d != time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

// The context of Gather may end at any moment of the first requests.
func TestGatherCancel(t *testing.T) {
	tr := served(t, "", tracker.Handler(new(tracker.Tracker)).ServeHTTP)
	var c announce.Client
	defer c.Close()
	for i := range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
		g, err := c.Gather(ctx, tr, announce.Request{Key: key(t, "k"), Port: 4000}, 2, nil)
		cancel()
		if err == nil || len(g.Peers) > 1 {
			t.Fatalf("got %v, %v", g, err)
		}
		g.Leave(ctx)
	}
}

// A process that only looks has no rank and is not counted. It does not have to stay for the others.
func TestGatherLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		began := time.Now()
		g, err := p.client("192.0.2.1").Gather(t.Context(), named(t, ""), announce.Request{Key: k}, 0, nil)
		if got := (gathered{g, err, 0}).String(); got != "-1 of , <nil>" {
			t.Errorf("got %s", got)
		}
		g.Leave(t.Context())
		if time.Since(began) != 0 {
			t.Errorf("left after %v", time.Since(began))
		}
	})
}

// The end of the context of Gather does not shorten the stay. The end of the context of Leave does.
func TestGatherLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		ctx, cancel := context.WithCancel(t.Context())
		waiting := true
		g, err := p.client("192.0.2.1").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: 4000}, 1, func(announce.Event, error) {
			if !waiting {
				t.Error("news was called after Gather returned")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		waiting = false
		cancel()
		time.Sleep(time.Minute)
		leave := join(t, p.client("192.0.2.2"), one, k, 4000)
		time.Sleep(time.Hour)
		if got := listed(t, p, k); got != "192.0.2.1:4000 192.0.2.2:4000" {
			t.Errorf("an hour later the tracker lists %q", got)
		}
		_ = leave()
		g.Leave(t.Context())

		began := time.Now()
		g, err = p.client("192.0.2.1").Gather(t.Context(), named(t, ""), announce.Request{Key: k, Port: 4000}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.Leave(ctx)
		if got := listed(t, p, k); got != "" || time.Since(began) > 0 {
			t.Errorf("%v after Leave was called, the tracker lists %q", time.Since(began), got)
		}
	})
}

// If the tracker goes away while Gather waits, Gather goes on when the tracker is back.
func TestGatherTrackerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		results, away := make(chan gathered), make(chan bool, 100)
		gather := func(port uint16) {
			g, err := p.client("192.0.2.1").Gather(t.Context(), named(t, ""), announce.Request{Key: k, Port: port}, 2, func(_ announce.Event, err error) {
				if err != nil {
					away <- true
				}
			})
			results <- gathered{g, err, 0}
			g.Leave(t.Context())
		}
		go gather(4000)
		time.Sleep(10 * time.Second)
		p.stop()
		<-away
		p.start(tracker.Handler(new(tracker.Tracker)))
		go gather(4001)
		all := sorted((<-results).String(), (<-results).String())
		if want := "0 of 192.0.2.1:4000 192.0.2.1:4001, <nil> 1 of 192.0.2.1:4000 192.0.2.1:4001, <nil>"; all != want {
			t.Errorf("got %s, want %s", all, want)
		}
		time.Sleep(time.Minute)
	})
}

// If a tracker accepts the look and refuses the announce, Gather returns the error. It does not also
// report it to news.
func TestGatherRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		p := new(pipes)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("port") == "0" {
				_, _ = io.WriteString(w, `{"interval":60,"peers":[]}`)
			} else {
				w.WriteHeader(401)
			}
		}))
		defer p.stop()
		g, err := p.client("192.0.2.1").Gather(t.Context(), one[0], announce.Request{Key: key(t, "k"), Port: 4000}, 2, func(ev announce.Event, err error) {
			t.Errorf("reported %+v, %v", ev, err)
		})
		if f, ok := errors.AsType[*announce.RefusalError](err); !ok || f.Status != 401 || g.Rank != -1 {
			t.Errorf("got %v of %v, %v", g.Rank, g.Peers, err)
		}
		g.Leave(t.Context())
	})
}

// Gather polls a classic tracker less often. So a member stays there longer, until every process has
// polled twice.
func TestGatherClassic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		p, k := new(pipes), key(t, "k")
		var mu sync.Mutex
		asked := 0
		f := &foreign{external: true}
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked++
			mu.Unlock()
			f.ServeHTTP(w, r)
		}))
		defer p.stop()
		leave := join(t, p.client("192.0.2.2"), classic(t), k, 4000)
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Second)
		defer cancel()
		asked = 0
		if _, err := p.client("192.0.2.1").Gather(ctx, classic(t)[0], announce.Request{Key: k, Port: 4000}, 3, nil); err == nil {
			t.Error("Gather succeeded with two peers, want an error until there are three")
		}
		mu.Lock()
		// A poll every ten seconds, the first look, the leave, and renewals of the other member.
		if asked < 11 || asked > 15 {
			t.Errorf("%d requests in 95 s, want 11 to 15", asked)
		}
		mu.Unlock()
		g, err := p.client("192.0.2.1").Gather(t.Context(), classic(t)[0], announce.Request{Key: k, Port: 4000}, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		g.Leave(t.Context())
		if d := time.Since(began); d != 20*time.Second {
			t.Errorf("the member stayed for %v, want 20 s", d)
		}
		_ = leave()
	})
}

// If the tracker refuses over one family and is unreachable over the other, Gather returns the
// refusal.
func TestGatherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(tracker.Handler(&tracker.Tracker{Tokens: []string{"t"}}))
		defer p.stop()
		for _, c := range []*announce.Client{p.both("192.0.2.1", ""), p.both("", "2001:db8::1")} {
			_, err := c.Gather(t.Context(), one[0], announce.Request{Key: key(t, "k"), Port: 4000}, 2, nil)
			if f, ok := errors.AsType[*announce.RefusalError](err); !ok || f.Status != 401 {
				t.Errorf("got %v, want the refusal", err)
			}
		}
	})
}

// A process is one peer even if it reaches the tracker over both families. It joins over IPv4 if it
// can, so that most processes have the same family.
func TestGatherDualStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		results := make(chan string)
		for i, c := range []*announce.Client{p.both("192.0.2.1", "2001:db8::1"), p.both("192.0.2.2", "2001:db8::2"), p.both("", "2001:db8::3")} {
			go func() {
				g, err := c.Gather(t.Context(), named(t, ""), announce.Request{Key: k, Port: uint16(4000 + i)}, 3, nil)
				results <- gathered{g, err, 0}.String()
				g.Leave(t.Context())
			}()
		}
		all := []string{<-results, <-results, <-results}
		slices.Sort(all)
		for i, got := range all {
			if want := fmt.Sprint(i, " of 192.0.2.1:4000 192.0.2.2:4001 [2001:db8::3]:4002, <nil>"); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		}
		// Each process looked over a family, and then joined over the first one that worked.
		if n := p.dials(); n != 7 {
			t.Errorf("%d connections, want two of each process, and one that failed", n)
		}
		time.Sleep(time.Minute)

		// The tracker cannot be reached over any family.
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("enough"))
		defer cancel()
		var last error
		_, err := p.both("", "").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: 4000}, 1, func(_ announce.Event, err error) { last = err })
		if _, ok := errors.AsType[*announce.UnreachableError](last); !ok || err.Error() != "enough" {
			t.Errorf("without a path to the tracker: %v, reported %v", err, last)
		}
	})
}

// If the tracker does not report the own endpoint, Gather returns an error, since there is no rank.
func TestGatherWithoutEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("d10:incompletei3e8:intervali60e5:peers0:e"))
		}))
		defer p.stop()
		_, err := p.client("192.0.2.1").Gather(t.Context(), named(t, "http://localhost/announce"), announce.Request{Key: key(t, "k"), Port: 4000}, 3, nil)
		if err == nil || !strings.Contains(err.Error(), "localhost:6969 does not report which address") {
			t.Errorf("got %v", err)
		}
	})
}

// Gather succeeds if all peers were present at one moment, even if the process reads of it later. The
// process may have been suspended, and others may have left since then.
func TestGatherMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		p, k := newPipes(t), key(t, "k")
		meet := func(port uint16, d time.Duration, news func(announce.Event, error)) gathered {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			g, err := p.client("192.0.2.1").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: port}, 3, news)
			if got := listed(t, p, k); err == nil && !strings.Contains(got, fmt.Sprint(port)) {
				t.Errorf("Gather of port %d succeeded, but the tracker lists only %q", port, got)
			}
			g.Leave(t.Context())
			return gathered{g, err, 0}
		}
		suspended := make(chan gathered)
		go func() { // its deadline has passed when news returns
			suspended <- meet(4000, 5*time.Second, func(announce.Event, error) { time.Sleep(10 * time.Second) })
		}()
		synctest.Wait()
		others := make(chan gathered)
		for _, port := range []uint16{4001, 4002} {
			go func() { others <- meet(port, time.Minute, nil) }()
			time.Sleep(time.Second)
		}
		got := sorted((<-others).String(), (<-others).String(), (<-suspended).String())
		const all = " of 192.0.2.1:4000 192.0.2.1:4001 192.0.2.1:4002, <nil>"
		if want := "0" + all + " 1" + all + " 2" + all; got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	})
}

// scripted is a tracker that sends one stream. It sends begin, waits until the client half-closes the
// connection or for at most the time after, and sends more.
func scripted(begin, more string, after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "application/json" { // the first look
			_, _ = io.WriteString(w, `{"interval":60,"peers":[]}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, begin)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(after):
		}
		_, _ = io.WriteString(w, more)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// lateContext ends later than its deadline, as in a process that was suspended.
type lateContext struct {
	context.Context
	late time.Duration
}

func (c lateContext) Deadline() (time.Time, bool) {
	end, ok := c.Context.Deadline()
	return end.Add(-c.late), ok
}

// Each event counts by itself. It may come together with others, or at the deadline, or be read by a
// process that was suspended.
func TestGatherEachEvent(t *testing.T) {
	const (
		you   = "event: you\nid: e\ndata: 192.0.2.1:1\ndata: 150\n\n"
		peers = "event: peers\ndata: 192.0.2.2:2\n\n"
		blink = "event: join\ndata: 192.0.2.3:3\n\nevent: join\ndata: 192.0.2.4:4\n\n" +
			"event: leave\ndata: 192.0.2.3:3\n\nevent: leave\ndata: 192.0.2.4:4\n\nevent: leave\ndata: 192.0.2.2:2\n\n"
		met = "0 of 192.0.2.1:1 192.0.2.2:2 192.0.2.3:3, <nil>"
	)
	for _, tt := range []struct {
		about, stream, more string
		after               time.Duration
		port                uint16
		late                time.Duration
		want                string
	}{
		{"all in one", you + peers + blink, "", time.Hour, 1, 0, met},
		{"in the middle", you + peers, blink, time.Second, 1, 0, met},
		{"at the deadline, while Gather leaves", you + peers, blink, time.Hour, 1, 0, met},
		{"no further event", you + peers, "", time.Hour, 1, 0, "0 of 192.0.2.1:1 192.0.2.2:2, enough"},
		{"suspended past the deadline", you + peers, blink, 10100 * time.Millisecond, 1, time.Second, met},
		{"long after the deadline", "event: you\nid: e\ndata:\ndata: 150\n\n" + peers, blink, 12 * time.Second, 0, time.Second, "-1 of 192.0.2.2:2, enough"},
		{"after the deadline, not suspended", "event: you\nid: e\ndata:\ndata: 150\n\n" + peers, blink, 10100 * time.Millisecond, 0, 0, "-1 of 192.0.2.2:2, enough"},
		{"one that only looks, suspended past the deadline", "event: you\nid: e\ndata:\ndata: 150\n\n" + peers, blink, 10100 * time.Millisecond, 0, time.Second,
			"-1 of 192.0.2.2:2 192.0.2.3:3 192.0.2.4:4, <nil>"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				deadline(t, time.Hour)
				p := new(pipes)
				p.start(scripted(tt.stream, tt.more, tt.after))
				defer p.stop()
				ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("enough"))
				defer cancel()
				began := time.Now()
				g, err := p.client("192.0.2.1").Gather(lateContext{ctx, tt.late}, named(t, ""), announce.Request{Key: key(t, "k"), Port: tt.port}, 3, nil)
				if got := (gathered{g, err, 0}).String(); got != tt.want || time.Since(began) > 11*time.Second {
					t.Errorf("got %s after %v\nwant %s", got, time.Since(began), tt.want)
				}
				g.Leave(ctx)
			})
		})
	}
}

// After a meeting, Follow reports each join and each leave. The restart of a tracker is no leave.
func TestGatherFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		p, k := newPipes(t), key(t, "k")
		met := make(chan *announce.Gathering, 2)
		for i := range 2 {
			go func() {
				g, err := p.client(fmt.Sprint("192.0.2.", i+1)).Gather(t.Context(), one[0], announce.Request{Key: k, Port: 4000}, 2, nil)
				if err != nil {
					t.Error(err)
				}
				met <- g
			}()
		}
		g, other := <-met, <-met
		if g.Rank == 1 {
			g, other = other, g
		}
		var mu sync.Mutex
		var reported []string
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(slices.Compact(reported), ", "); got != want { // EventPeers may come twice
				t.Errorf("reported %q, want %q", got, want)
			}
			reported = nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.Follow(ctx, func(ev announce.Event, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil && slices.Contains(reported, "error") {
					return // it may be the fifth of five tries
				} else if err != nil {
					reported = append(reported, "error")
					return
				}
				reported = append(reported, string(ev.Type)+fmt.Sprint(ev.Peers, ev.You, ev.TTL))
			})
		}()
		const you = " [192.0.2.1:4000] "
		expect("peers[192.0.2.2:4000]" + you + "2m30s")
		leave := join(t, p.client("192.0.2.3"), one, k, 4000)
		time.Sleep(time.Second)
		expect("join[192.0.2.2:4000 192.0.2.3:4000]" + you + "0s")
		p.stop()
		time.Sleep(10 * time.Second)
		expect("error")
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		time.Sleep(time.Minute)
		expect("peers[192.0.2.2:4000 192.0.2.3:4000]" + you + "2m30s")
		if err := other.Leave(ctx); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		expect("leave[192.0.2.3:4000]" + you + "0s")
		cancel()
		<-done
		_ = leave()
		time.Sleep(time.Second)
		expect("")
		// Follow also ends with the Gathering.
		go g.Leave(t.Context())
		g.Follow(t.Context(), func(announce.Event, error) {})
	})
}

// Follow returns at once if Gather has failed.
func TestGatherFollowFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g, err := p.client("192.0.2.1").Gather(ctx, one[0], announce.Request{Key: k, Port: 4000}, 2, nil)
		if err == nil {
			t.Fatal("one process has met two")
		}
		g.Follow(t.Context(), func(announce.Event, error) { t.Error("Follow reports something") })
	})
}
