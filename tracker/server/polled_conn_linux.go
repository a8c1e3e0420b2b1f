package server

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// A polledConn is a connection of a worker. Most connections wait, so it should be small.
type polledConn struct {
	queueEntry
	account
	remote  netip.AddrPort
	fd      int32
	drained bool   // there is nothing more to read until the next event
	parked  bool   // a goroutine serves its requests; see worker.park
	polled  bool   // the worker gets its events
	stalls  uint8  // how often it was seen that the client has read nothing; see worker.checkUnread
	unread  uint32 // bytes that were sent and may not have been received, according to the last look
	via     via
	why     stopReason    // why the batch of the unsent replies ended, which decides what happens next
	held    *heldBytes    // nil if there are none
	stream  *polledStream // nil unless the last reply is an event stream
}

// heldBytes are what a connection keeps until the worker serves it again.
type heldBytes struct {
	in     []byte // was read, and belongs to requests not yet served
	unsent []byte // replies or events that the client has not read
}

func (c *polledConn) in() []byte {
	if c.held == nil {
		return nil
	}
	return c.held.in
}

func (c *polledConn) unsent() []byte {
	if c.held == nil {
		return nil
	}
	return c.held.unsent
}

// hold keeps a copy of in, and unsent itself.
func (c *polledConn) hold(in, unsent []byte) {
	if c.held == nil {
		c.held = new(heldBytes)
	}
	c.held.in, c.held.unsent = append(c.held.in[:0], in...), unsent
}

// stopWaiting closes the connection for reading, which causes an event. Then the worker serves a
// request that has already arrived, and closes the connection.
func (c *polledConn) stopWaiting() { _ = unix.Shutdown(int(c.fd), unix.SHUT_RD) }

func (c *polledConn) accountOf() *account { return &c.account }
