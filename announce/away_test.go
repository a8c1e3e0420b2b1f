package announce_test

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// A watch asks an absent tracker less and less often. In the end it asks once per interval or per
// Poll, and never more often than every ten seconds.
func TestAwayBackoff(t *testing.T) {
	for _, c := range []struct {
		every       time.Duration
		least, most int // in ten minutes
	}{
		{0, 12, 30},
		{time.Second, 60, 130},
		{30 * time.Second, 20, 50},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := new(pipes)
			p.start(polled(&tracker.Tracker{Interval: time.Minute}))
			w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: key(t, "k")}, c.every)
			w.expect(t, "peers []")
			time.Sleep(90 * time.Second)
			p.stop()
			dials := p.dials()
			time.Sleep(10 * time.Minute)
			if n := p.dials() - dials; n < c.least || n > c.most {
				t.Errorf("every %v: %d attempts in ten minutes, want %d to %d", c.every, n, c.least, c.most)
			}
		})
	}
}

// An answer with an error status is a refusal, even if its content type is text/event-stream.
func TestRefusalAsStream(t *testing.T) {
	for _, status := range []int{201, 404} {
		synctest.Test(t, func(t *testing.T) {
			p := new(pipes)
			p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "event: peers\ndata: 192.0.2.7:7\n\n")
			}))
			defer p.stop()
			w := watch(t, p.client("192.0.2.9"), one, announce.Request{Key: key(t, "k")}, 0)
			time.Sleep(time.Second)
			w.expect(t, "error")
		})
	}
}

// A member without a port chooses one for a classic tracker, and keeps it.
func TestJoinClassicWithoutPort(t *testing.T) {
	_, classic := local(t, &tracker.Tracker{Interval: time.Second})
	k := key(t, "k")
	var c announce.Client
	defer c.Close()
	for ev, err := range joined(t, &c, classic, k) {
		if err != nil || len(ev.You) != 1 || ev.You[0].Port() < 2 {
			t.Fatalf("%+v, %v", ev, err)
		}
		look, err := c.List(t.Context(), classic, announce.Request{Key: k})
		if err != nil || endpoints(look) != ev.You[0].String() {
			t.Errorf("the tracker lists %v, %v; want %v", look, err, ev.You)
		}
		break
	}
	if look, err := c.List(t.Context(), classic, announce.Request{Key: k}); err != nil || len(look.Peers) != 0 {
		t.Errorf("after the leave the tracker lists %+v, %v", look, err)
	}
}

// joined iterates over what Join reports. At the end of the loop, the member has left.
func joined(t *testing.T, c *announce.Client, at announce.Tracker, k announce.Key) func(yield func(announce.Event, error) bool) {
	return func(yield func(announce.Event, error) bool) {
		type news struct {
			ev  announce.Event
			err error
		}
		reported := make(chan news, 100)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		left := make(chan error, 1)
		go func() {
			left <- stay(ctx, c, []announce.Tracker{at}, announce.Request{Key: k}, func(ev announce.Event, err error) { reported <- news{ev, err} })
		}()
		for going := true; going; {
			select {
			case n := <-reported:
				going = yield(n.ev, n.err)
			case <-ctx.Done():
				t.Error("nothing is reported")
				going = false
			}
		}
		cancel()
		if err := <-left; err != nil {
			t.Error(err)
		}
	}
}

// A member with a port in From leaves, and frees the port immediately for the next member.
func TestStayFromPort(t *testing.T) {
	native, _ := local(t, new(tracker.Tracker))
	port := freePort(t)
	k := key(t, "k")
	for i := range 3 {
		c := announce.Client{From: netip.AddrPortFrom(netip.Addr{}, port)}
		if _, err := c.Announce(t.Context(), native, announce.Request{Key: k}); err != nil { // its connection must not block the port either
			t.Fatal(err)
		}
		for ev, err := range joined(t, &c, native, k) {
			if err != nil || len(ev.You) != 1 || ev.You[0].Port() != port {
				t.Fatalf("member %d: %+v, %v", i, ev, err)
			}
			break
		}
		c.Close()
	}
	var c announce.Client
	defer c.Close()
	if look, err := c.List(t.Context(), native, announce.Request{Key: k}); err != nil || len(look.Peers) != 0 {
		t.Errorf("after the leave the tracker lists %+v, %v", look, err)
	}
}
