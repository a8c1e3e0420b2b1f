package commands

import (
	"bytes"
	"cmp"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/output"
)

// The texts of an earlier process stay in their places until their peers have been seen.
func TestEarlierMerge(t *testing.T) {
	for _, tt := range []struct{ earlier, lists, want string }{
		{"", "b a", "b a"},
		{"a b c", "a b c", "a b c"},
		{"a b c", " ", "a b c"},
		{"a b c", "c", "a b c"},
		{"a b c", "a d", "a b c d"},
		{"a b c", "a|", "b c"},        // a was there and is gone
		{"a b c", "b a|c", "c"},       // and now nobody is unseen
		{"c b a", "a b|c|a c", "a c"}, // so the order is the usual one
		{"a a b", "a", "a a b"},       // two peers of one host
		{"a a b", "a a a", "a a b a"}, //
		{"a a b", "a a|a", "a b"},     //
		{"a a b", "a|", "a b"},        //
		{"a b", "x|x y|y", "a b y"},   // new ones come and go as usual
		{"a b", "a|b|a b x", "a b x"}, //
	} {
		e := earlier{texts: strings.Fields(tt.earlier)}
		got := ""
		for list := range strings.SplitSeq(tt.lists, "|") {
			got = strings.Join(e.merge(strings.Fields(list)), " ")
		}
		if got != tt.want {
			t.Errorf("%q, then %q: %q, want %q", tt.earlier, tt.lists, got, tt.want)
		}
	}
}

// A trialKeeper is a keeper whose events and time come from a test.
type trialKeeper struct {
	*keeper
	t    *testing.T
	file string
	stop context.CancelFunc
	mu   sync.Mutex
	out  bytes.Buffer // its notes
}

func newTrialKeeper(t *testing.T, old string, settle time.Duration) *trialKeeper {
	t.Helper()
	k := &trialKeeper{t: t, file: filepath.Join(t.TempDir(), "file")}
	if old != "" {
		if err := os.WriteFile(k.file, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := &watchOptions{to: toFileOptions{name: k.file, header: "#\n", settle: settle}}
	var err error
	if o.template, err = output.ParseTemplate("{{.Port}}"); err == nil {
		o.to.file, err = newReplacement(k.file)
	}
	var ctx context.Context
	ctx, k.stop = context.WithCancel(t.Context())
	if err == nil {
		k.keeper, err = startKeeper(ctx, Streams{Err: k}, o, &runner{newest: make(chan []netip.AddrPort, 1)})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.stop()
		k.end()
	})
	return k
}

// run requires that CMD of --exec runs for the last list, or that it does not.
func (k *trialKeeper) run(want bool) {
	k.t.Helper()
	synctest.Wait()
	ran := false
	select {
	case <-k.runs.newest:
		ran = true
	default:
	}
	if ran != want {
		k.t.Errorf("CMD runs: %v, want %v", ran, want)
	}
}

func (k *trialKeeper) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.Write(b)
}

// event gives the keeper a list of ports. With a ttl it is the list of an EventPeers.
func (k *trialKeeper) event(ttl, age time.Duration, ports ...uint16) {
	ev := announce.Event{TTL: ttl, Age: age}
	for _, p := range ports {
		ev.Peers = append(ev.Peers, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), p))
	}
	_ = k.show(ev)
}

// has requires the texts of the file, after a time.
func (k *trialKeeper) has(after time.Duration, want string) {
	k.t.Helper()
	time.Sleep(after)
	synctest.Wait()
	b, _ := os.ReadFile(k.file)
	if got := strings.Join(strings.Fields(string(b)), " "); got != want {
		k.t.Errorf("the file has %q, want %q", got, want)
	}
}

// The first list is written at once. After that, changes wait for --settle, but no change waits longer.
func TestKeeperSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const settle = 10 * time.Second
		k := newTrialKeeper(t, "", settle)
		k.has(0, "")
		k.event(time.Minute, 0, 1)
		k.has(0, "# 1")
		time.Sleep(time.Hour)
		for port := range uint16(9) { // the last change is 8 s after the first one
			k.event(0, 0, 1, 2+port)
			k.has(time.Second, "# 1")
		}
		k.has(time.Second, "# 1 10")
		k.event(0, 0, 1, 2)
		k.has(settle-1, "# 1 10")
		k.event(0, 0, 3) // a busy track
		k.has(1, "# 3")
		k.event(0, 0, 4)
		k.has(settle-1, "# 3")
		k.has(1, "# 4")
	})
	synctest.Test(t, func(t *testing.T) {
		k := newTrialKeeper(t, "", 0)
		for port := range uint16(3) {
			k.event(0, 0, port+1)
			k.has(0, "# "+string(rune('1'+port)))
		}
	})
}

// CMD of --exec runs at the start, even if the file was true already, and then when it was replaced.
func TestKeeperRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTrialKeeper(t, "#\n1\n2\n", 0)
		k.run(false)
		k.event(time.Minute, time.Hour, 1, 2)
		k.run(true)
		k.event(time.Minute, time.Hour, 1, 2)
		k.run(false)
		k.event(0, 0, 1, 3)
		k.run(true)
		k.has(0, "# 1 3")
	})
}

