package announce_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// If two processes have the same endpoint, Gather reports this in both. In the second process it
// returns the error. In the first one it goes on, and succeeds.
func TestGatherShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline(t, time.Hour)
		p, k := newPipes(t), key(t, "k")
		gather := func(addr string, port uint16, n int, reported *string) gathered {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			g, err := p.client(addr).Gather(ctx, one[0], announce.Request{Key: k, Port: port}, n, func(_ announce.Event, err error) {
				if err != nil && reported != nil {
					*reported += err.Error()
				}
			})
			after := time.Since(began)
			g.Leave(t.Context())
			return gathered{g, err, after}
		}
		var reported string
		first := make(chan gathered)
		go func() { first <- gather("192.0.2.1", 4000, 2, &reported) }()
		time.Sleep(5 * time.Second)
		const sharedText = "another process is listed as 192.0.2.1:4000, too, and both count as one peer: each needs a port of its own"
		var none string
		second := gather("192.0.2.1", 4000, 2, &none)
		var shared *announce.SharedError
		if !errors.As(second.err, &shared) || second.err.Error() != sharedText || second.after != 2*time.Second || none != "" {
			t.Errorf("the second process: %v after %v, reported %q", second, second.after, none)
		}
		synctest.Wait() // until the first process has reported it
		if reported != sharedText {
			t.Errorf("the first process reported %q", reported)
		}
		other := gather("192.0.2.2", 4000, 2, nil)
		if got := sorted((<-first).String(), other.String()); got != sorted("0 of 192.0.2.1:4000 192.0.2.2:4000, <nil>", "1 of 192.0.2.1:4000 192.0.2.2:4000, <nil>") {
			t.Errorf("the others gathered %s", got)
		}

		// The first process does not wait for the end of the second.
		go func() { first <- gather("192.0.2.1", 4000, 2, nil) }()
		time.Sleep(time.Second)
		go func() { first <- gather("192.0.2.1", 4000, 2, nil) }()
		time.Sleep(time.Second)
		go func() { first <- gather("192.0.2.2", 4000, 2, nil) }()
		var times []time.Duration
		for range 3 {
			times = append(times, (<-first).after.Truncate(time.Second))
		}
		if slices.Sort(times); !slices.Equal(times, []time.Duration{0, 2 * time.Second, 2 * time.Second}) {
			t.Errorf("with a second process, the calls of Gather took %v", times)
		}
		time.Sleep(time.Minute)

		// The endpoint of a peer that is listed already does not count twice.
		go func() { first <- gather("192.0.2.1", 4000, 3, nil) }()
		time.Sleep(time.Second)
		go func() { first <- gather("192.0.2.2", 4000, 3, nil) }()
		time.Sleep(time.Second)
		if got := gather("192.0.2.1", 4000, 2, nil); got.err == nil {
			t.Errorf("with an endpoint that is listed already: %v", got)
		}
		go func() { first <- gather("192.0.2.3", 4000, 3, nil) }()
		for range 3 {
			if got := <-first; got.err != nil {
				t.Error(got)
			}
		}
	})
}

// Another member with the same endpoint is not an error in these cases: it has no id or the same
// id, it is a broken connection of this process, or it is about to leave.
func TestGatherNotShared(t *testing.T) {
	for about, tt := range map[string]struct {
		id    wire.ID
		lasts time.Duration
	}{
		"about to leave": {wire.ID{}, time.Second},
		"the same id":    {wire.ID{1}, time.Hour},
	} {
		t.Run(about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				deadline(t, 24*time.Hour)
				p, k := newPipes(t), key(t, "k")
				leave := join(t, p.client("192.0.2.1"), one, k, 4000)
				old, cancel := context.WithTimeout(t.Context(), tt.lasts)
				defer cancel()
				go func() {
					for range p.client("192.0.2.1").Watch(old, one, announce.Request{Key: k, Port: 4000, ID: wire.ID{1}}) {
					}
				}()
				synctest.Wait()
				ctx, done := context.WithTimeout(t.Context(), time.Minute)
				defer done()
				met := make(chan gathered)
				go func() {
					g, err := p.client("192.0.2.1").Gather(ctx, one[0], announce.Request{Key: k, Port: 4000, ID: tt.id}, 2, func(_ announce.Event, err error) {
						if err != nil {
							t.Error(err)
						}
					})
					g.Leave(t.Context())
					met <- gathered{g, err, 0}
				}()
				time.Sleep(10 * time.Second)
				p.cut("192.0.2.1")
				time.Sleep(10 * time.Second)
				leave2 := join(t, p.client("192.0.2.2"), one, k, 4000)
				if got := (<-met).String(); got != "0 of 192.0.2.1:4000 192.0.2.2:4000, <nil>" {
					t.Errorf("gathered %s", got)
				}
				_ = leave()
				_ = leave2()
			})
		})
	}
}

// An event "shared" counts until its stream ends. It is reported once.
func TestGatherSharedStreams(t *testing.T) {
	const you, shared, peers = "event: you\nid: e\ndata: 192.0.2.1:4000\ndata: 150\n\n", "event: shared\ndata: 192.0.2.1:4000\n\n", "event: peers\ndata:\n\n"
	for _, tt := range []struct {
		about   string
		streams []string // the last stream does not end
		want    string
		news    int
	}{
		{"reported twice", []string{you + shared + peers + shared + shared}, "another process is listed", 0},
		{"reported twice to the first", []string{you + peers + shared + shared}, "enough", 1},
		{"reported before the connection broke", []string{you + shared + peers, you + peers}, "enough", 0},
		{"reported by the next stream, too", []string{you + peers + shared, you + peers + shared}, "enough", 2},
	} {
		t.Run(tt.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				deadline(t, time.Hour)
				p := new(pipes)
				n := 0
				p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Accept") == "application/json" {
						_, _ = io.WriteString(w, `{"interval":60,"peers":[]}`)
						return
					}
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "retry: 1\n"+tt.streams[n])
					_ = http.NewResponseController(w).Flush()
					if n++; n == len(tt.streams) {
						n--
						<-r.Context().Done()
					}
				}))
				defer p.stop()
				ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errors.New("enough"))
				defer cancel()
				news := 0
				g, err := p.client("192.0.2.1").Gather(ctx, one[0], announce.Request{Key: key(t, "k"), Port: 4000}, 2, func(_ announce.Event, err error) {
					if err != nil {
						news++
					}
				})
				if err == nil || !strings.HasPrefix(err.Error(), tt.want) || news != tt.news {
					t.Errorf("%v, reported %d times; want %s, %d", err, news, tt.want, tt.news)
				}
				g.Leave(ctx)
			})
		})
	}
}
