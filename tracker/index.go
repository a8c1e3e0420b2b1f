package tracker

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// errLargeIndex refuses an index that would take too much memory.
var errLargeIndex = errors.New("the index is too large for the memory of this tracker: ask for a key")

// sizeOfTrack is what a track takes in the index, besides its key. In bencode it is nearly that much.
// Other formats are shorter, but need as much memory until they are written.
const sizeOfTrack = 64

// listTracks replies to a scrape, or to a request for the index, which is a scrape of all keys.
func (t *Tracker) listTracks(ctx context.Context, asker netip.Addr, format wire.Format, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	if len(s.req.Keys) == 0 && !t.Index {
		return nil, &wire.RefusalError{Status: 404, Reason: "this tracker does not publish its index: ask for a key"}
	}
	denial, tracks, err := t.denial.Load(), s.tracks[:0], error(nil)
	all := len(s.req.Keys) == 0
	s.req.Keys = slices.DeleteFunc(s.req.Keys, func(k wire.Key) bool { return denial.hasKey(k.Bytes()) })
	if all {
		leave, err := t.enterIndex(ctx)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	if all || len(s.req.Keys) > 0 {
		if tracks, err = t.store.Scrape(ctx, s.req.Keys, asker, tracks); err != nil {
			return nil, err
		}
	}
	if all {
		tracks = slices.DeleteFunc(tracks, func(tr wire.Track) bool { return denial.hasKey(tr.Key.Bytes()) })
		size := sizeOfIndex(format, tracks)
		if t.MaxIndex > 0 && size > t.MaxIndex {
			return nil, errLargeIndex
		}
		dst = slices.Grow(dst, int(size)) // else it would grow in steps, and take twice as much
	}
	s.tracks = tracks[:0]
	resp.Type = contentType(&s.req, format)
	dst = wire.AppendTracks(dst, format, tracks)
	clear(tracks) // so that the pool does not keep the store's keys in memory
	return dst, nil
}

// enterIndex waits until no other index is being made. It returns an error at once if there are too many
// keys. The caller must call leave.
func (t *Tracker) enterIndex(ctx context.Context) (leave func(), err error) {
	if s, ok := t.table.(interface{ Stats() store.Stats }); ok && t.MaxIndex > 0 && int64(s.Stats().Keys) > t.MaxIndex/sizeOfTrack {
		return nil, errLargeIndex
	}
	select {
	case t.indexing <- struct{}{}:
		return func() { <-t.indexing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// sizeOfIndex returns the most bytes that the index of these tracks has, as MaxIndex counts them.
func sizeOfIndex(format wire.Format, tracks []wire.Track) int64 {
	n := int64(len(tracks)) * sizeOfTrack
	for _, tr := range tracks {
		n += int64(len(tr.Key.Bytes()))
		for _, c := range tr.Key.Bytes() {
			switch {
			case format == wire.FormatBencode, c-'0' <= 9, c|0x20-'a' <= 25:
			case c < 0x20, c == 0x7f: // in JSON it takes six bytes
				n += 5
			default: // it may take three
				n += 2
			}
		}
	}
	return n
}
