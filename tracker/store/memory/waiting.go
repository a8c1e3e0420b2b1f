package memory

import "time"

// The changes that wait for subscriptions count towards Limits.MaxBytes: clients that join and leave
// while others do not read their streams could fill the memory otherwise. They may take a sixteenth of
// it. If there is no room for a change, the subscriptions of its key end. Their clients subscribe
// again, and get a list of the peers.

const (
	// changeBytes is what a change counts for: itself, its entry in pendingIndex, and later its place in
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
	w.pending, w.pendingIndex, w.pendingBytes = nil, nil, 0
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.gaveUp = w.shard.store.clock.now()
	for _, sub := range w.subs {
		if sub.place.Swap(nil) != nil {
			sub.notify()
		}
	}
}

// justGaveUp reports whether the subscriptions of the key have just ended because there was no memory.
func (w *watchers) justGaveUp(now time.Duration) bool {
	return w.gaveUp != 0 && now-w.gaveUp < settleTime
}

// settle gives back the bytes of the batches that no subscription has to take any more. The caller
// holds flushing, and passes the subscriptions. If batches remain, settle calls itself later.
func (w *watchers) settle(subs []recipient, last *batch) {
	first := last
	for _, sub := range subs {
		if place := sub.place.Load(); place != nil && place.number < first.number {
			first = place
		}
	}
	for ; w.oldest != nil && w.oldest.number < first.number; w.oldest = w.oldest.next.Load() {
		w.shard.store.giveChanges(w.oldest.bytes)
	}
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
	last := w.next
	w.shard.mu.Unlock()
	w.settle(*subs, last)
	clear(*subs)
	w.shard.store.recipients.Put(subs)
}
