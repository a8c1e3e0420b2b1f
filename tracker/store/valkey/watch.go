package valkey

import (
	"context"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Subscribe implements [store.Store].
func (s *Store) Subscribe(_ context.Context, _ []byte, _ wire.Peer, _ func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	return dst, store.Size{}, nil, &store.FullError{What: "streams", Stream: true}
}
