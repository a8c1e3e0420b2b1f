package tracker_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// An index that is larger than MaxIndex is refused, in each format. Scrapes of some keys are not.
func TestMaxIndex(t *testing.T) {
	for _, tt := range []struct {
		name, key, target, accept string
		most                      int64 // of the size of 100 keys
	}{
		{"bencode", "aaaaaaaaaaaaaaaaa%03d", "/ntrk/", "application/x-bencode", 8400},
		{"text", "aaaaaaaaaaaaaaaaa%03d", "/ntrk/", "text/plain", 8400},
		{"text of escapes", "%%00%%00%%00%%00%03d", "/ntrk/", "text/plain", 100 * (64 + 4*6 + 3)},
		{"JSON of escapes", "%%00%%00%%00%%00%03d", "/ntrk/", "application/json", 100 * (64 + 4*6 + 3)},
		{"JSON of bytes", "%%ff%%ff!%%ff%03d", "/ntrk/", "application/json", 100 * (64 + 4*3 + 3)},
		{"JSON of other scripts", "😀%03d", "/ntrk/", "application/json", 100 * (64 + 4*3 + 3)},
		{"JSON of invisible text", "%%f3%%a0%%80%%81%03d", "/ntrk/", "application/json", 100 * (64 + 4*3 + 3)},
		{"a full scrape", "aaaaaaaaaaaaaaaaa%03d", "/scrape", "", 8400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := &tracker.Tracker{Index: true, MaxIndex: tt.most}
			s := newStranger(t, tr, "127.0.0.1")
			key := func(i int) string { return fmt.Sprintf(tt.key, i) }
			for i := range 100 {
				s.ask("GET", "/ntrk/"+key(i)+"?port=1")
			}
			s.call.Accept = []byte(tt.accept)
			resp, body := s.ask("GET", tt.target)
			if resp.Status != 200 || strings.Contains(body, "too large") || int64(len(body)) > tt.most {
				t.Errorf("100 keys: status %d, %d bytes, %.100q", resp.Status, len(body), body)
			}
			s.ask("GET", "/ntrk/"+key(100)+"?port=1")
			resp, body = s.ask("GET", tt.target)
			const reason = "the index is too large for the memory of this tracker: ask for a key"
			refused := resp.Status == 503 && resp.Retry > 0
			if tt.target == "/scrape" {
				refused = resp.Status == 200 && strings.Contains(body, "failure reason")
			}
			if !refused || !strings.Contains(body, reason) {
				t.Errorf("101 keys: status %d, Retry-After %v, %q", resp.Status, resp.Retry, body)
			}
			if n := tr.Stats().Reasons["max_memory"]; n != 1 {
				t.Errorf("%d refusals are counted", n)
			}
			if resp, body := s.ask("GET", "/scrape?info_hash="+key(1)); resp.Status != 200 || !strings.HasPrefix(body, "d5:files") {
				t.Errorf("a scrape of one key: status %d, %q", resp.Status, body)
			}
		})
	}
}

// An indexStore counts how many indexes are being made.
type indexStore struct {
	*memory.Store
	now, most, made int
}

func (s *indexStore) Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error) {
	s.now++
	s.made++
	s.most = max(s.most, s.now)
	time.Sleep(time.Second)
	s.now--
	return s.Store.Scrape(ctx, keys, asker, dst)
}

var _ store.Store = (*indexStore)(nil)

// The tracker makes one index at a time, because each needs much memory. Who does not wait any longer
// gets none.
func TestOneIndexAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &indexStore{Store: memory.New()}
		tr := &tracker.Tracker{Store: s, Index: true}
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		statuses := make(map[int]int)
		results := make(chan int)
		for range 10 {
			go func() {
				c := &tracker.Call{Method: "GET", Target: []byte("/ntrk/"), Remote: netip.MustParseAddrPort("127.0.0.1:1")}
				resp, _ := tr.Answer(ctx, c, nil)
				results <- resp.Status
			}()
		}
		for range 10 {
			statuses[<-results]++
		}
		if s.most != 1 || s.made != 4 || statuses[200] != 4 || statuses[503] != 6 {
			t.Errorf("%d at a time, %d altogether, statuses %v", s.most, s.made, statuses)
		}
	})
}
