package valkey_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// A tracker is killed while its streams hold 1,000 members. Half of them come back to another tracker
// within the lease: nobody sees them leave. The others leave when their lease has lapsed.
func TestFaultTrackerKilled(t *testing.T) {
	const tracks, perTrack, lease = 20, 50, 12 * time.Second
	key := func(k int) string { return fmt.Sprintf("track %d", k) }
	if url := os.Getenv("NTRACK_TEST_TABLE"); url != "" {
		ctx := context.Background()
		s, err := valkey.Open(ctx, valkey.Config{URL: url, Lease: lease})
		must(t, err)
		var subscribing sync.WaitGroup
		for k := range tracks {
			subscribing.Go(func() {
				for _, e := range peers(0, perTrack) {
					if _, _, _, err := s.Subscribe(ctx, []byte(key(k)), wire.Peer{Endpoint: e}, func() {}, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		subscribing.Wait()
		fmt.Println("subscribed")
		_, _ = io.ReadAll(os.Stdin) // until the test closes it, or ends
		return
	}
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	b := open(t, valkey.Config{URL: engine.URL(), Lease: lease})
	l := &ledger{}
	var watchers [tracks]*watcher
	for k := range tracks {
		l.stays(key(k), peers(0, perTrack)...)
		watchers[k] = watch(t, l, b, key(k))
	}

	self, err := os.Executable()
	must(t, err)
	a := exec.Command(self, "-test.run=^TestFaultTrackerKilled$")
	a.Env = append(os.Environ(), "NTRACK_TEST_TABLE="+engine.URL())
	stdin, err := a.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := a.StdoutPipe()
	must(t, err)
	must(t, a.Start())
	kill := sync.OnceFunc(func() {
		_ = a.Process.Kill()
		_ = a.Wait()
	})
	t.Cleanup(kill)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "subscribed\n" {
		t.Fatalf("the tracker printed %q, %v", line, err)
	}
	for k := range tracks {
		agree(t, repaired, b, key(k), peers(0, perTrack), watchers[k])
	}

	for k := range tracks {
		l.goes(key(k), peers(perTrack/2, perTrack)...)
	}
	kill()
	killed := time.Now()
	var subscribing sync.WaitGroup
	for k := range tracks {
		subscribing.Go(func() {
			for _, e := range peers(0, perTrack/2) {
				w, err := subscribe(t, l, b, key(k), e)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(w.close)
			}
		})
	}
	subscribing.Wait()
	if took := time.Since(killed); took > lease*2/3-time.Second {
		t.Fatalf("this machine is too slow: the members came back after %v", took)
	}
	for k := range tracks {
		agree(t, time.Until(killed.Add(lease+2*time.Second)), b, key(k), peers(0, perTrack/2), watchers[k])
		for _, e := range peers(perTrack/2, perTrack) {
			if at := watchers[k].leftAt(e); at.Before(killed.Add(lease / 3)) {
				t.Errorf("%v of %q left %v after its tracker, and the lease is %v", e, key(k), at.Sub(killed), lease)
			}
		}
	}
}
