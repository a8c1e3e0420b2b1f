package announce

// DialBoth makes Dial be asked for each family, as the system's dialler is.
func DialBoth(c *Client) *Client {
	c.dialsBoth = true
	return c
}
