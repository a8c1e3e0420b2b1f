package tracker

import (
	"context"
	"errors"
	"sync/atomic"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Stats are the numbers of a Tracker since its first use. They have no keys and no addresses.
type Stats struct {
	// Served and Refused are how many requests had each result, by what the client wanted: announce,
	// look, leave, scrape, stream, page (a file of Page), and other if the request is too malformed to
	// say.
	Served, Refused map[string]uint64
	// Reasons are the refused requests by reason. The reasons are always the same few.
	Reasons map[string]uint64
	Streams int // the open event streams
	Store   store.Stats
}

// A kind is what a client wants, for Stats.
type kind uint8

const (
	kindOther kind = iota
	kindAnnounce
	kindLook
	kindLeave
	kindScrape
	kindStream
	kindPage
)

var kindNames = [...]string{"other", "announce", "look", "leave", "scrape", "stream", "page"}

// kindOf is the kind of a request that is not for a stream.
func kindOf(v wire.Verb) kind {
	return [...]kind{wire.VerbAnnounce: kindAnnounce, wire.VerbLook: kindLook, wire.VerbLeave: kindLeave, wire.VerbScrape: kindScrape}[v]
}

// A reason is why a request was refused, for Stats.
type reason uint8

const (
	reasonMalformed reason = iota
	reasonToken
	reasonNotFound
	reasonDenied
	reasonMemory
	reasonPeersPerAddr
	reasonRateAnnounces
	reasonRateKeys
	reasonRateLooks
	reasonRateStreams
	reasonStreamSize
	reasonStoreFull
	reasonStoreSlow
	reasonStoreUnavailable
	reasonError
)

var reasonNames = [...]string{"malformed", "token", "not_found", "denied", "max_memory", "max_per_addr", "rate_announces",
	"rate_keys", "rate_looks", "rate_streams", "stream_size", "store_full", "store_slow", "store_unavailable",
	"error"}

// reasonOf is the reason for an error of decide.
func reasonOf(err error) reason {
	var refusal *wire.RefusalError
	var limited *rateError
	var full *store.FullError
	switch {
	case errors.As(err, &refusal):
		switch {
		case refusal.Never:
			return reasonDenied
		case refusal.Status == 401:
			return reasonToken
		case refusal.Status == 404:
			return reasonNotFound
		}
		return reasonMalformed
	case errors.As(err, &limited):
		return reasonOfRate(limited.limit)
	case errors.As(err, &full):
		switch full.What {
		case store.FullMemory:
			return reasonMemory
		case store.FullPeersPerAddr:
			return reasonPeersPerAddr
		}
		if full.Stream {
			return reasonStreamSize
		}
		return reasonStoreFull
	case errors.Is(err, errLargeIndex):
		return reasonMemory
	case errors.Is(err, store.ErrUnavailable):
		return reasonStoreUnavailable
	case errors.Is(err, errSlow), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return reasonStoreSlow
	}
	return reasonError
}

// A counters counts requests. A tracker has several, so that processors seldom write the same one.
// Stats adds them up.
type counters struct {
	served, refused [len(kindNames)]atomic.Uint64
	reasons         [len(reasonNames)]atomic.Uint64
	_               [64]byte // keeps the next one off this one's last cache line
}

const numCounters = 16

// count counts the request that s has served, or refused because of err.
func (t *Tracker) count(s *scratch, err error) {
	c := &t.counters[s.counters]
	if err == nil {
		c.served[s.kind].Add(1)
		return
	}
	c.refused[s.kind].Add(1)
	c.reasons[reasonOf(err)].Add(1)
}

// Stats returns the numbers of the tracker. It may be called at any time, and delays no request.
func (t *Tracker) Stats() Stats {
	t.once.Do(t.init)
	st := Stats{Served: make(map[string]uint64), Refused: make(map[string]uint64), Reasons: make(map[string]uint64)}
	for i := range t.counters {
		c := &t.counters[i]
		for k, name := range kindNames {
			st.Served[name] += c.served[k].Load()
			st.Refused[name] += c.refused[k].Load()
		}
		for r, name := range reasonNames {
			st.Reasons[name] += c.reasons[r].Load()
		}
	}
	t.mu.Lock()
	st.Streams = len(t.streams)
	t.mu.Unlock()
	if s, ok := t.table.(interface{ Stats() store.Stats }); ok {
		st.Store = s.Stats()
	}
	return st
}
