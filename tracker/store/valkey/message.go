package valkey

// What arrives on the channels. A message names peers that have to be read again. No message is lost
// between the beginning of a subscription to a channel and its end.

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// message is called for each message, one after another. It must not wait.
func (l *link) message(m rueidis.PubSubMessage) {
	c := l.channels
	if !strings.HasPrefix(m.Channel, c.store.prefix+":c{") {
		return
	}
	p := c.partitionOf(m.Channel)
	_, rest, _ := strings.Cut(m.Channel[len(c.store.prefix):], "}")
	if key, ok := strings.CutPrefix(rest, " "); ok {
		c.store.watch.parts[p].message(key, m.Message)
		return
	}
	n, _ := strconv.ParseInt(m.Message, 10, 64)
	c.mu.Lock()
	l.received = max(l.received, n)
	c.mu.Unlock()
}

// subscription is called when the server confirms a subscription or its end. It ends by itself if the server
// gives its slot away.
func (l *link) subscription(s rueidis.PubSubSubscription) {
	if s.Kind != "sunsubscribe" {
		return
	}
	c := l.channels
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.leaving[s.Channel] > 0 {
		if l.leaving[s.Channel]--; l.leaving[s.Channel] == 0 {
			delete(l.leaving, s.Channel)
		}
		return
	}
	if strings.HasPrefix(s.Channel, c.store.prefix+":c{") {
		l.moved[c.partitionOf(s.Channel)] = true
		l.signal()
	}
}

// confirm records that the messages of tracks arrive from now on.
func (p *partition) confirm(tracks []*track) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range tracks {
		if p.tracks[t.key] == t {
			t.confirmed = true
			t.readAll = t.readAll || len(t.subs) > 0
			p.markDirty(t)
		}
	}
}

// unconfirm records that messages may be lost until confirm.
func (p *partition) unconfirm(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tracks) == 0 {
		return
	}
	now := time.Now()
	p.uncertainUntil, p.renewAt, p.tickAt = now.Add(settleTime), now, now
	if err != nil {
		p.lastError = err
	}
	for _, t := range p.tracks {
		t.confirmed = false
	}
}

// all returns all tracks of a partition.
func (p *partition) all() (tracks []*track) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tracks {
		tracks = append(tracks, t)
	}
	return tracks
}

// message notes which peers of a track have to be read again.
func (p *partition) message(key, text string) {
	var notify []func()
	p.mu.Lock()
	if t := p.tracks[key]; t != nil && text != "" {
		t.count.seen++
		switch kind, members := text[0], text[1:]; kind {
		case kindRemoved:
			// This tracker's own message may come after new subscriptions. Remove has ended the others.
			if members != p.store.watch.channels.name {
				notify = t.endRemoved()
			}
			t.readAll = true
			p.markDirty(t)
		case kindHeld:
			if serial, members, ok := p.store.cutHeldHead(members); ok {
				t.touchAll(kind, serial, members)
			}
		default:
			t.touchAll(kind, 0, members)
		}
	}
	p.mu.Unlock()
	call(notify)
}

// heldHead returns what comes before the members in a message of kindHeld: the tracker that sent it, and the
// round in which it wrote the leases.
func (s *Store) heldHead(serial uint64) string {
	return string(binary.BigEndian.AppendUint64(append([]byte{kindHeld}, s.watch.channels.name...), serial))
}

// cutHeldHead returns the members of a message of kindHeld, and the round that sent it. The serial of another
// tracker is 0.
func (s *Store) cutHeldHead(text string) (serial uint64, members string, ok bool) {
	name := s.watch.channels.name
	n := len(name) + 8
	if len(text) < n {
		return 0, "", false
	}
	if strings.HasPrefix(text, name) {
		serial = binary.BigEndian.Uint64([]byte(text[len(name):n]))
	}
	return serial, text[n:], true
}

// touchAll notes the peers that a message names. If all are of one family, their bytes follow each other.
func (t *track) touchAll(kind byte, serial uint64, members string) {
	now := time.Now()
	at := now.Add(batchTime)
	if t.notBefore.After(at) {
		at = t.notBefore
	}
	for _, size := range []int{6, 18} {
		if len(members)%size != 0 {
			continue
		}
		for i := 0; i < len(members); i += size {
			e, _ := endpointOf(members[i : i+size])
			t.touch(e, kind, at)
			switch h := t.holds[e]; {
			case h == nil:
			case kind == kindLeft:
				// A Leave that is older than the hold does not end it, but may have removed the peer.
				h.left = h.left || h.isReported(now)
				t.touch(e, kind, now)
				if !h.left && h.lease != 0 {
					t.lack(e)
				}
			case kind == kindHeld && serial != 0:
				h.reported = h.reported || h.serial != 0 && serial >= h.serial
			case h.lease != 0:
				t.lack(e) // another tracker may have removed the peer, whose stream is now here
			}
		}
	}
}
