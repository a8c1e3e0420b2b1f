package valkey

// How messages arrive. A shard channel belongs to one server of a cluster. So there is one connection of its
// own to each server that has channels of watched tracks, with one goroutine. A Receive of the client for each
// track would take a goroutine and a queue, together about 10 KB, which is 100 MB for 10,000 tracks.
//
// Which server has a partition is found by asking any of them: another one names the right one (MOVED).

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	// probeInterval is how often a message is sent through each connection to this tracker itself. If
	// maxProbes of them in turn do not arrive, the connection is made again.
	probeInterval = 5 * time.Second
	maxProbes     = 2
	// maxSubscribe is how many channels one command subscribes to.
	maxSubscribe = 500
)

// channels are the connections on which messages arrive.
type channels struct {
	store *Store
	name  string // of this tracker, at random

	mu     sync.Mutex
	owners [partitions]string // the server that has a partition, as far as known
	links  map[string]*link   // by server
}

// A link is the connection to one server, and the goroutine that makes it again when it is lost.
type link struct {
	channels *channels
	server   string
	wake     chan struct{} // has a place for one signal

	// channels.mu guards these.
	todo     map[string]*track // by channel: subscribe, or unsubscribe if nil
	leaving  map[string]int    // the channels from which it unsubscribes, and how often
	moved    map[int]bool      // partitions that the server gave away
	received int64             // the last probe that arrived

	// Only the goroutine of the link uses these.
	conn    rueidis.DedicatedClient
	checked map[int]bool // partitions that the server has
	probing int          // the partition in which the channel of probes is, or -1
	sent    int64        // the last probe that was sent
	missed  int          // how many in turn did not arrive
}

func (c *channels) init(s *Store) {
	c.store, c.links, c.name = s, make(map[string]*link), rand.Text()
}

// add subscribes to the channel of a track.
func (c *channels) add(t *track) { c.want(t.part.number, t.keys.channel, t) }

// remove unsubscribes from the channel of a track.
func (c *channels) remove(t *track) { c.want(t.part.number, t.keys.channel, nil) }

func (c *channels) want(partition int, channel string, t *track) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owners[partition] == "" {
		if t == nil {
			return
		}
		c.owners[partition] = c.anyServer()
	}
	c.linkTo(c.owners[partition]).want(channel, t)
}

// anyServer returns a server to ask first.
func (c *channels) anyServer() string {
	for server := range c.links {
		return server
	}
	for server := range c.store.client.Nodes() {
		return server
	}
	return ""
}

// linkTo returns the link to a server, and makes it if there is none. c.mu is locked.
func (c *channels) linkTo(server string) *link {
	l := c.links[server]
	if l == nil {
		l = &link{channels: c, server: server, wake: make(chan struct{}, 1), todo: make(map[string]*track), leaving: make(map[string]int), moved: make(map[int]bool)}
		c.links[server] = l
		c.store.watch.working.Go(l.run)
	}
	return l
}

func (l *link) want(channel string, t *track) {
	l.todo[channel] = t
	l.signal()
}

func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

var (
	errGone   = errors.New("the server is not in use any more")
	errSilent = errors.New("no messages arrive")
)

// run keeps the connection until the store is closed or the server is not in use any more.
func (l *link) run() {
	ctx := l.channels.store.ctx
	wait := minRetry
	for {
		began := time.Now()
		err := l.serve(ctx)
		for _, p := range l.owned() {
			p.unconfirm(err)
		}
		if time.Since(began) > settleTime {
			wait = minRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetry)
		if errors.Is(err, errGone) && l.handOver() {
			return
		}
	}
}

// owned returns the partitions that the server has.
func (l *link) owned() (owned []*partition) {
	l.channels.mu.Lock()
	defer l.channels.mu.Unlock()
	for i, server := range l.channels.owners {
		if server == l.server {
			owned = append(owned, &l.channels.store.watch.parts[i])
		}
	}
	return owned
}

// handOver ends a link whose server is gone, and gives its partitions to another. It returns false if there is
// no other server.
func (l *link) handOver() bool {
	c := l.channels
	c.mu.Lock()
	var next string
	for server := range c.store.client.Nodes() {
		if server != l.server {
			next = server
		}
	}
	if next == "" {
		c.mu.Unlock()
		return false
	}
	delete(c.links, l.server)
	for i, server := range c.owners {
		if server == l.server {
			c.owners[i] = next
		}
	}
	n := c.linkTo(next)
	for channel, t := range l.todo {
		if t != nil {
			n.want(channel, t)
		}
	}
	c.mu.Unlock()
	n.wantAll()
	return true
}

// wantAll subscribes to the channels of all tracks of the partitions of the server.
func (l *link) wantAll() {
	for _, p := range l.owned() {
		p.wantAll(l)
	}
}

func (p *partition) wantAll(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.channels.mu.Lock()
	defer l.channels.mu.Unlock()
	if l.channels.owners[p.number] != l.server {
		return
	}
	for _, t := range p.tracks {
		l.want(t.keys.channel, t)
	}
}

