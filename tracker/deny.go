package tracker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ntrack/announce/wire"
)

// A Denial is a list of keys and networks that a tracker refuses. It must not change. The nil Denial
// is an empty list.
type Denial struct {
	keys map[string]struct{}
	nets []netip.Prefix // in order, and none inside another

	numKeys, numNets int // as the list has them
}

// ParseDenial reads a list with an entry on each line: "net CIDR", where CIDR may also be an address,
// or "key KEY". KEY is as [wire.ParseKey] reads it; white space around it does not count. Lines that
// begin with # and empty lines do not count.
//
// A key is also denied by the info_hash that clients of BitTorrent trackers send for it. 40 hex
// digits also deny the info_hash that they are.
//
// The error names the first line that is wrong, what it has, and what is allowed.
func ParseDenial(text string) (*Denial, error) {
	d := &Denial{keys: make(map[string]struct{})}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		what, value := line, ""
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			what, value = line[:i], strings.TrimSpace(line[i:])
		}
		var err error
		switch what {
		case "net":
			d.numNets++
			err = d.addNet(value)
		case "key":
			d.numKeys++
			err = d.addKey(value)
		default:
			err = fmt.Errorf(`%s: a line is "net CIDR", "key KEY", or a comment that begins with #`, wire.Quote(what))
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	slices.SortFunc(d.nets, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	kept := d.nets[:0]
	for _, p := range d.nets {
		if n := len(kept); n == 0 || !kept[n-1].Contains(p.Addr()) {
			kept = append(kept, p)
		}
	}
	d.nets = slices.Clip(kept)
	return d, nil
}

func (d *Denial) addNet(value string) error {
	p, err := netip.ParsePrefix(value)
	if a, errAddr := netip.ParseAddr(value); errAddr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	// A wide network of IPv4-mapped addresses would deny IPv6 only. It is a mistake, so it is refused.
	if err != nil || p.Addr().Is4In6() && p.Bits() < 96 {
		return fmt.Errorf("net %s: a network such as 192.0.2.0/24 or 2001:db8::/32, or an address", wire.Quote(value))
	}
	d.nets = append(d.nets, unmapped(p).Masked())
	return nil
}

func (d *Denial) addKey(value string) error {
	key, err := wire.ParseKey(value)
	if err != nil {
		return err
	}
	hash := key.InfoHash()
	d.keys[string(key.Bytes())] = struct{}{}
	d.keys[string(hash[:])] = struct{}{}
	if len(value) == 2*len(hash) {
		if torrent, err := wire.ParseKey("urn:btih:" + value); err == nil {
			d.keys[string(torrent.Bytes())] = struct{}{}
		}
	}
	return nil
}

// Len returns how many lines of the list have a key and how many have a network.
func (d *Denial) Len() (keys, nets int) {
	if d == nil {
		return 0, 0
	}
	return d.numKeys, d.numNets
}

func (d *Denial) hasKey(key []byte) bool {
	if d == nil {
		return false
	}
	_, found := d.keys[string(key)]
	return found
}

// hasAddr says whether a canonical address is in a denied network.
func (d *Denial) hasAddr(a netip.Addr) bool {
	if d == nil || len(d.nets) == 0 {
		return false
	}
	// The network that has a is the last one that does not begin after a.
	i, found := slices.BinarySearchFunc(d.nets, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return found || i > 0 && d.nets[i-1].Contains(a)
}

// unmapped writes a network of IPv4-mapped IPv6 addresses as the IPv4 network that it is.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// denied refuses a request because of what it has: a "key", or its "network". A client must not ask
// again.
func denied(what string) error {
	return &wire.RefusalError{Status: 404, Reason: "this tracker does not serve this " + what, Never: true}
}

// SetDenial replaces the list of keys and networks that the tracker refuses; nil is an empty list. It
// may be called at any time. It removes the peers and ends the streams of keys that were not denied
// before, and it ends the streams of clients in denied networks. After an error it does so for every
// denied key in the next call. Other peers in these networks cannot renew, so they
// lapse. A client in a denied network may still leave.
func (t *Tracker) SetDenial(ctx context.Context, d *Denial) error {
	t.once.Do(t.init)
	old := t.denial.Swap(d)
	if t.unremoved.Swap(false) {
		old = nil
	}
	if d == nil {
		return nil
	}
	t.endStreamsIf(func(s *Stream) bool { return d.hasAddr(netip.AddrFrom16(s.client).Unmap()) })
	var errs []error
	for key := range d.keys {
		if old.hasKey([]byte(key)) {
			continue // has no peers
		}
		if err := t.table.Remove(ctx, []byte(key)); err != nil {
			errs = append(errs, err)
			t.unremoved.Store(true)
		}
	}
	return errors.Join(errs...)
}

// checkDenial refuses a request of this client that d does not allow. A scrape of denied keys is not
// refused: it leaves them out, as if they did not exist.
func (d *Denial) checkDenial(req *wire.Request, client netip.Addr) error {
	if d == nil {
		return nil
	}
	if req.Verb != wire.VerbLeave && d.hasAddr(client) {
		return denied("network")
	}
	if req.Verb != wire.VerbScrape && d.hasKey(req.Key.Bytes()) {
		return denied("key")
	}
	return nil
}

// deniedSince says whether a key is denied now and was perhaps not when the denial was d.
func (t *Tracker) deniedSince(d *Denial, key []byte) bool {
	now := t.denial.Load()
	return now != d && now.hasKey(key)
}
