package announce

import (
	"context"
	"net/netip"
)

// DialBoth lets a client call Dial for each family, as it calls the system's dialler.
func DialBoth(c *Client) *Client {
	c.dialsBoth = true
	return c
}

// WithLookup lets a client resolve names with lookup.
func WithLookup(c *Client, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) *Client {
	c.lookup = lookup
	return c
}
