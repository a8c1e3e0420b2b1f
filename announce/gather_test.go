package announce_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// gathered is what one process got, and how long that took.
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

// Four come one after the other, in no order. Each gets the same list and a rank of its own, and
// whoever came last is seen by all before the first one leaves.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		began := time.Now()
		results, gone := make(chan gathered, 4), make(chan time.Duration, 4)
		for i, port := range []uint16{4002, 4000, 4003, 4001} {
			time.Sleep(1700 * time.Millisecond)
			go func() {
				c := p.client(fmt.Sprint("192.0.2.", 9-i))
				g, err := c.Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: port}, 4, nil)
				results <- gathered{g, err, time.Since(began)}
				g.Leave(t.Context())
				g.Leave(t.Context()) // changes nothing
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
		if got := who(t, p, k); strings.Count(got, ":") != 4 {
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
		if got := who(t, p, k); got != "" {
			t.Errorf("after leaving the tracker lists %q", got)
		}
	})
}

func TestGatherTimeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		if _, err := p.client("192.0.2.9").Announce(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: 4000}); err != nil {
			t.Fatal(err)
		}
		patience := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, patience)
		defer cancel()
		began := time.Now()
		told := ""
		g, err := p.client("192.0.2.1").Gather(ctx, announce.Tracker{}, announce.Request{Key: k, Port: 4001}, 3, func(ev announce.Event, err error) {
			told += fmt.Sprintln(ev.Type, len(ev.Peers), err)
		})
		if got, want := (gathered{g, err, 0}).String(), "0 of 192.0.2.1:4001 192.0.2.9:4000, enough"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if told != "peers 1 <nil>\n" {
			t.Errorf("told %q meanwhile", told)
		}
		if got := who(t, p, k); got != "192.0.2.9:4000" {
			t.Errorf("after the time is up the tracker lists %q", got)
		}
		g.Leave(t.Context())
		if d := time.Since(began); d != time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

// Who only looks has no rank, does not count, and need not stay for the others.
func TestGatherLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		began := time.Now()
		g, err := p.client("192.0.2.1").Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k}, 0, nil)
		if got := (gathered{g, err, 0}).String(); got != "-1 of , <nil>" {
			t.Errorf("got %s", got)
		}
		g.Leave(t.Context())
		if time.Since(began) != 0 {
			t.Errorf("left after %v", time.Since(began))
		}
	})
}

// An end of the context does not shorten the stay, but one that Leave is given does.
func TestGatherLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		ctx, cancel := context.WithCancel(t.Context())
		g, err := p.client("192.0.2.1").Gather(ctx, announce.Tracker{}, announce.Request{Key: k, Port: 4000}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		time.Sleep(time.Hour)
		if got := who(t, p, k); got != "192.0.2.1:4000" {
			t.Errorf("an hour later the tracker lists %q", got)
		}
		g.Leave(t.Context())

		began := time.Now()
		g, err = p.client("192.0.2.1").Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: 4000}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.Leave(ctx)
		if got := who(t, p, k); got != "" || time.Since(began) > 0 {
			t.Errorf("after %v the tracker lists %q", time.Since(began), got)
		}
	})
}

// A tracker that is not there at first is an error; one that goes away later is waited for.
func TestGatherTrackerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		p.stop()
		g, err := p.client("192.0.2.1").Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: 4000}, 2, nil)
		if _, ok := errors.AsType[*announce.UnreachableError](err); !ok {
			t.Errorf("with nobody: %v", err)
		}
		g.Leave(t.Context())

		p.start(tracker.Handler(new(tracker.Tracker)))
		results, away := make(chan gathered), make(chan bool, 100)
		gather := func(port uint16) {
			g, err := p.client("192.0.2.1").Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: port}, 2, func(_ announce.Event, err error) {
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

// A process is one peer, also where both address families lead to the tracker, and of the same
// family as the others where it can.
func TestGatherDualStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := newPipes(t), key(t, "k")
		results := make(chan string)
		for i, c := range []*announce.Client{p.both("192.0.2.1", "2001:db8::1"), p.both("192.0.2.2", "2001:db8::2"), p.both("", "2001:db8::3")} {
			go func() {
				g, err := c.Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: uint16(4000 + i)}, 3, nil)
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
		time.Sleep(time.Minute)

		// Neither does.
		_, err := p.both("", "").Gather(t.Context(), announce.Tracker{}, announce.Request{Key: k, Port: 4000}, 1, nil)
		if _, ok := errors.AsType[*announce.UnreachableError](err); !ok {
			t.Errorf("without a way to the tracker: %v", err)
		}
	})
}

// Without knowing one's own endpoint there is no rank.
func TestGatherUntold(t *testing.T) {
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
