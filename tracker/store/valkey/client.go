package valkey

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

const (
	// connBuffer is the size of each of the two buffers of a connection. A reply with 1,000 members takes
	// 25 KB at most, and rueidis reads larger ones in parts.
	connBuffer = 32 << 10
	// retryDelay is the least wait before a call is sent again. It grows up to maxRetryDelay.
	retryDelay    = 5 * time.Millisecond
	maxRetryDelay = 250 * time.Millisecond
	// connections is how many connections to a master share the calls, as a power of 2. With more, each
	// write to a socket has fewer commands.
	connections = 1
	// flushDelay is how long a connection waits for more commands after it has written some. It saves a
	// fifth of the CPU time of a busy tracker.
	flushDelay = 100 * time.Microsecond
	// maxRedirects is how often a node of a cluster may send a call to another node.
	maxRedirects = 16
)

// options returns the options of the client.
func options(c Config) (rueidis.ClientOption, error) {
	if err := CheckURL(c.URL); err != nil {
		return rueidis.ClientOption{}, err
	}
	opt, err := rueidis.ParseURL(c.URL)
	if err != nil {
		return opt, errors.New("this is no URL of a database") // the text of err may have the password
	}
	opt.DisableCache = true
	if opt.ConnWriteTimeout == 0 {
		opt.ConnWriteTimeout = callTimeout
	}
	if opt.Dialer.Timeout == 0 {
		opt.Dialer.Timeout = callTimeout
	}
	opt.ReadBufferEachConn, opt.WriteBufferEachConn = connBuffer, connBuffer
	opt.PipelineMultiplex, opt.MaxFlushDelay = connections, flushDelay
	opt.ClientName = "ntrack"
	opt.RetryDelay = func(attempts int, _ rueidis.Completed, _ error) time.Duration {
		return min(retryDelay<<min(attempts, 10), maxRetryDelay)
	}
	opt.Sentinel.TLSConfig, opt.Sentinel.Dialer = opt.TLSConfig, opt.Dialer
	opt.Sentinel.TopologyRefreshInterval = topologyInterval
	opt.ClusterOption.ShardsRefreshInterval = topologyInterval
	opt.ClusterOption.MaxMovedRedirections = maxRedirects
	if c.adjust != nil {
		c.adjust(&opt)
	}
	return opt, nil
}

// connect connects to the database. Sentinels often let everyone in, and then do not know the user of the
// server that they watch. If they want a user, it is the same one.
func connect(opt rueidis.ClientOption) (rueidis.Client, error) {
	client, err := rueidis.NewClient(opt)
	if opt.Sentinel.MasterSet == "" || opt.Password == "" {
		return client, err
	}
	if e, ok := rueidis.IsRedisErr(err); !ok || !strings.HasPrefix(e.Error(), "NOAUTH") {
		return client, err
	}
	opt.Sentinel.Username, opt.Sentinel.Password = opt.Username, opt.Password
	return rueidis.NewClient(opt)
}

// do sends the commands in one round trip, and returns the error of the connection or of the first
// command that failed. All commands may be sent again: each of them does no harm the second time. do
// returns when ctx ends, and after callTimeout.
func (s *Store) do(ctx context.Context, commands ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	return s.doOn(ctx, s.client, commands...)
}

// doOn is do for one node.
func (s *Store) doOn(ctx context.Context, client rueidis.Client, commands ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	for i := range commands {
		commands[i] = commands[i].ToRetryable()
	}
	began := time.Now()
	if d, ok := ctx.Deadline(); !ok || d.Sub(began) > callTimeout {
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		ctx = bounded
	}
	s.calls.inFlight.Add(1)
	results := client.DoMulti(ctx, commands...)
	s.calls.inFlight.Add(-1)
	for i := range results {
		if err := results[i].Error(); err != nil && !rueidis.IsRedisNil(err) {
			err = classify(err)
			s.calls.failed(err)
			return nil, err
		}
	}
	s.calls.succeeded(began)
	return results, nil
}

