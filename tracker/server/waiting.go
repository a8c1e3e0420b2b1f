package server

import (
	"sync"
	"time"
)

// A waiter is a connection in which no request is under way.
type waiter struct {
	owner interface {
		// evict has the owner of the connection end it, soon: it may be about to find a request.
		evict()
	}
	since   time.Time // it was answered, or came
	evicted bool

	in         *waiting // where push has put it
	prev, next *waiter  // nil where it is no longer there
}

// waiting are connections that wait, those first that have waited longest. The lock is for those
// who look for one that can go: otherwise they are the business of one loop, or of the goroutine
// that each has.
type waiting struct {
	answered bool // each has had an answer; else it has not sent a request yet

	mu  sync.Mutex
	all waiter // the ring's beginning and end
	n   int
}

func (w *waiting) init(answered bool) {
	w.answered = answered
	w.all.prev, w.all.next = &w.all, &w.all
}

// push has c wait from now on.
func (w *waiting) push(c *waiter, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.since, c.in = now, w
	c.prev, c.next = w.all.prev, &w.all
	c.prev.next, w.all.prev = c, c
	w.n++
}

// unlink is for one that no longer waits, and does nothing for one that was taken.
func (c *waiter) unlink() {
	w := c.in
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.next != nil {
		w.remove(c)
	}
}

// unlinked says whether c was taken.
func (c *waiter) unlinked() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.next == nil
}

func (w *waiting) remove(c *waiter) {
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	w.n--
}

func (w *waiting) empty() bool {
	_, n := w.oldest()
	return n == 0
}

// oldest says since when the one that has waited longest waits, and how many wait.
func (w *waiting) oldest() (since time.Time, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.next.since, w.n
}

// take takes out the one that has waited longest, if that is since then or before.
func (w *waiting) take(then time.Time) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.all.next
	if c == &w.all || c.since.After(then) {
		return nil
	}
	w.remove(c)
	return c
}

// evict ends the one that has waited longest, if there is one.
func (w *waiting) evict() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.all.next
	if c == &w.all {
		return false
	}
	w.remove(c)
	c.evicted = true
	c.owner.evict()
	return true
}

// patience is for how long a connection is not evicted that has yet to send its first request,
// unless more than a quarter of all have yet to.
const patience = time.Second

// watch makes w one of those that evict looks at.
func (n *census) watch(w *waiting, answered bool) {
	w.init(answered)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[w] = struct{}{}
}

func (n *census) forget(w *waiting) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.waiting, w)
}

// evict makes room for a connection by ending another in which no request is under way: the one
// that has waited longest. Silent ones go before those that have asked before, and no crowd of them
// can take the place of these.
func (n *census) evict(now time.Time) bool {
	var longest [2]*waiting // silent, and answered
	var since [2]time.Time
	silent := 0
	for w := range n.waiting {
		i := 0
		t, size := w.oldest()
		if w.answered {
			i = 1
		} else {
			silent += size
		}
		if size > 0 && (longest[i] == nil || t.Before(since[i])) {
			longest[i], since[i] = w, t
		}
	}
	if longest[0] != nil && (silent > n.most/4 || now.Sub(since[0]) >= patience) && longest[0].evict() {
		return true
	}
	return longest[1] != nil && longest[1].evict()
}
