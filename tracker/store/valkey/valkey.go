// Package valkey is a store in Valkey or Redis. All trackers that open the same database with the
// same prefix share one table: they answer as if they were one tracker.
//
// The database is Valkey 7.2 or later, or Redis 7.0 or later: a single server, a server with
// sentinels, or a cluster.
//
// A Store is less exact than the memory of one process:
//
//   - It forgets peer IDs, and estimates [store.Size.Total].
//   - [Config.MaxPerAddr] counts the peers that came to this tracker. A peer that [Store.Remove] has
//     removed counts until it would have lapsed.
//   - A hold ends a moment after [store.Subscription.Close], and up to 11 seconds later if streams of two
//     trackers held the peer. If a tracker dies, the peers that it held lapse with their leases, even if
//     one of them has announced for longer.
//   - Leave and Remove end the subscriptions at other trackers a moment later. That may also end a
//     subscription that began meanwhile, if it only looks or an earlier one holds the same peer.
//   - A ttl is at most 4 hours, and counts in whole seconds, rounded up.
//   - All times are those of the database. If its clock jumps, see clock.go.
package valkey

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

// DefaultPrefix is the prefix of all keys and channels in the database, unless Config names another.
const DefaultPrefix = "ntrk"

// Times of a store.
const (
	// DefaultLease is how long a peer stays listed after its stream or its tracker is gone without a
	// word. A client notices within 35 seconds that its tracker is gone.
	DefaultLease = 45 * time.Second
	// callTimeout is the longest wait for a reply of the database.
	callTimeout = 2 * time.Second
	// topologyInterval is how often the client asks sentinels or a cluster who is the master. A master
	// that was replaced and stays connected delivers no messages, though everything else works.
	topologyInterval = 5 * time.Second
)

// A Config says where the table is.
type Config struct {
	// URL names the servers, as rueidis.ParseURL reads it.
	URL string
	// Prefix keeps two deployments in one database apart. "" is DefaultPrefix.
	Prefix string
	// MaxPerAddr limits the peers of one IPv4 address or IPv6 /64 that announce to this tracker; see
	// [store.Limits]. 0 is no limit.
	MaxPerAddr int
	// Lease is how long a peer that a stream holds stays listed after its tracker is gone. 0 is
	// DefaultLease.
	Lease time.Duration
	// Log gets a line for the operator, such as a warning about a setting of the database. It may be
	// nil.
	Log func(line string)

	adjust func(*rueidis.ClientOption) // for tests
}

// A Store has its peers in a database. Any number of goroutines may use it.
type Store struct {
	client rueidis.Client
	url    string
	prefix string
	lease  time.Duration
	log    func(string)
	clock  clock
	hints  *hints
	total  *total
	addrs  *addrs // nil without Config.MaxPerAddr
	calls  calls

	watched atomic.Int64 // the tracks that subscriptions watch
	watch   watching

	ctx        context.Context // ends with Close
	stop       context.CancelFunc
	background sync.WaitGroup // of goroutines that end with ctx
}

// Open connects to the database, and checks that it can be used. The error names the server and what to
// do. It never contains a password.
func Open(ctx context.Context, c Config) (*Store, error) {
	c.Prefix = cmp.Or(c.Prefix, DefaultPrefix)
	if err := cmp.Or(CheckURL(c.URL), CheckPrefix(c.Prefix)); err != nil {
		return nil, err
	}
	opt, err := options(c)
	if err != nil {
		return nil, err
	}
	client, err := connect(opt)
	if err != nil {
		return nil, explain(c, err)
	}
	s := &Store{
		client: client, url: c.URL, prefix: c.Prefix, lease: cmp.Or(c.Lease, DefaultLease), log: func(string) {},
		hints: newHints(), total: newTotal(),
	}
	s.calls.start = time.Now()
	s.addrs = newAddrs(c.MaxPerAddr, &s.clock)
	if c.Log != nil {
		s.log = func(text string) { c.Log(Shown(c.URL) + ": " + text) }
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.watch.init(s)
	err = s.synchronize(ctx)
	if err == nil {
		err = s.check(ctx)
	}
	if err == nil {
		err = s.exchangeTotal(ctx)
		if full := new(store.FullError); errors.As(err, &full) {
			err = nil // check has warned
		}
	}
	if err != nil {
		s.stop()
		client.Close()
		return nil, explain(c, err)
	}
	s.background.Go(s.keepTime)
	s.background.Go(s.keepTotal)
	return s, nil
}

// Close gives up the peers that subscriptions hold, and disconnects from the database. Peers that have
// announced stay listed until they lapse.
func (s *Store) Close() {
	s.stop()
	s.watch.close()
	s.background.Wait()
	s.endTotal(context.Background())
	s.client.Close()
}

// NeverBlocks returns false: every call waits for the database.
func (s *Store) NeverBlocks() bool { return false }
