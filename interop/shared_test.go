//go:build linux

package interop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store/valkey/valkeytest"
)

// rollingRestart runs three trackers with one table, and haproxy in front of them, as docs/operating.md
// configures them. The user of the database has only the rights that this page gives it. While each tracker restarts in turn, no request fails, and no member of a stream leaves.
func rollingRestart(t *testing.T, bin string) {
	_, rules, ok := strings.Cut(strings.TrimSpace(operatingBlock(t, "Settings of the database", "acl")), "user ntrack on >PASSWORD ")
	if !ok {
		t.Fatal("docs/operating.md has other rights")
	}
	engine := valkeytest.Start(t, valkeytest.Options{User: "ntrack", Password: "secret", Rules: rules})
	heading := "haproxy in front of three"
	config, command := operatingBlock(t, heading, "haproxy"), operatingBlock(t, heading, "text")
	allowHeartbeats(t, strings.Replace(config, "inter 1s", "", 1))

	trackers := make([]*sharedTracker, 3)
	front := "127.0.0.1:" + freePort(t)
	for i := range trackers {
		s := &sharedTracker{addr: "127.0.0.1:" + freePort(t), admin: "127.0.0.1:" + freePort(t)}
		args, ok := strings.CutPrefix(strings.TrimSpace(command), "ntrack serve ")
		if !ok {
			t.Fatalf("docs/operating.md runs %q", command)
		}
		s.args = append([]string{"serve"}, strings.Fields(strings.NewReplacer("--listen :6969", "--listen "+s.addr, "--admin :9696", "--admin "+s.admin,
			"192.0.2.10", "127.0.0.1", "valkey://db.example:6379", engine.URL()).Replace(args))...)
		s.start(t, bin)
		trackers[i] = s
		config = strings.Replace(config, fmt.Sprintf("192.0.2.%d:6969 port 9696", i+1), s.addr+" port "+strings.TrimPrefix(s.admin, "127.0.0.1:"), 1)
	}
	config = strings.Replace(config, "bind :6969", "bind "+front, 1)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(config), 0o600))
	proxy := start(t, dir, "haproxy", "-db", "-f", "haproxy.cfg")
	eventually(t, func() error { return get200(front, "/ntrk/load?port=0") }, proxy)

	// Members hold their peers by streams, through haproxy. A watcher at each tracker sees them.
	var members []string
	for i := range 6 {
		members = append(members, fmt.Sprintf("127.0.0.1:%d", 4100+i))
		start(t, t.TempDir(), bin, "announce", front, "room", "--port", fmt.Sprint(4100+i), "--stay")
	}
	slices.Sort(members)
	eventually(t, func() error { return prints(t, members, bin, "list", front, "room", "-q") }, proxy)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var events watched
	for _, at := range []string{front, trackers[0].addr, trackers[1].addr, trackers[2].addr} {
		wg.Go(func() { events.follow(ctx, at, members) })
	}
	var answers, failures atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
			defer client.CloseIdleConnections()
			for tick := time.Tick(20 * time.Millisecond); ; {
				select {
				case <-ctx.Done():
					return
				case <-tick:
				}
				reply, err := client.Get(fmt.Sprintf("http://%s/ntrk/load?port=%d", front, 5000+i))
				if err == nil {
					_, err = io.Copy(io.Discard, reply.Body)
					_ = reply.Body.Close()
					if err == nil && reply.StatusCode != http.StatusOK {
						err = errors.New(reply.Status)
					}
				}
				if err != nil && ctx.Err() == nil {
					failures.Add(1)
					t.Errorf("a request: %v", err)
				}
				answers.Add(1)
			}
		})
	}
	for _, s := range trackers {
		before := answers.Load()
		must(t, s.cmd.Process.Signal(syscall.SIGTERM))
		s.wait(t)
		s.start(t, bin)
		eventually(t, func() error {
			if n := answers.Load() - before; n < 100 {
				return fmt.Errorf("%d answers", n)
			}
			return get200(s.admin, "/readyz")
		}, proxy)
		// haproxy has to notice that this tracker is back before the next one ends.
		eventually(t, func() error {
			if !s.served() {
				return errors.New("haproxy sends it no requests")
			}
			return prints(t, members, bin, "list", s.addr, "room", "-q")
		}, proxy)
	}
	cancel()
	wg.Wait()
	if n := answers.Load(); failures.Load() > 0 || n < 300 {
		t.Errorf("%d of %d requests failed", failures.Load(), n)
	}
	events.check(t)
}

// A sharedTracker is `ntrack serve --store` at addresses that stay the same.
type sharedTracker struct {
	*program
	addr, admin string
	args        []string
}

func (s *sharedTracker) start(t *testing.T, bin string) {
	t.Helper()
	s.program = start(t, t.TempDir(), bin, s.args...)
	eventually(t, func() error { return get200(s.admin, "/readyz") }, s.program)
}

// served says whether the tracker has served an announce since it started.
func (s *sharedTracker) served() bool {
	reply, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return false
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	const none = `ntrack_requests_total{request="announce",result="served"} 0` + "\n"
	return err == nil && !strings.Contains(string(text), none)
}

// get200 returns an error unless a GET has status 200.
func get200(at, target string) error {
	reply, err := (&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + at + target)
	if err != nil {
		return err
	}
	_ = reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return errors.New(reply.Status)
	}
	return nil
}

// A watched is what watchers have seen.
type watched struct {
	mu      sync.Mutex
	begun   int
	changes []string
}

// follow follows the key room at an address, again and again until ctx ends. It records what should not be:
// a leave, a join, and a member that is not in the list at the beginning of a stream.
func (w *watched) follow(ctx context.Context, at string, members []string) {
	for ctx.Err() == nil {
		w.followOnce(ctx, at, members)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (w *watched) followOnce(ctx context.Context, at string, members []string) {
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+at+"/ntrk/room?port=0", nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Accept", "text/event-stream")
	var dialer net.Dialer
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	reply, err := client.Do(request)
	if err != nil {
		return // the tracker restarts
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return
	}
	record := func(format string, args ...any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, at+" "+fmt.Sprintf(format, args...))
	}
	for r := wire.NewEventReader(reply.Body); ; {
		event, err := r.Next()
		if err != nil {
			return
		}
		switch event.Name {
		case "peers":
			w.mu.Lock()
			w.begun++
			w.mu.Unlock()
			for _, m := range members {
				if !slices.Contains(event.Peers, netip.MustParseAddrPort(m)) {
					record("begins without %s", m)
				}
			}
		case "leave", "join":
			record("%s %v", event.Name, event.Peers) // a member that comes back has not left
		}
	}
}

// check requires that no member has left, and that each watcher had several streams.
func (w *watched) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.changes) > 0 || w.begun < 7 {
		t.Errorf("%d streams saw\n%s", w.begun, strings.Join(w.changes, "\n"))
	}
}