// classify makes an error of the database one that a tracker knows.
func classify(err error) error {
	if e, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(e.Error(), "OOM ") {
		return &store.FullError{What: store.FullMemory}
	}
	return unavailable(err)
}

// unavailable wraps an error of the database so that a tracker refuses the request for now.
func unavailable(err error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, err) }

// masters returns a client for each master of the database.
func (s *Store) masters(ctx context.Context) (map[string]rueidis.Client, error) {
	nodes := s.client.Nodes()
	if s.client.Mode() != rueidis.ClientModeCluster {
		return nodes, nil
	}
	for addr, node := range nodes {
		r, err := s.doOn(ctx, node, node.B().Role().Build())
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			delete(nodes, addr) // a replica that is away; a master makes a later call fail
			continue
		}
		if role, err := r[0].ToArray(); err != nil || len(role) == 0 || textOf(&role[0]) != "master" {
			delete(nodes, addr)
		}
	}
	if len(nodes) == 0 {
		return nil, unavailable(errors.New("no master answers"))
	}
	return nodes, nil
}

func textOf(m *rueidis.RedisMessage) string {
	s, _ := m.ToString()
	return s
}

// roundTripBounds are the upper bounds of the counts in Stats.RoundTrips. The last count has no bound.
var roundTripBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
}

// calls counts the calls of a database.
type calls struct {
	inFlight          atomic.Int64
	unavailable, full atomic.Int64
	nanos             atomic.Int64
	trips             [len(roundTripBounds) + 1]atomic.Int64
	lastOK            atomic.Int64 // in nanoseconds since start
	start             time.Time
}

func (c *calls) failed(err error) {
	if errors.Is(err, store.ErrUnavailable) {
		c.unavailable.Add(1)
		return
	}
	c.full.Add(1)
	c.lastOK.Store(int64(time.Since(c.start)))
}

func (c *calls) succeeded(began time.Time) {
	now := time.Now()
	took := now.Sub(began)
	i := 0
	for i < len(roundTripBounds) && took > roundTripBounds[i] {
		i++
	}
	c.trips[i].Add(1)
	c.nanos.Add(int64(took))
	c.lastOK.Store(int64(now.Sub(c.start)))
}

// Stats are the numbers of a Store, since it was opened.
type Stats struct {
	// A call is one pipeline. Unavailable and Full are the calls that the database did not answer, or
	// refused because it is full.
	Unavailable, Full int64
	// RoundTrips counts the calls that were answered, by how long that took. The count with index i has
	// those of at most RoundTripBounds()[i], without those of the counts before. The last one has all others.
	RoundTrips []int64
	// RoundTripTime is the sum for all answered calls.
	RoundTripTime time.Duration
	InFlight      int           // the calls that wait for the database now
	SinceAnswer   time.Duration // the time since the last answer. The Store asks at least every 3 seconds
	Peers         int           // an estimate of the peers of all trackers
	Trackers      int           // how many trackers share the table
	Held          int           // the peers that streams of this tracker hold
	Watched       int           // the tracks that streams of this tracker watch
}

// RoundTripBounds are the bounds of Stats.RoundTrips.
func RoundTripBounds() []time.Duration { return roundTripBounds[:] }

// Stats returns the numbers of the store. It takes no lock and does not wait.
func (s *Store) Stats() Stats {
	c := &s.calls
	st := Stats{
		Unavailable: c.unavailable.Load(), Full: c.full.Load(), RoundTripTime: time.Duration(c.nanos.Load()),
		InFlight: int(c.inFlight.Load()), SinceAnswer: time.Since(c.start) - time.Duration(c.lastOK.Load()),
		Peers: s.total.sum(), Trackers: int(s.total.trackers.Load()), Held: int(s.total.held.Load()), Watched: int(s.watched.Load()),
	}
	for i := range c.trips {
		st.RoundTrips = append(st.RoundTrips, c.trips[i].Load())
	}
	return st
}
