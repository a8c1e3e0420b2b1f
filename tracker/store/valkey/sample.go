package valkey

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const sets = 2 * wire.NumScopes

// A query counts and samples a track for one asker. It asks in one pipeline if it can guess the counts,
// and otherwise in two.
type query struct {
	store   *Store
	keys    *trackKeys
	key     []byte
	want    int
	self    netip.AddrPort // the asker; its port is 0 if it is not listed
	member  string         // the asker in its set, or ""
	own     int            // the index of its set
	first   int            // the asker sees the sets from this index on
	now     int64          // in seconds
	nowText string         // the least score of a listed peer, as "(1234"

	hint   hint
	hinted bool

	commands    []rueidis.Completed
	counts      [sets]int // the listed peers
	hiddenKnown bool      // counts has also those of the sets that the asker does not see
	birth       int64     // the number of the track, or 0

	windows []window
	found   [sets][]netip.AddrPort // others that were read
	take    [sets]int              // how many of them go into the reply
	seen    *seen
}

// A window is a part of a set that is read. Most windows have the members from one rank to another, both
// below 0: the member of rank -1 has the latest expiry, so the listed ones of n are those from -n to -1. A
// window with a limit has the listed members from a place on, in the order of their expiry.
type window struct {
	set        int
	start, end int
	limit      int
}

var queries = sync.Pool{New: func() any { return &query{seen: new(seen)} }}

// newQuery begins a query for an asker whose port is 0 if it is not to be listed.
func (s *Store) newQuery(key []byte, asker netip.AddrPort, want store.Want) *query {
	q := queries.Get().(*query)
	found, windows, commands, seen := q.found, q.windows[:0], q.commands[:0], q.seen
	for i := range found {
		found[i] = found[i][:0]
	}
	now := s.clock.second()
	*q = query{store: s, keys: s.keysOf(key), key: key, want: max(want.Peers, 0), now: now,
		found: found, windows: windows, commands: commands, seen: seen}
	text := append(make([]byte, 0, 16), '(')
	q.nowText = rueidis.BinaryString(strconv.AppendInt(text, now, 10))
	q.own = setOf(asker.Addr())
	q.first = q.own &^ 1
	q.hiddenKnown = q.first == 0
	if asker.Port() != 0 {
		q.self, q.member = asker, memberOf(asker)
	}
	q.hint, q.hinted = s.hints.get(key)
	return q
}

// free gives the memory of a query back.
func (q *query) free() {
	if q.commands == nil {
		return // the client may still have them
	}
	clear(q.commands[:cap(q.commands)])
	for i := range q.found {
		if cap(q.found[i]) > maxRead {
			q.found[i] = nil
		}
	}
	q.store, q.keys, q.key, q.member, q.nowText = nil, nil, nil, "", ""
	queries.Put(q)
}

func (q *query) add(c rueidis.Completed) { q.commands = append(q.commands, c) }

// A replies has the results of a pipeline in order.
type replies struct {
	results []rueidis.RedisResult
	i       int
}

func (r *replies) next() *rueidis.RedisResult {
	r.i++
	return &r.results[r.i-1]
}

// send sends the commands.
func (q *query) send(ctx context.Context) (*replies, error) {
	results, err := q.store.do(ctx, q.commands...)
	if err != nil {
		q.commands = nil // the client may still send them
		return nil, err
	}
	q.commands = q.commands[:0]
	return &replies{results: results}, nil
}

// read counts and samples.
func (q *query) read(ctx context.Context) error {
	q.askCounts()
	q.askSample()
	r, err := q.send(ctx)
	if err != nil {
		return err
	}
	q.readCounts(r)
	complete := q.readSample(r)
	if complete && q.hiddenKnown {
		return nil
	}
	hidden := !q.hiddenKnown
	if hidden {
		q.askHidden()
	}
	if !complete {
		q.askSample()
	}
	if r, err = q.send(ctx); err != nil {
		return err
	}
	if hidden {
		q.readHidden(r)
	}
	if !complete {
		q.readSample(r)
	}
	return nil
}

