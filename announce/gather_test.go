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

// deadline ends a test that would never end: virtual time passes for as long as a stream has
// heartbeats.
func deadline(t *testing.T, d time.Duration) {
	timer := time.AfterFunc(d, func() { panic(fmt.Sprint(t.Name(), " has not ended after ", d)) })
	t.Cleanup(func() { timer.Stop() })
}

// Four processes come one after the other. All get the same list, each gets another rank, and all
// see the last one before the first one leaves.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p, k := newPipes(t), key(t, "k")
		began := time.Now()
		results, gone := make(chan gathered, 4), make(chan time.Duration, 4)
		for i, port := range []uint16{4002, 4000, 4003, 4001} {
			time.Sleep(1700 * time.Millisecond)
			go func() {
				c := p.client(fmt.Sprint("192.0.2.", 9-i))
				g, err := c.Gather(ctx, named(t, ""), announce.Request{Key: k, Port: port}, 4, nil)
				results <- gathered{g, err, time.Since(began)}
				g.Leave(ctx)
				g.Leave(ctx) // changes nothing
				gone <- time.Since(began)
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
			t.Errorf("when the last one has met, the tracker lists %q", got)
		}
		slices.Sort(all)
		for i, got := range all {
			if want := fmt.Sprint(i, " of 192.0.2.6:4001 192.0.2.7:4003 192.0.2.8:4000 192.0.2.9:4002, <nil>"); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		}
		if last > 4*1700*time.Millisecond+time.Second {
			t.Errorf("the last one has met after %v", last)
		}
		for range 4 {
			if at := <-gone; at < 4*1700*time.Millisecond+2*time.Second || at > last+2*time.Second {
				t.Errorf("one has left after %v", at)
			}
		}
		if got := listed(t, p, k); got != "" {
			t.Errorf("after leaving the tracker lists %q", got)
		}
	})
}

func TestGatherTimeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		if _, err := p.client("192.0.2.9").Announce(t.Context(), named(t, ""), announce.Request{Key: k, Port: 4000}); err != nil {
			t.Fatal(err)
		}
		patience := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, patience)
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
			t.Errorf("reported %q meanwhile", reported)
		}
		if got := listed(t, p, k); got != "192.0.2.9:4000" {
			t.Errorf("after the time is up the tracker lists %q", got)
		}
		g.Leave(t.Context())
		if d := time.Since(began); d != time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

// TestGatherEnds ends the context at many moments of the beginning.
func TestGatherEnds(t *testing.T) {
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

// A process that only looks has no rank, does not count, and does not stay for the others.
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

// The end of the context of Gather does not shorten the stay. That of Leave does.
func TestGatherLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, 24*time.Hour)
		p, k := newPipes(t), key(t, "k")
		ctx, cancel := context.WithCancel(t.Context())
		waits := true
		g, err := p.client("192.0.2.1").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: 4000}, 1, func(announce.Event, error) {
			if !waits {
				t.Error("news was called after the waiting")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		waits = false
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
			t.Errorf("after %v the tracker lists %q", time.Since(began), got)
		}
	})
}

// Gather waits for a tracker that goes away meanwhile.
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

// If a tracker accepts the look and refuses the announce, Gather returns the error, and does not
// report it before.
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

// A classic tracker is not asked too often, so the members stay longer there: each has polled twice
// by then.
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
			t.Error("two are three")
		}
		mu.Lock()
		if asked < 11 || asked > 15 { // every ten seconds, the first look, the leave, and renewals of the other member
			t.Errorf("asked %d times in 95 s", asked)
		}
		mu.Unlock()
		g, err := p.client("192.0.2.1").Gather(t.Context(), classic(t)[0], announce.Request{Key: k, Port: 4000}, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		g.Leave(t.Context())
		if d := time.Since(began); d != 20*time.Second {
			t.Errorf("it has stayed for %v", d)
		}
		_ = leave()
	})
}

// If no family leads to the tracker, Gather returns the error that says most.
func TestGatherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(tracker.Handler(&tracker.Tracker{Token: "t"}))
		defer p.stop()
		for _, c := range []*announce.Client{p.both("192.0.2.1", ""), p.both("", "2001:db8::1")} {
			_, err := c.Gather(t.Context(), one[0], announce.Request{Key: key(t, "k"), Port: 4000}, 2, nil)
			if f, ok := errors.AsType[*announce.RefusalError](err); !ok || f.Status != 401 {
				t.Errorf("one family refuses, the other does not lead there: %v", err)
			}
		}
	})
}

