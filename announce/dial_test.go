package announce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
)

// endlessly is how long a connection attempt to an address takes if it does not answer.
const endlessly = time.Hour

// An attempt says how a connection attempt to one address ends, and after how long.
type attempt struct {
	after time.Duration
	err   error
}

type raced struct {
	mu       sync.Mutex
	attempts []attempt
	began    []time.Duration
	closed   int
	start    time.Time
}

type racedConn struct {
	net.Conn
	r  *raced
	to netip.AddrPort
}

func (c racedConn) Close() error {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.closed++
	return nil
}

// connect makes the attempt that has the port of an address as its index.
func (r *raced) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	r.mu.Lock()
	r.began = append(r.began, time.Since(r.start))
	f := r.attempts[to.Port()]
	r.mu.Unlock()
	if !wait(ctx, f.after) && f.after == endlessly {
		return nil, ctx.Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	return racedConn{nil, r, to}, nil
}

// Each address that does not answer costs only the head start, and all together at most half of the
// timeout.
func TestRace(t *testing.T) {
	refused, noRoute := errors.New("refused"), &net.AddrError{Err: "no route"}
	dead, at := attempt{endlessly, nil}, func(ms int) attempt { return attempt{time.Duration(ms) * time.Millisecond, nil} }
	many := slices.Repeat([]attempt{dead}, maxAddrs-1)
	for name, tt := range map[string]struct {
		attempts []attempt
		timeout  time.Duration
		want     int // the index of the address; -1 for none
		after    time.Duration
		tried    int
		err      error
	}{
		"the first answers":           {[]attempt{at(10), at(10)}, time.Second, 0, 10 * time.Millisecond, 1, nil},
		"the first is dead":           {[]attempt{dead, at(10)}, 10 * time.Second, 1, 210 * time.Millisecond, 2, nil},
		"the first is slow":           {[]attempt{at(220), at(100)}, 10 * time.Second, 0, 220 * time.Millisecond, 2, nil},
		"the second is quicker":       {[]attempt{at(400), at(100)}, 10 * time.Second, 1, 300 * time.Millisecond, 2, nil},
		"the first refuses":           {[]attempt{{10 * time.Millisecond, refused}, at(10)}, time.Second, 1, 20 * time.Millisecond, 2, nil},
		"all refuse":                  {[]attempt{{0, noRoute}, {0, refused}, {0, noRoute}}, time.Second, -1, 0, 3, refused},
		"dead, refused, alive":        {[]attempt{dead, {0, refused}, at(0)}, 10 * time.Second, 2, 200 * time.Millisecond, 3, nil},
		"little time":                 {[]attempt{dead, dead, dead, at(1)}, 80 * time.Millisecond, 3, 31 * time.Millisecond, 4, nil},
		"as many as are tried at all": {append(many, at(1)), time.Second, maxAddrs - 1, 485375 * time.Microsecond, maxAddrs, nil},
		"all are dead":                {[]attempt{dead, dead}, time.Second, -1, time.Second, 2, context.DeadlineExceeded},
		"only one":                    {[]attempt{at(900)}, time.Second, 0, 900 * time.Millisecond, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &raced{attempts: tt.attempts, start: time.Now()}
				var addrs []netip.AddrPort
				for i := range tt.attempts {
					addrs = append(addrs, netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i)))
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
				defer cancel()
				cn, err := race(ctx, addrs, r.connect)
				got := -1
				if err == nil {
					got = int(cn.(racedConn).to.Port())
				}
				if after := time.Since(r.start); got != tt.want || after != tt.after || len(r.began) != tt.tried || !errors.Is(err, tt.err) {
					t.Errorf("address %d after %v, %v, %d tried; want %d after %v, %v, %d", got, after, err, len(r.began), tt.want, tt.after, tt.err, tt.tried)
				}
				synctest.Wait() // for connections that succeeded too late
				if name == "the first is slow" && r.closed != 1 || name == "the first answers" && r.closed != 0 {
					t.Errorf("closed %d connections", r.closed)
				}
			})
		})
	}
}

