package memory

import (
	"slices"
	"time"

	"ntrack/tracker/store/feed"
)

// The changes that wait for subscriptions count towards Limits.MaxBytes: clients that join and leave
// while others do not read their streams could fill the memory otherwise. They may take a sixteenth of
// it. If there is no room for a change, the subscriptions of its key end. Their clients subscribe
// again, and get a list of the peers.

const (
	// changeBytes is what a change counts for: itself, its entry in the index of the feed, and later its place in
	// what subscriptions see and in the text of an event.
	changeBytes = 256
	// numberBytes is what each join or leave after the first of the same peer counts for.
	numberBytes = 16
	// settleEvery is how often a key without new changes gives back the bytes of the batches that all of
	// its subscriptions have taken.
	settleEvery = time.Second
)

// takeChanges counts n bytes of changes, if there is room for them.
func (m *Store) takeChanges(n int) bool {
	room := m.room()
	if changes := m.changes.Add(int64(n)); changes > room/16 || !m.ledger.reserve(n, room) {
		m.changes.Add(-int64(n))
		return false
	}
	m.ledger.take(n)
	m.ledger.release(n)
	return true
}

func (m *Store) giveChanges(n int) {
	if n != 0 {
		m.changes.Add(-int64(n))
		m.ledger.take(-n)
	}
}

// giveUp drops the pending changes, and ends all subscriptions of the key. Their peers stay listed for
// some time, so that they can subscribe again.
func (w *watchers) giveUp() {
	w.shard.store.giveChanges(w.pendingBytes)
	w.feed.Drop()
	w.pendingBytes = 0
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.gaveUp = w.shard.store.clock.now()
	for _, sub := range w.subs {
		if sub.End() {
			sub.Notify()
		}
	}
}

// justGaveUp reports whether the subscriptions of the key have just ended because there was no memory.
func (w *watchers) justGaveUp(now time.Duration) bool {
	return w.gaveUp != 0 && now-w.gaveUp < settleTime
}

// A counted is a batch with the bytes that its changes count for.
type counted struct {
	*feed.Batch
	bytes int
}

// settle gives back the bytes of the batches that no subscription has to take any more. The caller
// holds flushing, and passes the subscriptions and the batch that is still empty. If batches remain, settle
// calls itself later.
func (w *watchers) settle(subs []recipient, last *feed.Batch) {
	first := last
	for _, sub := range subs {
		if place := sub.Place(); place != nil && place.IsBefore(first) {
			first = place
		}
	}
	taken := 0
	for taken < len(w.counted) && w.counted[taken].IsBefore(first) {
		w.shard.store.giveChanges(w.counted[taken].bytes)
		taken++
	}
	w.counted = slices.Delete(w.counted, 0, taken)
	if first != last && !w.settling {
		w.settling = true
		time.AfterFunc(settleEvery, w.settleLater)
	}
}

func (w *watchers) settleLater() {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.settling = false
	subs := w.shard.store.recipients.Get().(*[]recipient)
	w.shard.mu.Lock()
	*subs = append((*subs)[:0], w.subs...)
	last := w.feed.Last()
	w.shard.mu.Unlock()
	w.settle(*subs, last)
	clear(*subs)
	w.shard.store.recipients.Put(subs)
}
