package tracker

import "net/netip"

// Exempts says whether a has no limits by address: whether it is in one of Exempt. An address that
// is not valid, as at a Unix socket, has none either.
func (t *Tracker) Exempts(a netip.Addr) bool {
	t.once.Do(t.init)
	return !a.IsValid() || t.isExempt(a.Unmap().WithZone(""))
}

// isExempt is Exempts for a valid and canonical address.
func (t *Tracker) isExempt(a netip.Addr) bool {
	if t.Exempt == nil {
		return a.IsLoopback()
	}
	for _, p := range t.exempt {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