// askCounts asks for the counts of what the asker sees, and for the rest of the size. Tracks rarely have
// peers of a scope that the asker does not see: one command asks whether there are any.
func (q *query) askCounts() {
	b := q.store.client.B()
	from := q.first
	if q.hinted && q.hint.hidden(q.first) {
		from, q.hiddenKnown = 0, true
	}
	for _, set := range q.keys.sets[from:] {
		q.add(b.Zcount().Key(set).Min(q.nowText).Max("+inf").Build())
	}
	if !q.hiddenKnown {
		q.add(b.Exists().Key(q.keys.sets[:q.first]...).Build())
	}
	q.add(b.Get().Key(q.keys.birth).Build())
}

func (q *query) readCounts(r *replies) {
	from := q.first
	if q.hiddenKnown {
		from = 0
	}
	for i := from; i < sets; i++ {
		n, _ := r.next().AsInt64()
		q.counts[i] = int(n)
	}
	if !q.hiddenKnown {
		n, _ := r.next().AsInt64()
		q.hiddenKnown = n == 0
	}
	if q.birth, _ = r.next().AsInt64(); q.birth < 1<<(changeShift+8) {
		q.birth = 0 // it has expired, and INCR has made it again
	}
}

func (q *query) askHidden() {
	for _, set := range q.keys.sets[:q.first] {
		q.add(q.store.client.B().Zcount().Key(set).Min(q.nowText).Max("+inf").Build())
	}
}

func (q *query) readHidden(r *replies) {
	for i := range q.first {
		n, _ := r.next().AsInt64()
		q.counts[i] = int(n)
	}
	q.hiddenKnown = true
}

// visibleCount is how many listed peers the asker sees.
func (q *query) visibleCount() (n int) {
	for _, c := range q.counts[q.first:] {
		n += c
	}
	return n
}

// sizeOf returns the size of a track with these counts.
func (q *query) sizeOf(counts []int, birth int64) store.Size {
	size := store.Size{Total: q.store.total.sum()}
	for _, n := range counts {
		size.Peers += n
	}
	if q.member != "" {
		size.Peers = max(size.Peers, 1)
	}
	if size.Peers > 0 && birth > 0 {
		size.Age = time.Duration(max(0, q.now-birth>>changeShift)) * time.Second
	}
	size.Total = max(size.Total, size.Peers)
	return size
}

// others is how many peers of a set may go into the reply, if it has n listed ones.
func (q *query) others(set, n int) int {
	if q.member != "" && set == q.own {
		n--
	}
	return max(n, 0)
}

// askSample asks for windows of the sets, by the counts if they are known, otherwise by those of a while
// ago. Otherwise it asks for as many peers as are wanted: most tracks have fewer.
func (q *query) askSample() {
	q.windows = q.windows[:0]
	if q.want == 0 {
		return
	}
	counts := q.counts
	switch counted := q.visibleCount() > 0; {
	case counted:
	case q.hinted:
		counts = q.hint.counts
	default:
		for i := q.first; i < sets; i++ {
			q.addAll(i, q.want+1)
		}
		return
	}
	q.share(&counts)
	for i := q.first; i < sets; i++ {
		q.addWindows(i, counts[i], q.take[i])
	}
}

const (
	// windows is how many parts of a large set a sample has. Peers with neighbouring ranks announced at
	// about the same time, or have similar addresses, so they are not to come together.
	windows = 4
	// minWindow is the least length of a window. If fewer are wanted, the rest is left out at random.
	minWindow = 16
	// maxRead is how many members one command reads.
	maxRead = 1000
)

