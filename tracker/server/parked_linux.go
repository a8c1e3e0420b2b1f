package server

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
)

// If the tracker may wait for its store, a worker serves no requests itself. It parks a connection that
// has sent a request: a goroutine serves a batch of its requests, and only makes the replies. Then the
// worker sends them, and goes on with the connection. Meanwhile it reads nothing from the connection, does
// not evict it, and counts no time against it. The tracker bounds how many of these goroutines wait.
// BenchmarkParked measures what that costs: about 3 µs of CPU time for each announce.

// A parkedBatch is the requests of a parked connection.
type parkedBatch struct {
	batch
	w          *worker
	c          *polledConn
	remote     netip.AddrPort
	via        via
	clientDone bool   // the client will send nothing more
	in         []byte // what the connection has sent
	rest       []byte // the bytes of in that are left
	why        stopReason
	next       *parkedBatch // in a list of parking
}

// parking has the parked connections of a worker.
type parking struct {
	n     int          // parked connections
	taken *parkedBatch // batches that were taken from served and not sent yet

	mu     sync.Mutex
	served *parkedBatch // batches whose replies the worker can send
	asleep bool         // the worker may wait for events, so that it must be woken
	ended  bool         // the worker has ended
}

// parkers are the goroutines that serve parked connections.
type parkers struct {
	waiting chan *parkedBatch // to a goroutine that waits for a batch
	spare   atomic.Int32      // how many wait
	used    sync.Pool         // of *parkedBatch, to be used again
}

// maxSpare is how many goroutines wait for a batch. They take up to 4 MB.
const maxSpare = 256

// maxUnpark is how many parked connections a worker goes on with before it serves others.
const maxUnpark = 64

// due says whether replies of parked connections are to be sent. If not, the worker is woken when they
// are.
func (p *parking) due() bool {
	if p.n == 0 || p.taken != nil {
		return p.taken != nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asleep = p.served == nil
	return !p.asleep
}

// take returns a batch whose replies can be sent, or nil.
func (p *parking) take() *parkedBatch {
	if p.taken == nil {
		p.mu.Lock()
		p.taken, p.served, p.asleep = p.served, nil, false
		p.mu.Unlock()
	}
	b := p.taken
	if b != nil {
		p.taken, b.next = b.next, nil
		p.n--
	}
	return b
}

// add gives b to the worker. wake says that the worker has to be woken. If the worker has ended, add
// returns false.
func (p *parking) add(b *parkedBatch) (wake, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false, false
	}
	b.next, p.served = p.served, b
	wake, p.asleep = p.asleep, false
	return wake, true
}

// end drops all batches, also later ones.
func (p *parking) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	for b := p.take(); b != nil; b = p.take() {
		b.drop()
	}
}

// park lets a goroutine serve the requests in, of which the first is whole.
func (w *worker) park(c *polledConn, in []byte, clientDone bool) outcome {
	c.parked, c.held = true, nil
	if !w.s.limiter.setWeight(&c.account, c.takes()) {
		_, _ = rawCall(unix.SYS_WRITE, int(c.fd), []byte(tooMany))
		return w.closeConn(c)
	}
	p, ok := w.parkers.used.Get().(*parkedBatch)
	if !ok {
		p = new(parkedBatch)
	}
	p.w, p.c, p.remote, p.via, p.clientDone = w, c, c.remote, c.via, clientDone
	p.in, p.now = append(p.in[:0], in...), w.now
	w.parking.n++
	select {
	case w.parkers.waiting <- p:
	default:
		go w.serveParked(p)
	}
	return kept
}

// serveParked serves a batch, and then others, because a new goroutine would have to grow its stack
// first. Some goroutines wait for others until the server ends.
func (a *epollAcceptor) serveParked(p *parkedBatch) {
	for p.serveIt(); a.parkers.spare.Add(1) <= maxSpare; p.serveIt() {
		select {
		case p = <-a.parkers.waiting:
			a.parkers.spare.Add(-1)
		case <-a.s.calls.all.Done():
			return
		}
	}
	a.parkers.spare.Add(-1)
}

// serveIt makes the replies. It does not use the connection.
func (p *parkedBatch) serveIt() {
	w, began := p.w, p.now
	p.rest, p.why = p.serve(w.s, p.in, p.remote, p.via, true, true)
	w.s.latency.observe(time.Since(began))
	wake, ok := w.parking.add(p)
	switch {
	case !ok:
		p.drop()
	case wake:
		w.wakeUp()
	}
}

// drop ends what the requests have begun, because their connection is closed.
func (p *parkedBatch) drop() {
	if p.stream != nil {
		p.stream.Close()
	}
}

// unparkSome goes on with parked connections whose replies can be sent.
func (w *worker) unparkSome() {
	for n := 0; n < maxUnpark && w.parking.n > 0; n++ {
		p := w.parking.take()
		if p == nil {
			return
		}
		w.unpark(p)
	}
}

// unpark sends the replies to a parked connection, and goes on with it.
func (w *worker) unpark(p *parkedBatch) {
	c, why := p.c, p.why
	if c.parked = false; why == allServed && w.s.shuttingDown.Load() {
		why = lastReply // else the connection might stay idle
	}
	switch {
	case w.weigh(c) == gone: // there is no room for what has arrived meanwhile
		p.drop()
	case w.sendBatch(c, &p.batch, p.rest, why, p.clientDone) == kept && !c.polled:
		w.poll(c)
	}
	p.w, p.c, p.rest, p.b.call = nil, nil, nil, tracker.Call{}
	if p.b.reusable() && cap(p.in) <= 4*firstRead {
		w.parkers.used.Put(p)
	}
}
