package valkey

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
	"ntrack/tracker/store/storetest"
	"ntrack/tracker/store/valkey/valkeytest"
)

// engines are the databases on which a store must pass every case of package storetest.
var engines = map[string]valkeytest.Options{
	"Redis":                     {},
	"Redis with TLS and a user": {TLS: true, User: "tracker", Password: "secret"},
	"Valkey":                    {Program: valkeytest.Valkey},
	"a cluster":                 {Masters: 3},
}

// rights returns what docs/operating.md says of the user that a store needs, for the prefixes of these
// tests.
func rights(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^user ntrack on >PASSWORD (.* ~ntrk:\* .* &ntrk:\* .*)$`).FindSubmatch(page)
	if m == nil {
		t.Fatal("docs/operating.md has no user for the database")
	}
	return strings.ReplaceAll(string(m[1]), "ntrk:", "ntrk*:")
}

// A store passes storetest on every database.
func TestContract(t *testing.T) {
	t.Parallel()
	for name, o := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if o.User != "" {
				o.Rules = rights(t)
			}
			v := startVirtual(t, o)
			storetest.Run(t, func(t *testing.T) store.Store { return v.open(t, store.Limits{}) })
			storetest.RunMaxPerAddr(t, func(t *testing.T, l store.Limits) store.Store { return v.open(t, l) })
		})
	}
}

// open opens a store with a table of its own. At the end of the case it closes it, and empties the
// database.
func (v *virtualTime) open(t *testing.T, l store.Limits) *Store {
	t.Helper()
	v.opened++
	s, err := Open(t.Context(), Config{
		URL: v.engine.URL(), Prefix: fmt.Sprint(DefaultPrefix, v.opened), MaxPerAddr: l.MaxPerAddr,
		Log: func(line string) { t.Errorf("the store logs %q", line) }, adjust: v.adjust,
	})
	if err != nil {
		t.Fatal(err)
	}
	if v.inCase != t { // after all stores of the case are closed
		v.inCase = t
		t.Cleanup(func() {
			time.Sleep(10 * time.Second) // the client of a cluster closes a connection late
			v.empty(t)
		})
	}
	t.Cleanup(s.Close)
	return s
}

// The database has the time of the bubble, and messages arrive before time goes on.
func TestVirtualTime(t *testing.T) {
	t.Parallel()
	for name, o := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := startVirtual(t, o)
			for range 2 { // the second bubble begins at the same time as the first
				synctest.Test(t, func(t *testing.T) { virtualTimePasses(t, v) })
			}
		})
	}
}

func virtualTimePasses(t *testing.T, v *virtualTime) {
	opt, err := options(Config{URL: v.engine.URL(), adjust: v.adjust})
	if err != nil {
		t.Fatal(err)
	}
	client, err := rueidis.NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer v.empty(t)
	defer time.Sleep(10 * time.Second) // the client of a cluster closes a connection late
	defer client.Close()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var received atomic.Int32
	channels := []string{"c{1}", "c{2}", "c{3}"} // in different nodes of a cluster
	for _, c := range channels {
		go func() {
			err := client.Receive(ctx, client.B().Ssubscribe().Channel(c).Build(), func(rueidis.PubSubMessage) { received.Add(1) })
			if ctx.Err() == nil {
				t.Errorf("the subscription to %s ends: %v", c, err)
			}
		}()
	}
	synctest.Wait()
	for _, c := range channels {
		if err := client.Do(t.Context(), client.B().Spublish().Channel(c).Message("m").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	if n := int(received.Load()); n != len(channels) {
		t.Errorf("%d messages of %d have arrived", n, len(channels))
	}

	began := time.Now()
	if err := client.Do(t.Context(), client.B().Set().Key("k").Value("v").Ex(time.Hour).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	for _, pause := range []time.Duration{time.Hour - 500*time.Millisecond, time.Second} {
		time.Sleep(pause)
		now, err := client.Do(t.Context(), client.B().Time().Build()).AsIntSlice()
		if err != nil {
			t.Fatal(err)
		}
		if ahead := time.Until(time.Unix(now[0], now[1]*1000)); ahead.Abs() > 10*time.Millisecond {
			t.Errorf("the database is %v ahead", ahead)
		}
		_, err = client.Do(t.Context(), client.B().Get().Key("k").Build()).ToString()
		if exists := err == nil; exists != (time.Since(began) < time.Hour) {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	}
}