// The end waits for the last write.
func TestKeeperEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTrialKeeper(t, "", 0)
		ended := false
		go func() {
			k.end()
			ended = true
		}()
		if synctest.Wait(); ended {
			t.Error("the end does not wait")
		}
		k.stop()
		if synctest.Wait(); !ended {
			t.Error("the keeper does not end with its context")
		}
	})
}

// A peer whose label does not fit the template is left out of the file, and a note says so. A barrier
// writes no list with a gap.
func TestKeeperLabelDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTrialKeeper(t, "", 0)
		var err error
		if k.template, err = output.ParseTemplate("{{.Port}}{{if .Label}}{{slice .Label 5}}{{end}}"); err != nil {
			t.Fatal(err)
		}
		peers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")}
		k.labels = &labels{known: map[netip.AddrPort]string{peers[0]: "four", peers[1]: "label"}}
		k.event(time.Minute, 0, 1, 2)
		k.has(0, "# 2")
		if want := "ntrack: --format: 192.0.2.1:1 is left out: "; !strings.HasPrefix(k.out.String(), want) {
			t.Errorf("the note is %q, want %q...", &k.out, want)
		}
		if err := k.writeOnce(peers); err == nil || !strings.HasPrefix(err.Error(), "--format: 192.0.2.1:1 is left out: ") {
			t.Errorf("a barrier: %v", err)
		}
	})
}

// A list from a table that is younger than the ttl removes no texts of the file.
func TestKeeperYoungTable(t *testing.T) {
	const ttl = 38 * time.Second
	synctest.Test(t, func(t *testing.T) {
		k := newTrialKeeper(t, "#\n1\n2\n3\n", 0)
		k.event(ttl, 5*time.Second, 2)
		k.has(0, "# 1 2 3")
		k.event(0, 0, 2, 4)
		k.has(ttl-5*time.Second-1, "# 1 2 3 4")
		k.has(1, "# 2 4")
	})
	synctest.Test(t, func(t *testing.T) { // the table began before all peers that it does not have
		k := newTrialKeeper(t, "#\n1\n2\n3\n", 0)
		k.event(ttl, ttl, 2)
		k.has(0, "# 2")
	})
	synctest.Test(t, func(t *testing.T) { // the tracker is restarted again, or its age is unknown
		k := newTrialKeeper(t, "#\n1\n2\n3\n", 0)
		k.event(ttl, 0, 2)
		k.has(ttl-1, "# 1 2 3")
		k.event(ttl, 0, 2, 3)
		k.has(ttl-1, "# 1 2 3")
		k.event(0, 0, 2)
		k.has(0, "# 1 2")
		k.has(1, "# 2")
	})
	synctest.Test(t, func(t *testing.T) { // the first list waits while the disk is slow
		k := newTrialKeeper(t, "#\n1\n2\n", 0)
		k.event(ttl, time.Second, 2)
		k.event(0, 0, 2, 3)
		k.has(ttl-time.Second-1, "# 1 2 3")
		k.has(1, "# 2 3")
	})
	for _, old := range []string{"1\n2\n", "# other\n1\n2\n"} { // what was made for something else
		synctest.Test(t, func(t *testing.T) {
			k := newTrialKeeper(t, old, 0)
			k.event(ttl, 0, 3)
			k.has(0, "# 3")
		})
	}
}

// The texts of peers that an old table does not have are dropped before the file is written, not after.
func TestEarlierOldTable(t *testing.T) {
	for _, c := range []struct {
		age  time.Duration
		stay bool
	}{{0, true}, {time.Minute - 1, true}, {time.Minute, false}, {time.Hour, false}} {
		e := earlier{texts: []string{"1\n", "2\n"}}
		timeout := e.timeout(time.Minute, c.age)
		if got := e.merge([]string{"2\n"}); (len(got) == 2) != c.stay || (timeout != nil) != c.stay {
			t.Errorf("age %v: %q, a timeout: %v", c.age, got, timeout != nil)
		}
	}
}

// A file that cannot be written stays as it is. The keeper tries again, and takes the newest list.
func TestKeeperTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTrialKeeper(t, "", 0)
		k.event(time.Minute, 0, 1)
		k.has(0, "# 1")
		away := k.file + ".away" // a directory is in the way
		if err := os.Rename(k.file, away); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(k.file, 0o700); err != nil {
			t.Fatal(err)
		}
		k.event(0, 0, 1, 2)
		time.Sleep(3*time.Second - 1) // the tries are now, in 1 s, and in 3 s
		if err := os.Remove(k.file); err != nil {
			t.Fatal(err)
		}
		k.has(0, "")
		k.has(1, "# 1 2")
		note := "ntrack: --to " + k.file + ": it is a directory: name a file in it; the file stays as it is; trying again in "
		if want := note + "1s, or when the list changes\n" + note + "2s, or when the list changes\n"; k.out.String() != want {
			t.Errorf("the notes are\n%swant\n%s", &k.out, want)
		}
		// After a success the pauses begin again.
		k.mu.Lock()
		k.out.Reset()
		k.mu.Unlock()
		if err := cmp.Or(os.Remove(k.file), os.Mkdir(k.file, 0o700)); err != nil {
			t.Fatal(err)
		}
		k.event(0, 0, 1)
		synctest.Wait()
		if want := note + "1s, or when the list changes\n"; k.out.String() != want {
			t.Errorf("the note is\n%swant\n%s", &k.out, want)
		}
	})
}