// addWindows asks for windows of a set with n listed members, of which k others are wanted.
func (q *query) addWindows(set, n, k int) {
	if k == 0 || n == 0 {
		return
	}
	if set == q.own && q.member != "" {
		k++ // one of them may be the asker
	}
	length := max(minWindow, (k+windows-1)/windows)
	free := n - windows*length
	if free <= 0 {
		q.addAll(set, max(n, windows*length)+minWindow)
		return
	}
	// The windows are disjoint: the members between them are free, and cut at random.
	var cuts [windows]int
	for i := range cuts {
		cuts[i] = rand.IntN(free + 1)
	}
	slices.Sort(cuts[:])
	turn := rand.IntN(n)
	for i, cut := range cuts {
		from := (turn + cut + i*length) % n
		q.addRange(set, from, min(from+length, n))
		q.addRange(set, 0, from+length-n)
	}
}

// addRange asks for the listed members from one position to another. Position 0 is the one that lapses
// last.
func (q *query) addRange(set, from, to int) {
	for ; from < to; from += maxRead {
		end := min(from+maxRead, to)
		q.addWindow(window{set: set, start: -end, end: -from - 1})
	}
}

func (q *query) addWindow(w window) {
	q.windows = append(q.windows, w)
	q.add(q.store.client.B().Zrange().Key(q.keys.sets[w.set]).Min(strconv.Itoa(w.start)).Max(strconv.Itoa(w.end)).Build())
}

// addAll asks for up to n listed members of a set, that is for all of them if it has no more. They do not
// depend on counts of a moment ago.
func (q *query) addAll(set, n int) {
	for start := 0; start < n; start += maxRead {
		w := window{set: set, start: start, limit: min(maxRead, n-start)}
		q.windows = append(q.windows, w)
		q.add(q.store.client.B().Zrange().Key(q.keys.sets[set]).Min(q.nowText).Max("+inf").Byscore().
			Limit(int64(w.start), int64(w.limit)).Build())
	}
}

// readSample reads the windows, after the counts. It reports whether they have what is wanted.
func (q *query) readSample(r *replies) (complete bool) {
	if q.want == 0 {
		return true
	}
	for i := range q.found {
		q.found[i] = q.found[i][:0]
	}
	q.seen.reset()
	var cut [sets]bool // the set has more members than were asked for: they are no random sample
	for _, w := range q.windows {
		members, _ := r.next().ToArray()
		n := q.counts[w.set]
		if w.limit > 0 {
			cut[w.set] = len(members) == w.limit && n > w.start+w.limit
		} else if lapsed := len(members) - w.end - 1 - n; lapsed > 0 {
			members = members[min(lapsed, len(members)):]
		}
		for i := range members {
			text, err := members[i].ToString()
			if err != nil || text == q.member {
				continue
			}
			if e, ok := endpointOf(text); ok && q.seen.add(text, e) {
				q.found[w.set] = append(q.found[w.set], e)
			}
		}
	}
	q.share(&q.counts)
	complete = true
	for i := q.first; i < sets; i++ {
		if cut[i] {
			q.found[i] = q.found[i][:0]
		}
		complete = complete && len(q.found[i]) >= q.take[i]
	}
	return complete
}

// give appends the sample to dst. If a set has had fewer peers than were counted, others make up for it.
func (q *query) give(dst []wire.Peer) []wire.Peer {
	missing, found := 0, 0
	for i := q.first; i < sets; i++ {
		missing += max(0, q.take[i]-len(q.found[i]))
		found += len(q.found[i])
	}
	if found <= q.want {
		missing = found // all of them, also if there are more than were counted
	}
	for i := q.first; i < sets; i++ {
		f, k := q.found[i], q.take[i]
		if missing > 0 && len(f) > k {
			more := min(missing, len(f)-k)
			k, missing = k+more, missing-more
		}
		k = min(k, len(f))
		dst = slices.Grow(dst, k)
		for j := range k {
			if k < len(f) {
				o := j + rand.IntN(len(f)-j)
				f[j], f[o] = f[o], f[j]
			}
			dst = append(dst, wire.Peer{Endpoint: f[j]})
		}
	}
	return dst
}
