// Package valkey is a store in Valkey or Redis. All trackers that open the same database with the
// same prefix share one table: they answer as if they were one tracker.
//
// The database is Valkey 7.2 or later, or Redis 7.0 or later: a single server, a server with
// sentinels, or a cluster.
package valkey

import (
	"context"
	"fmt"
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
	prefix string
	lease  time.Duration
	log    func(string)
	clock  clock

	ctx  context.Context // ends with Close
	stop context.CancelFunc
}

// Open connects to the database, and checks that it can be used. The error names the server and what to
// do. It never contains a password.
func Open(ctx context.Context, c Config) (*Store, error) {
	opt, err := options(c)
	if err != nil {
		return nil, err
	}
	client, err := rueidis.NewClient(opt)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	s := &Store{client: client, prefix: c.Prefix, lease: c.Lease, log: c.Log}
	if s.prefix == "" {
		s.prefix = DefaultPrefix
	}
	if s.lease == 0 {
		s.lease = DefaultLease
	}
	if s.log == nil {
		s.log = func(string) {}
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.synchronize(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// options returns the options of the client.
func options(c Config) (rueidis.ClientOption, error) {
	opt, err := rueidis.ParseURL(c.URL)
	if err != nil {
		return opt, err
	}
	opt.DisableCache = true
	if opt.ConnWriteTimeout == 0 {
		opt.ConnWriteTimeout = callTimeout
	}
	opt.Sentinel.TopologyRefreshInterval = topologyInterval
	opt.ClusterOption.ShardsRefreshInterval = topologyInterval
	if c.adjust != nil {
		c.adjust(&opt)
	}
	return opt, nil
}

// Close gives up the peers that subscriptions hold, and disconnects from the database. Peers that have
// announced stay listed until they lapse.
func (s *Store) Close() {
	s.stop()
	s.client.Close()
}

// NeverBlocks returns false: every call waits for the database.
func (s *Store) NeverBlocks() bool { return false }

// do sends the commands in one round trip, and returns the error of the connection or of the first
// command that failed. All commands may be sent again: each of them does nothing the second time.
func (s *Store) do(ctx context.Context, commands ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	for i := range commands {
		commands[i] = commands[i].ToRetryable()
	}
	results := s.client.DoMulti(ctx, commands...)
	for _, r := range results {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, unavailable(err)
		}
	}
	return results, nil
}

// unavailable wraps an error of the database so that a tracker refuses the request for now.
func unavailable(err error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, err) }
