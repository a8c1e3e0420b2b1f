package server

import (
	"net/netip"
	"time"

	"ntrack/tracker/rate"
)

// A connRate limits how many connections one address may open in a second. The address is that of
// the connection, never the one that a proxy reports.
type connRate struct {
	limit  rate.Limit
	opened rate.Limiter
}

// unitsOfTLS is how many connections one over TLS counts as, because of its handshake.
const unitsOfTLS = 10

func (r *connRate) init() {
	r.limit = rate.Limit{PerSecond: 1000, Burst: 10_000}
	r.opened.Bytes = 1 << 20
}

// opensTooFast counts a new connection, and says whether its address has opened too many. The weight
// says whether it is over TLS. The Tracker's Exempt and Proxies and Unix sockets have no limit.
func (s *Server) opensTooFast(a netip.Addr, weight int64) bool {
	if s.Tracker.Exempts(a) || s.Tracker.Trusts(a) {
		return false
	}
	r, units := &s.limiter.rate, 1
	if weight == weightTLS {
		units = unitsOfTLS
	}
	_, ok := r.opened.Allow(a, r.limit, units, time.Since(s.limiter.start))
	return !ok
}
