package server

// Each connection has a weight: about how many bytes of memory it takes, rounded up. Its memory cannot
// be measured, because a part of it is in the system.
const (
	// weightPolled is for a connection of a worker: the socket, its file, and a polledConn.
	weightPolled = 8 << 10
	// weightParked is what a connection of a worker has in addition while a goroutine serves its requests:
	// a stack, and the requests and replies.
	weightParked = 16 << 10
	// weightGoroutine is for a connection with a goroutine: also its stack, its timers and its
	// buffer of one head.
	weightGoroutine = 32 << 10
	// weightTLS is for a connection over TLS: also its keys and the buffers of two records.
	weightTLS = 64 << 10
	// sendBuffer is how many bytes the system keeps that were sent to a client and have not reached
	// it. It also keeps the packet that exceeds sendBuffer, which has at most 64 KB. A reply of 64 KB
	// fits in sendBuffer, so usually the server does not wait for its client. receiveBuffer is how
	// many bytes the system keeps that a client has sent and the server has not read.
	sendBuffer    = 128 << 10
	receiveBuffer = 64 << 10
	// weightUnread is the most that unread bytes add to the weight of a connection: those of
	// sendBuffer, and the packet that exceeds it. See unreadWeight.
	weightUnread = sendBuffer + 64<<10
	// Few unread bytes add nothing: up to smallUnread of a connection of a worker, and up to largeUnread
	// of a connection with a goroutine.
	smallUnread = 4 << 10
	largeUnread = 16 << 10
)

// unreadWeight is the weight of n bytes that the system keeps for a client. A packet takes up to twice
// as much memory as it has bytes.
func unreadWeight(n int) int64 { return min(2*int64(n), weightUnread) }

// An account is how a connLimiter counts a connection. connLimiter.mu guards it.
type account struct {
	weight  int64 // bytes; 0 for a connection that is not admitted, or has ended
	leaving bool  // the connection is evicted, and counts in memoryLimits.leaving
}

// memoryLimits are the limits that follow from MaxMemory.
type memoryLimits struct {
	// most is the most bytes of all admitted connections, with those that are evicted and have not
	// ended. It is seven eighths of MaxMemory, because the rest is for connections that are being
	// refused. 0 is no limit.
	most    int64
	sum     int64 // the weights of all admitted connections
	leaving int64 // the weights of those of them that are evicted
}

// tight says whether n bytes more need evictions. They begin before the limit is reached, because an
// evicted connection takes a moment to end.
func (m *memoryLimits) tight(n int64) bool {
	return m.most != 0 && m.sum-m.leaving+n > m.most-m.most/8
}

// makeMemory evicts connections until there is room for n bytes more. It returns false if the sum
// would still exceed limit. l.mu is locked.
func (l *connLimiter) makeMemory(n, limit int64) bool {
	for l.memory.tight(n) && l.evictOne() {
	}
	return l.memory.most == 0 || l.memory.sum+n <= limit
}

// setWeight changes the weight of an admitted connection, and evicts others if that needs room. It
// returns false if there is no room. Then the weight is unchanged, and the connection should end. A
// sixteenth of the memory is only for new connections, which are small.
func (l *connLimiter) setWeight(a *account, weight int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.weight == 0 { // the connection has just ended, while another goroutine sends events on it
		return false
	}
	more, limit := weight-a.weight, l.memory.most-l.memory.most/16
	// If it alone exceeds the limit, it does not help to evict others.
	if more > 0 && (limit > 0 && weight > limit || !l.makeMemory(more, limit)) {
		return false
	}
	l.addWeight(a, more)
	return true
}

// addWeight adds n to the weight of a. l.mu is locked.
func (l *connLimiter) addWeight(a *account, n int64) {
	a.weight += n
	l.memory.sum += n
	if a.leaving {
		l.memory.leaving += n
	}
}