// resolve returns each address of a name once. The families alternate, and there is a limit.
func TestResolve(t *testing.T) {
	var hundred, both, some []netip.Addr
	for i := range byte(100) {
		hundred = append(hundred, netip.AddrFrom4([4]byte{192, 0, 2, i}))
		both = append(both, netip.AddrFrom4([4]byte{192, 0, 2, i}), netip.AddrFrom16([16]byte{15: i, 0: 0x20}))
	}
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "192.0.2.1", "2001:db8::2", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::3"} {
		some = append(some, netip.MustParseAddr(a))
	}
	names := map[string][]netip.Addr{"some.example": some, "hundred.example": hundred, "both.example": both}
	asked := ""
	c := Client{lookup: func(_ context.Context, network, host string) ([]netip.Addr, error) {
		asked = network + " " + host
		if found := names[host]; found != nil {
			return found, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}}
	for _, tt := range []struct{ network, addr, asked, want string }{
		{"tcp", "some.example:80", "ip some.example", "[2001:db8::1]:80 192.0.2.1:80 [2001:db8::2]:80 192.0.2.2:80 [2001:db8::3]:80"},
		{"tcp4", "some.example:80", "ip4 some.example", "192.0.2.1:80 192.0.2.2:80"},
		{"tcp6", "some.example:80", "ip6 some.example", "[2001:db8::1]:80 [2001:db8::2]:80 [2001:db8::3]:80"},
		{"tcp6", "hundred.example:80", "ip6 hundred.example", "no suitable address"},
		{"tcp", "none.example:80", "ip none.example", "no such host"},
		{"tcp", "localhost:6969", "", "127.0.0.1:6969 [::1]:6969"},
		{"tcp6", "localhost:6969", "", "[::1]:6969"},
		{"tcp4", "a.b.localhost:6969", "", "127.0.0.1:6969"},
		{"tcp4", "X.LOCALHOST.:6969", "", "127.0.0.1:6969"},
		{"tcp", "notlocalhost:6969", "ip notlocalhost", "no such host"},
		{"tcp", "localhost.example:6969", "ip localhost.example", "no such host"},
		{"tcp", "127.0.0.2:1", "", "127.0.0.2:1"},
		{"tcp4", "[::ffff:127.0.0.2]:1", "", "127.0.0.2:1"},
		{"tcp", "[fe80::1%eth0]:1", "", "[fe80::1%eth0]:1"},
		{"tcp4", "[::1]:1", "", "no suitable address"},
		{"tcp6", "127.0.0.1:1", "", "no suitable address"},
		{"tcp", "some.example:65536", "", "port"},
	} {
		asked = ""
		addrs, err := c.resolve(t.Context(), tt.network, tt.addr)
		var texts []string
		for _, a := range addrs {
			texts = append(texts, a.String())
		}
		got := strings.Join(texts, " ")
		if err != nil && strings.Contains(err.Error(), tt.want) {
			got = tt.want
		}
		if got != tt.want || asked != tt.asked {
			t.Errorf("%s %s: %s, asked for %q; want %s, %q", tt.network, tt.addr, got, asked, tt.want, tt.asked)
		}
	}
	for _, name := range []string{"hundred.example:80", "both.example:80"} {
		if addrs, err := c.resolve(t.Context(), "tcp", name); err != nil || len(addrs) != maxAddrs {
			t.Errorf("%d addresses of %s, %v", len(addrs), name, err)
		}
	}
}

