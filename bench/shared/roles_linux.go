package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store"
	mem "ntrack/tracker/store/memory"
	"ntrack/tracker/store/valkey"
)

// The roles of a child.
const (
	rawRole    = "raw"    // the commands alone
	storeRole  = "store"  // a Store
	memoryRole = "memory" // a store in memory
	serverRole = "server" // a tracker, which listens
)

// runRole runs a child. It executes the commands on its standard input until that ends, and answers
// each with a line of JSON.
func runRole(args []string, stdin io.Reader, stdout io.Writer) error {
	f := flag.NewFlagSet("role", flag.ContinueOnError)
	url := f.String("url", "", "the database; none is a store in memory")
	peers := f.Int("peers", 0, "the number of peers of each key, which the role raw has to know")
	profile := f.String("cpuprofile", "", "write a profile of the CPU time to `FILE`, beginning with the command profile")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if *url == "" {
		debug.SetGCPercent(mem.GCPercent) // as `ntrack serve` does without --store
	}
	ctx := context.Background()
	r := &role{stdout: json.NewEncoder(stdout)}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		r.profile = file
		defer pprof.StopCPUProfile()
	}
	if args[0] != rawRole {
		r.store = mem.New()
		if *url != "" {
			s, err := valkey.Open(ctx, valkey.Config{URL: *url, Log: func(line string) { fmt.Fprintln(os.Stderr, line) }})
			if err != nil {
				return err
			}
			defer s.Close()
			r.store = s
		}
		r.announce = func(ctx context.Context, key []byte, peer wire.Peer, dst []wire.Peer) ([]wire.Peer, error) {
			dst, _, err := r.store.Announce(ctx, key, peer, func(store.Size) time.Duration { return ttl }, store.Want{Peers: want}, dst)
			return dst, err
		}
	}
	switch args[0] {
	case rawRole:
		client, err := newClient(*url)
		if err != nil {
			return err
		}
		defer client.Close()
		r.raw = &raw{client: client, prefix: valkey.DefaultPrefix, peers: *peers}
		r.announce = r.raw.announce
	case storeRole, memoryRole:
	case serverRole:
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		everyone := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		s := &server.Server{MaxConnsPerAddr: -1, Tracker: &tracker.Tracker{Store: r.store, Exempt: everyone,
			Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
		r.port = l.Addr().(*net.TCPAddr).Port
		failed := make(chan error, 2)
		go func() { failed <- s.Serve(l) }()
		go func() { failed <- r.run(stdin) }()
		return <-failed
	default:
		return errors.New("no such role: " + args[0])
	}
	return r.run(stdin)
}

// A role is a child's side of the commands.
type role struct {
	stdout   *json.Encoder
	profile  *os.File
	raw      *raw // only of the role raw
	store    store.Store
	announce announcer
	driver   *driver
	port     int
	subs     []store.Subscription
}

func (r *role) run(stdin io.Reader) error {
	for in := bufio.NewScanner(stdin); in.Scan(); {
		name, args, _ := strings.Cut(in.Text(), " ")
		var a, b, c int
		_, _ = fmt.Sscan(args, &a, &b, &c)
		var reply any
		var err error
		switch name {
		case "ready":
			reply = r.port
		case "fill": // keys, peers, callers
			if r.raw != nil {
				err = r.raw.fill(a)
			} else {
				err = drive(r.announce, a, b, c, false).fill(c)
			}
		case "start": // keys, peers, callers
			r.driver = drive(r.announce, a, b, c, r.store != nil)
			r.driver.start(c, uint64(time.Now().UnixNano()))
		case "mark":
			reply, err = r.driver.mark()
		case "stop":
			r.driver.stop()
		case "hold": // peers, peers of a key
			err = r.hold(a, b)
		case "live": // subscriptions
			reply = r.live()
		case "profile":
			if r.profile != nil { // the first time
				err = pprof.StartCPUProfile(r.profile)
				r.profile = nil
			}
		default:
			err = errors.New("no such command: " + name)
		}
		if err == nil {
			err = r.stdout.Encode(reply)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hold subscribes that many peers.
func (r *role) hold(n, each int) error {
	var next atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	var first error
	for range 64 {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				_, _, s, err := r.store.Subscribe(ctx, keyOf(i/each), wire.Peer{Endpoint: endpointOf(i/each, i%each)}, func() {}, nil)
				cancel()
				mu.Lock()
				if err != nil && first == nil {
					first = err
					next.Store(int64(n))
				}
				if err == nil {
					r.subs = append(r.subs, s)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return first
}

// live takes the changes of all subscriptions, and returns how many have not ended.
func (r *role) live() (n int) {
	for _, s := range r.subs {
		for {
			batch, live := s.Next()
			if batch != nil {
				continue
			}
			if live {
				n++
			}
			break
		}
	}
	return n
}
