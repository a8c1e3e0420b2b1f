package feed_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"ntrack/tracker/store"
	"ntrack/tracker/store/feed"
)

// A reader is a Reader with what a test knows about it.
type reader struct {
	feed.Reader
	notified int
}

func begin(f *feed.Feed, self string) *reader {
	r := new(reader)
	r.Self, r.Notify = netip.MustParseAddrPort(self), func() { r.notified++ }
	r.Begin(f)
	return r
}

// take returns all changes that wait, such as "+192.0.2.1:1".
func (r *reader) take(t *testing.T) (got []string) {
	t.Helper()
	for {
		b, live := r.Next()
		if !live {
			t.Fatalf("the reader %v has ended", r.Self)
		}
		if b == nil {
			return got
		}
		if len(b.Changes) == 0 {
			t.Errorf("the reader %v gets a batch without changes", r.Self)
		}
		for _, c := range b.Changes {
			got = append(got, sign(c.Joined)+c.Endpoint.String())
		}
	}
}

func sign(joined bool) string {
	if joined {
		return "+"
	}
	return "-"
}

// record records changes such as "+192.0.2.1:1".
func record(f *feed.Feed, changes ...string) {
	for _, c := range changes {
		f.Record(netip.MustParseAddrPort(c[1:]), c[0] == '+')
	}
}

func flush(f *feed.Feed, isReader func(netip.AddrPort) bool, readers ...*reader) {
	b := f.Flush(isReader)
	for _, r := range readers {
		r.Pass(b)
	}
}

// Each row is one batch. A reader began before it, another one in its middle.
func TestBatch(t *testing.T) {
	for _, c := range []struct {
		what          string
		before, after []string // what is recorded before the second reader begins, and after that
		first, second []string // what they get
	}{
		{"a join", []string{"+192.0.2.1:1"}, nil, []string{"+192.0.2.1:1"}, nil},
		{"a leave after the second began", nil, []string{"-192.0.2.1:1"}, []string{"-192.0.2.1:1"}, []string{"-192.0.2.1:1"}},
		{"a join and its leave undo each other", []string{"+192.0.2.1:1", "-192.0.2.1:1"}, nil, nil, nil},
		{"the second began between the two", []string{"+192.0.2.1:1"}, []string{"-192.0.2.1:1"}, nil, []string{"-192.0.2.1:1"}},
		{"three changes", []string{"-192.0.2.1:1"}, []string{"+192.0.2.1:1", "-192.0.2.1:1"}, []string{"-192.0.2.1:1"}, nil},
		{"a hidden peer", []string{"+10.0.0.1:1"}, []string{"+127.0.0.1:1"}, nil, nil},
		{"in order", []string{"+192.0.2.3:1", "-192.0.2.2:1"}, []string{"+192.0.2.1:1"},
			[]string{"+192.0.2.3:1", "-192.0.2.2:1", "+192.0.2.1:1"}, []string{"+192.0.2.1:1"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			var f feed.Feed
			first := begin(&f, "198.51.100.1:0")
			record(&f, c.before...)
			second := begin(&f, "198.51.100.2:0")
			record(&f, c.after...)
			flush(&f, nil, first, second)
			for _, r := range []struct {
				*reader
				want []string
			}{{first, c.first}, {second, c.second}} {
				if got := r.take(t); !slices.Equal(got, r.want) {
					t.Errorf("%v gets %q instead of %q", r.Self, got, r.want)
				}
				if (r.notified > 0) != (len(r.want) > 0) {
					t.Errorf("%v was notified %d times", r.Self, r.notified)
				}
			}
		})
	}
}