// The target of a redirect gets the zone of the tracker, and only if it is a link-local IPv6 address.
func TestKeepZone(t *testing.T) {
	for _, tt := range []struct{ from, location, want string }{
		{"http://[fe80::1%25a]:80/x", "/y", "http://[fe80::1%25a]:80/y"},
		{"http://[fe80::1%25a]:80/x", "http://[fe80::1]:80/y", "http://[fe80::1%25a]:80/y"},
		{"http://[fe80::1%25a]:80/x", "http://[fe80::2]/y", "http://[fe80::2%25a]/y"},
		{"http://[fe80::1%25a]:80/x", "https://[fe80::2%25b]:1/y", "https://[fe80::2%25a]:1/y"},
		{"http://[fe80::1%25a]:80/x", "http://[2001:db8::1]:80/y", "http://[2001:db8::1]:80/y"},
		{"http://[fe80::1%25a]:80/x", "http://[2001:db8::1%25a]:80/y", "http://[2001:db8::1]:80/y"},
		{"http://[fe80::1%25a]:80/x", "http://192.0.2.1/y", "http://192.0.2.1/y"},
		{"http://[fe80::1%25a]:80/x", "http://host.example:1/y", "http://host.example:1/y"},
		{"http://host.example:1/x", "http://[fe80::1%25a]:80/y", "http://[fe80::1]:80/y"},
		{"http://host.example:1/x", "http://[FE80:0::1]:80/y", "http://[FE80:0::1]:80/y"},
		{"http://169.254.0.1/x", "http://169.254.0.2/y", "http://169.254.0.2/y"},
	} {
		from, err := url.Parse(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		if to, err := redirected(from, tt.location); err != nil || to.String() != tt.want {
			t.Errorf("from %s to %s: %s, %v, want %s", tt.from, tt.location, to, err, tt.want)
		}
	}
}

// A connection attempt ends at the timeout, and leaves no connection open.
func TestDialDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		began := time.Now()
		c := Client{Timeout: 5 * time.Second, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if deadline, ok := ctx.Deadline(); !ok || deadline.Sub(began) != 5*time.Second {
				t.Errorf("the deadline is %v, %v", deadline, ok)
			}
			<-ctx.Done()
			ended <- time.Since(began)
			return nil, ctx.Err()
		}}
		defer c.Close()
		at, _ := ParseTracker("")
		_, err := c.List(t.Context(), at, Request{Key: wire.KeyOf([]byte("k"))})
		if _, ok := err.(*UnreachableError); !ok {
			t.Error(err)
		}
		if after := <-ended; after != 5*time.Second {
			t.Errorf("gave up after %v", after)
		}
	})
}

// If DNS fails, a client connects to the last addresses of a name. If DNS answers that there is none,
// or if it has never answered, the message says so.
func TestDNSGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const host = "tracker.example"
		var failure error
		addr := netip.MustParseAddr("192.0.2.1")
		took := time.Duration(0)
		c := Client{lookup: func(ctx context.Context, _, name string) ([]netip.Addr, error) {
			if failure == nil {
				return []netip.Addr{addr}, nil
			}
			if failure == context.DeadlineExceeded {
				began := time.Now()
				<-ctx.Done()
				took = time.Since(began)
				failure = &net.DNSError{Err: "i/o timeout", Name: name, IsTimeout: true}
			}
			return nil, failure
		}}
		misbehaves := &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
		notFound := &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		for _, step := range []struct {
			about, host string
			failure     error
			want        string
			within      time.Duration
		}{
			{"never resolved, SERVFAIL", host, misbehaves, "DNS fails: server misbehaving", 0},
			{"never resolved, silent", host, context.DeadlineExceeded, "DNS does not answer", 9 * time.Second},
			{"resolved", host, nil, "[192.0.2.1:6969]", 0},
			{"SERVFAIL", host, misbehaves, "[192.0.2.1:6969]", 0},
			{"silent", host, context.DeadlineExceeded, "[192.0.2.1:6969]", 6 * time.Second},
			{"another name", "other.example", misbehaves, "DNS fails: server misbehaving", 0},
			{"the name is gone", host, notFound, "no such host", 0},
			{"SERVFAIL after that", host, misbehaves, "[192.0.2.1:6969]", 0},
			{"many names", "", nil, "[192.0.2.1:6969]", 0},
			{"SERVFAIL after many names", host, misbehaves, "DNS fails: server misbehaving", 0},
		} {
			failure, took = step.failure, 0
			got := ""
			for i := range maxResolved {
				name := cmp.Or(step.host, fmt.Sprintf("name%d.example", i))
				addrs, err := c.resolve(t.Context(), "tcp", name+":6969")
				if got = fmt.Sprint(addrs); err != nil {
					got = (&UnreachableError{Err: err}).Error()
				}
				if step.host != "" {
					break
				}
			}
			if !strings.HasSuffix(got, step.want) || took != step.within {
				t.Errorf("%s: %s after %v, want %s after %v", step.about, got, took, step.want, step.within)
			}
		}
	})
}
