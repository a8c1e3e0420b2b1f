package tracker

import (
	"context"
	"net/netip"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Look appends to dst a random sample of the peers of a key that an asker at this address may see: at
// most want of them, and at most MaxWant. count is how many there are. A key that is denied has no
// peers. The error is a [*wire.RefusalError] if the asker is in a denied network, or that of the store.
//
// Look is for a server of another protocol, such as package dns. It counts neither in Stats nor towards
// the limits by address, and it asks for no token.
func (t *Tracker) Look(ctx context.Context, key []byte, asker netip.Addr, want int, dst []wire.Peer) (peers []wire.Peer, count int, err error) {
	t.once.Do(t.init)
	asker = asker.Unmap().WithZone("")
	denial := t.denial.Load()
	switch {
	case denial.hasAddr(asker):
		return dst, 0, denied("network")
	case denial.hasKey(key):
		return dst, 0, nil
	}
	peers, res, err := t.store.Look(ctx, key, asker, store.Want{Peers: t.wantedPeers(&wire.Request{Want: want})}, dst)
	return peers, res.Count, err
}