// A process is one peer, even if both families lead to the tracker, and of the same family as the
// others if possible.
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
		// Each process looked to find the family that leads there, and then joined over it.
		if n := p.dials(); n != 7 {
			t.Errorf("%d connections, want two each and one that failed", n)
		}
		time.Sleep(time.Minute)

		// No family leads there.
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("enough"))
		defer cancel()
		var last error
		_, err := p.both("", "").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: 4000}, 1, func(_ announce.Event, err error) { last = err })
		if _, ok := errors.AsType[*announce.UnreachableError](last); !ok || err.Error() != "enough" {
			t.Errorf("without a path to the tracker: %v, reported %v", err, last)
		}
	})
}

// If the tracker does not report the own endpoint, there is no rank.
func TestGatherWithoutEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("d10:incompletei3e8:intervali60e5:peers0:e"))
		}))
		defer p.stop()
		_, err := p.client("192.0.2.1").Gather(t.Context(), named(t, "http://localhost/announce"), announce.Request{Key: key(t, "k"), Port: 4000}, 3, nil)
		if err == nil || !strings.Contains(err.Error(), "localhost:6969 does not tell which address") {
			t.Errorf("got %v", err)
		}
	})
}

// A moment at which all were there counts, however late this process reads of it. It may have been
// stopped, and others may have left again.
func TestGatherMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		p, k := newPipes(t), key(t, "k")
		meet := func(port uint16, d time.Duration, news func(announce.Event, error)) gathered {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			g, err := p.client("192.0.2.1").Gather(ctx, named(t, ""), announce.Request{Key: k, Port: port}, 3, news)
			if got := listed(t, p, k); err == nil && !strings.Contains(got, fmt.Sprint(port)) {
				t.Errorf("%d has met, and the tracker lists %q", port, got)
			}
			g.Leave(t.Context())
			return gathered{g, err, 0}
		}
		stopped := make(chan gathered)
		go func() { // its time is over when it goes on
			stopped <- meet(4000, 5*time.Second, func(announce.Event, error) { time.Sleep(10 * time.Second) })
		}()
		synctest.Wait()
		others := make(chan gathered)
		for _, port := range []uint16{4001, 4002} {
			go func() { others <- meet(port, time.Minute, nil) }()
			time.Sleep(time.Second)
		}
		got := sorted((<-others).String(), (<-others).String(), (<-stopped).String())
		const all = " of 192.0.2.1:4000 192.0.2.1:4001 192.0.2.1:4002, <nil>"
		if want := "0" + all + " 1" + all + " 2" + all; got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	})
}

// scripted is a tracker that sends one stream: begin, and then more, after a while or when the
// client ends its side.
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

// late is a context that ends later than its deadline, as in a process that was stopped.
type late struct {
	context.Context
	by time.Duration
}

func (o late) Deadline() (time.Time, bool) {
	end, ok := o.Context.Deadline()
	return end.Add(-o.by), ok
}

// Each event counts as it comes: together with others, when the time is up, or read by a process
// that was stopped.
func TestGatherEachEvent(t *testing.T) {
	const (
		you   = "event: you\ndata: 192.0.2.1:1\n\n"
		peers = "event: peers\nid: e-1\ndata: 192.0.2.2:2\n\n"
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
		{"as the time is up", you + peers, blink, time.Hour, 1, 0, met},
		{"too late", you + peers, "", time.Hour, 1, 0, "0 of 192.0.2.1:1 192.0.2.2:2, enough"},
		{"after a stop", you + peers, blink, 10100 * time.Millisecond, 1, time.Second, met},
		{"long after a stop", "event: you\ndata:\n\n" + peers, blink, 12 * time.Second, 0, time.Second, "-1 of 192.0.2.2:2, enough"},
		{"after no stop", "event: you\ndata:\n\n" + peers, blink, 10100 * time.Millisecond, 0, 0, "-1 of 192.0.2.2:2, enough"},
		{"one that only looks, after a stop", "event: you\ndata:\n\n" + peers, blink, 10100 * time.Millisecond, 0, time.Second,
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
				g, err := p.client("192.0.2.1").Gather(late{ctx, tt.late}, named(t, ""), announce.Request{Key: key(t, "k"), Port: tt.port}, 3, nil)
				if got := (gathered{g, err, 0}).String(); got != tt.want || time.Since(began) > 11*time.Second {
					t.Errorf("got %s after %v\nwant %s", got, time.Since(began), tt.want)
				}
				g.Leave(ctx)
			})
		})
	}
}
