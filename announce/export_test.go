package announce

import (
	"context"
	"net/netip"
)

// DialBoth makes a client call Dial for each address family, as it connects without Dial.
func DialBoth(c *Client) *Client {
	c.dialsBoth = true
	return c
}

// WithLookup makes a client resolve names with lookup.
func WithLookup(c *Client, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) *Client {
	c.lookup = lookup
	return c
}
