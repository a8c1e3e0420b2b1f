package server

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// callTime is how long a call of a store may take that may block, and up to sharedTime more.
	callTime = 2 * time.Second
	// The calls that begin within sharedTime share one deadline, because each has a timer and takes
	// memory.
	sharedTime = 100 * time.Millisecond
)

// callTimes has the deadlines of calls that may block.
type callTimes struct {
	all    context.Context // of all calls
	abort  context.CancelFunc
	latest atomic.Pointer[callTimeout]
}

type callTimeout struct {
	context.Context
	end   context.CancelFunc
	until time.Time // later calls have another one
}

func (c *callTimes) init() { c.all, c.abort = context.WithCancel(context.Background()) }

// callContext returns the context of a call that begins at now. It ends with its deadline, or when
// Shutdown does not wait any longer. It has no end if the tracker never waits.
func (s *Server) callContext(now time.Time) context.Context {
	if !s.mayWait {
		return context.Background()
	}
	c := &s.calls
	latest := c.latest.Load()
	if latest != nil && now.Before(latest.until) {
		return latest
	}
	until := now.Add(sharedTime)
	ctx, end := context.WithDeadline(c.all, until.Add(callTime))
	next := &callTimeout{ctx, end, until}
	if !c.latest.CompareAndSwap(latest, next) { // another goroutine was faster
		end()
		return c.latest.Load()
	}
	return next
}