// A subscriber does not get its own changes, and all others do.
func TestOwn(t *testing.T) {
	var f feed.Feed
	a, b := begin(&f, "192.0.2.1:1"), begin(&f, "192.0.2.2:1")
	record(&f, "+192.0.2.1:1", "+192.0.2.3:1")
	flush(&f, func(e netip.AddrPort) bool { return e == a.Self }, a, b)
	if got := a.take(t); !slices.Equal(got, []string{"+192.0.2.3:1"}) {
		t.Errorf("the peer itself gets %q", got)
	}
	if got := b.take(t); !slices.Equal(got, []string{"+192.0.2.1:1", "+192.0.2.3:1"}) {
		t.Errorf("another gets %q", got)
	}
	record(&f, "-192.0.2.1:1")
	flush(&f, func(e netip.AddrPort) bool { return e == a.Self }, a, b)
	if b, live := a.Next(); b != nil || !live || a.notified != 1 {
		t.Errorf("the peer itself: %v, %v, notified %d times", b, live, a.notified)
	}
}

// Readers of one scope that began before a batch share one store.Batch.
func TestShared(t *testing.T) {
	var f feed.Feed
	a, b, near := begin(&f, "192.0.2.1:0"), begin(&f, "192.0.2.2:0"), begin(&f, "127.0.0.1:0")
	record(&f, "+192.0.2.3:1")
	flush(&f, nil, a, b, near)
	var got [3]*store.Batch
	for i, r := range []*reader{a, b, near} {
		got[i], _ = r.Next()
	}
	if got[0] != got[1] || got[0] == got[2] || got[2] == nil {
		t.Errorf("%p, %p, %p", got[0], got[1], got[2])
	}
}

// A Reader ends when one batch or one change too many waits for it, and not before that.
func TestTooMuchWaits(t *testing.T) {
	for _, c := range []struct {
		what             string
		batches, changes int // changes of each batch
		live             bool
	}{
		{"256 batches", 256, 1, true},
		{"257 batches", 257, 1, false},
		{"20,000 changes", 2, 10_000, true},
		{"20,001 changes", 3, 6_667, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			var f feed.Feed
			slow, other, gone := begin(&f, "192.0.2.1:0"), begin(&f, "192.0.2.2:0"), begin(&f, "192.0.2.3:0")
			gone.End()
			for i := range c.batches {
				for j := range c.changes {
					record(&f, fmt.Sprintf("+198.51.100.%d:%d", i/250, 1+(i%250*c.changes+j)%65535))
				}
				flush(&f, nil, slow, other, gone)
				other.take(t)
			}
			if _, live := slow.Next(); live != c.live {
				t.Errorf("the slow reader goes on: %v", live)
			}
			if slow.notified != c.batches || gone.notified != 0 {
				t.Errorf("notified %d times; one that had ended %d times", slow.notified, gone.notified)
			}
		})
	}
}

// Batches in which a Reader sees nothing do not count, and do not wait.
func TestUnseen(t *testing.T) {
	var f feed.Feed
	r := begin(&f, "192.0.2.1:0")
	for range 1000 {
		record(&f, "+10.0.0.1:1")
		flush(&f, nil, r)
		if r.Place() != f.Last() {
			t.Fatal("the reader stays at a batch in which it sees nothing")
		}
	}
	if b, live := r.Next(); b != nil || !live || r.notified != 0 {
		t.Errorf("%v, %v, notified %d times", b, live, r.notified)
	}
	if !r.End() || r.End() {
		t.Error("End has to return true once")
	}
}

func TestPending(t *testing.T) {
	var f feed.Feed
	record(&f, "+192.0.2.1:1", "-192.0.2.1:1", "+192.0.2.2:1")
	if !f.Has(netip.MustParseAddrPort("192.0.2.1:1")) || f.Has(netip.MustParseAddrPort("192.0.2.3:1")) || f.Pending() != 2 {
		t.Errorf("%d are pending", f.Pending())
	}
	f.Drop()
	r := begin(&f, "192.0.2.9:0")
	flush(&f, nil, r)
	if got := r.take(t); f.Pending() != 0 || len(got) != 0 {
		t.Errorf("after Drop: %q", got)
	}
}