// serve connects, and subscribes to what is wanted until the connection is lost.
func (l *link) serve(ctx context.Context) error {
	node := l.channels.store.client.Nodes()[l.server]
	if node == nil {
		return errGone
	}
	l.conn, _ = node.Dedicate()
	defer l.conn.Close()
	lost := l.conn.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: l.message, OnSubscription: l.subscription})
	l.checked, l.probing, l.missed, l.sent = make(map[int]bool), -1, 0, 0
	l.channels.mu.Lock()
	clear(l.leaving)
	clear(l.moved)
	l.channels.mu.Unlock()
	l.wantAll()
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	for {
		if err := l.subscribe(ctx); err != nil {
			return err
		}
		select {
		case <-l.wake:
		case err := <-lost:
			if err == nil {
				err = rueidis.ErrClosing
			}
			return err
		case <-probe.C:
			if err := l.sendProbe(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// subscribe subscribes to what is wanted, and unsubscribes from what is not.
func (l *link) subscribe(ctx context.Context) error {
	c := l.channels
	c.mu.Lock()
	todo := l.todo
	l.todo = make(map[string]*track)
	moved := l.moved
	l.moved = make(map[int]bool)
	c.mu.Unlock()
	byPartition := make(map[int][]*track)
	drop := make(map[int][]string)
	for channel, t := range todo {
		if p := c.partitionOf(channel); t != nil {
			byPartition[p] = append(byPartition[p], t)
		} else if l.checked[p] {
			drop[p] = append(drop[p], channel)
		}
	}
	for p := range moved {
		delete(l.checked, p)
		if l.probing == p {
			l.probing = -1
		}
		part := &c.store.watch.parts[p]
		part.unconfirm(nil)
		byPartition[p] = part.all()
	}
	for p, tracks := range byPartition {
		if err := l.subscribeIn(ctx, p, tracks); err != nil {
			return err
		}
	}
	for p, names := range drop {
		c.mu.Lock()
		for _, name := range names {
			l.leaving[name]++
		}
		c.mu.Unlock()
		for some := range slices.Chunk(names, maxSubscribe) {
			if err := l.do(ctx, l.conn.B().Sunsubscribe().Channel(some...).Build()); err != nil {
				if _, answered := rueidis.IsRedisErr(err); !answered {
					return err
				}
				delete(l.checked, p)
			}
		}
	}
	if l.probing < 0 {
		return l.subscribeProbe(ctx)
	}
	return nil
}

func (l *link) do(ctx context.Context, command rueidis.Completed) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.conn.Do(ctx, command).Error()
}

// subscribeIn subscribes to the channels of tracks of one partition. If another server has it, that one does.
func (l *link) subscribeIn(ctx context.Context, p int, tracks []*track) error {
	c := l.channels
	if !l.checked[p] {
		// A replica would accept the subscription, but not this.
		err := l.do(ctx, l.conn.B().Get().Key(c.store.epochKey(p)).Build())
		if answer, ok := rueidis.IsRedisErr(err); ok && !answer.IsNil() {
			if server, moved := answer.IsMoved(); moved {
				c.move(p, server)
				return nil
			}
			if _, ask := answer.IsAsk(); !ask {
				return err
			}
		} else if err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
		l.checked[p] = true
	}
	for some := range slices.Chunk(tracks, maxSubscribe) {
		names := make([]string, len(some))
		for i, t := range some {
			names[i] = t.keys.channel
		}
		if err := l.do(ctx, l.conn.B().Ssubscribe().Channel(names...).Build()); err != nil {
			if answer, ok := rueidis.IsRedisErr(err); ok {
				if server, moved := answer.IsMoved(); moved {
					delete(l.checked, p)
					c.move(p, server)
					return nil
				}
			}
			return err
		}
		c.store.watch.parts[p].confirm(some)
	}
	return nil
}

// move gives a partition to the link of another server.
func (c *channels) move(p int, server string) {
	c.mu.Lock()
	c.owners[p] = server
	l := c.linkTo(server)
	c.mu.Unlock()
	c.store.watch.parts[p].wantAll(l)
}

// subscribeProbe subscribes to the channel of probes in some partition that the server has.
func (l *link) subscribeProbe(ctx context.Context) error {
	for p := range l.checked {
		if err := l.do(ctx, l.conn.B().Ssubscribe().Channel(l.channels.probeChannel(p)).Build()); err != nil {
			return err
		}
		l.probing = p
		l.channels.mu.Lock()
		l.received = l.sent
		l.channels.mu.Unlock()
		return nil
	}
	return nil
}

func (c *channels) probeChannel(p int) string {
	return c.store.prefix + ":c{" + strconv.Itoa(p) + "}?" + c.name
}

// sendProbe checks whether the last probe has arrived, and sends the next.
func (l *link) sendProbe(ctx context.Context) error {
	if l.probing < 0 {
		return nil
	}
	l.channels.mu.Lock()
	arrived := l.received >= l.sent
	l.channels.mu.Unlock()
	if arrived {
		l.missed = 0
	} else if l.missed++; l.missed >= maxProbes {
		return errSilent
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client := l.channels.store.client
	if client.Do(ctx, client.B().Spublish().Channel(l.channels.probeChannel(l.probing)).Message(strconv.FormatInt(l.sent+1, 10)).Build().ToRetryable()).Error() == nil {
		l.sent++
	}
	return nil
}

// partitionOf returns the partition of a channel.
func (c *channels) partitionOf(channel string) int {
	_, rest, _ := strings.Cut(channel[len(c.store.prefix):], "{")
	number, _, _ := strings.Cut(rest, "}")
	p, _ := strconv.Atoi(number)
	return p % partitions
}
