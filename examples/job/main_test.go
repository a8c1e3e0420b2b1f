package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Four processes agree on their ranks and on the sum.
func TestJob(t *testing.T) {
	local := trackertest.New()
	defer local.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key, err := announce.ParseKey("sum")
	if err != nil {
		t.Fatal(err)
	}
	const size = 4
	var printed [size]bytes.Buffer
	var all sync.WaitGroup
	for i := range size {
		all.Go(func() {
			if err := job(ctx, local.Tracker, key, size, &printed[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	ranks := make(map[string]bool)
	for i := range size {
		rank, rest, _ := strings.Cut(printed[i].String(), ":")
		ranks[rank] = true
		// The sum of the squares up to n is n(n+1)(2n+1)/6.
		if want := fmt.Sprintf("the sum %d\n", int64(1_000_000*1_000_001*2_000_001/6)); !strings.HasSuffix(rest, want) {
			t.Errorf("printed %q, want it to end in %q", &printed[i], want)
		}
	}
	for rank := range size {
		if name := fmt.Sprintf("rank %d of %d", rank, size); !ranks[name] {
			t.Errorf("no process is %s", name)
		}
	}
}
