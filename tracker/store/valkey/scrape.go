package valkey

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/redis/rueidis"

	"ntrack/announce/wire"
)

const (
	scrapeKeys = 100 // how many keys one pipeline counts, with up to 8 commands each
	scanStep   = 1000
)

// Scrape implements [store.Store]. Without keys it looks at every key of every master, which takes some
// seconds for each 10 million keys.
func (s *Store) Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error) {
	first := setOf(asker) &^ 1
	if len(keys) == 0 {
		return s.scan(ctx, first, dst)
	}
	start, now := len(dst), fmt.Sprintf("(%d", s.clock.second())
	var commands []rueidis.Completed
	for len(keys) > 0 {
		n := min(len(keys), scrapeKeys)
		commands = commands[:0]
		for _, k := range keys[:n] {
			for _, set := range s.keysOf(k.Bytes()).sets[first:] {
				commands = append(commands, s.client.B().Zcount().Key(set).Min(now).Max("+inf").Build())
			}
		}
		r, err := s.do(ctx, commands...)
		if err != nil {
			return dst[:start], err
		}
		for i, k := range keys[:n] {
			t := wire.Track{Key: k}
			for j := range sets - first {
				c, _ := r[i*(sets-first)+j].AsInt64()
				t.Count += int(c)
			}
			dst = append(dst, t)
		}
		keys = keys[n:]
	}
	return dst, nil
}

// scan appends every track of which sets from first on have listed peers.
func (s *Store) scan(ctx context.Context, first int, dst []wire.Track) ([]wire.Track, error) {
	start := len(dst)
	masters, err := s.masters(ctx)
	if err != nil {
		return dst, err
	}
	sc := scanner{store: s, first: first, now: fmt.Sprintf("(%d", s.clock.second()), found: make(map[string]*scanned)}
	for _, m := range masters {
		if err := sc.scan(ctx, m); err != nil {
			return dst[:start], err
		}
	}
	for key, t := range sc.found {
		if t.count > 0 {
			dst = append(dst, wire.Track{Key: wire.KeyOf([]byte(key)), Count: t.count})
		}
	}
	return dst, nil
}

// A scanner counts the peers of all tracks. SCAN may return a key twice.
type scanner struct {
	store *Store
	first int
	now   string
	found map[string]*scanned // by the key of the track
}

type scanned struct {
	count int
	sets  uint8 // a bit for each set that was counted
}

func (sc *scanner) scan(ctx context.Context, master rueidis.Client) error {
	pattern := sc.store.prefix + ":{*}[a-dA-D] *"
	for cursor := uint64(0); ; {
		r, err := sc.store.doOn(ctx, master, master.B().Scan().Cursor(cursor).Match(pattern).Count(scanStep).Build())
		if err != nil {
			return err
		}
		entry, err := r[0].AsScanEntry()
		if err != nil {
			return unavailable(err)
		}
		for elements := entry.Elements; len(elements) > 0; {
			n := min(len(elements), scanStep)
			if err := sc.count(ctx, elements[:n]); err != nil {
				return err
			}
			elements = elements[n:]
		}
		if cursor = entry.Cursor; cursor == 0 {
			return nil
		}
	}
}

// count counts the peers of some sets.
func (sc *scanner) count(ctx context.Context, names []string) error {
	var commands []rueidis.Completed
	var tracks []*scanned
	for _, name := range names {
		key, set, ok := sc.store.parseSet(name)
		if !ok || set < sc.first {
			continue
		}
		t := sc.found[key]
		if t == nil {
			t = new(scanned)
			sc.found[key] = t
		}
		if t.sets>>set&1 == 1 {
			continue
		}
		t.sets |= 1 << set
		tracks = append(tracks, t)
		commands = append(commands, sc.store.client.B().Zcount().Key(name).Min(sc.now).Max("+inf").Build())
	}
	if len(commands) == 0 {
		return nil
	}
	r, err := sc.store.do(ctx, commands...)
	if err != nil {
		return err
	}
	for i, t := range tracks {
		n, _ := r[i].AsInt64()
		t.count += int(n)
	}
	return nil
}

// parseSet returns the key of the track and the index of the set with this name.
func (s *Store) parseSet(name string) (key string, set int, ok bool) {
	rest, ok := strings.CutPrefix(name, s.prefix+":{")
	if !ok {
		return "", 0, false
	}
	_, rest, ok = strings.Cut(rest, "}")
	if !ok || len(rest) < 3 || rest[1] != ' ' {
		return "", 0, false
	}
	switch b := rest[0]; {
	case b >= 'a' && b < 'a'+wire.NumScopes:
		return rest[2:], 2 * int(b-'a'), true
	case b >= 'A' && b < 'A'+wire.NumScopes:
		return rest[2:], 2*int(b-'A') + 1, true
	}
	return "", 0, false
}
