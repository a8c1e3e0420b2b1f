package announce

import (
	"context"
	"net/netip"
)

// DialBoth makes Dial be asked for each family, as the system's dialler is.
func DialBoth(c *Client) *Client {
	c.dialsBoth = true
	return c
}

// WithLookup makes a client resolve names by lookup.
func WithLookup(c *Client, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) *Client {
	c.lookup = lookup
	return c
}
