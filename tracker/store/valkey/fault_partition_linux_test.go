package valkey_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// A cable connects one tracker with its database. When it is unplugged, packets are lost, and
// connections hang.
type cable struct {
	t         *testing.T
	namespace string
	URL       string
}

// newCable makes a network namespace. In it, a relay to the server of a URL listens.
func newCable(t *testing.T, to string) *cable {
	t.Helper()
	if os.Getuid() != 0 {
		valkeytest.Missing(t, errors.New("network namespaces need root"))
	}
	n := rand.IntN(1 << 14)
	c := &cable{t: t, namespace: fmt.Sprintf("ntrack-valkey-%d-%d", os.Getpid(), n)}
	c.ip("netns", "add", c.namespace)
	t.Cleanup(func() { c.ip("netns", "del", c.namespace) })
	// A network of four addresses, out of those for tests between networks.
	address := func(last int) string { return fmt.Sprintf("198.18.%d.%d", n>>6, n%64*4+last) }
	outside := fmt.Sprintf("nt%d", n)
	c.ip("link", "add", "name", outside, "type", "veth", "peer", "name", "veth0", "netns", c.namespace)
	c.ip("addr", "add", address(1)+"/30", "dev", outside)
	c.ip("link", "set", outside, "up")
	c.ip("-n", c.namespace, "addr", "add", address(2)+"/30", "dev", "veth0")
	c.plug()
	var listener net.Listener
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and end with the thread, which is in the namespace
		failed <- func() error {
			in, err := os.Open("/run/netns/" + c.namespace)
			if err != nil {
				return err
			}
			defer in.Close()
			if err := unix.Setns(int(in.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			listener, err = net.Listen("tcp", address(2)+":0")
			return err
		}()
	}()
	must(t, <-failed)
	_, c.URL = startRelay(t, listener, to, func(int) (int, time.Duration) { return 1, 0 })
	return c
}

func (c *cable) ip(args ...string) {
	c.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			valkeytest.Missing(c.t, err)
		}
		c.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// The end in the namespace goes down, so the other end has a route, and nothing answers.
func (c *cable) unplug() { c.t.Helper(); c.ip("-n", c.namespace, "link", "set", "veth0", "down") }
func (c *cable) plug()   { c.t.Helper(); c.ip("-n", c.namespace, "link", "set", "veth0", "up") }

// The network between one tracker and the database fails for a shorter time than the lease. Nobody
// leaves, at either tracker.
func TestFaultPartitionShort(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	c := newCable(t, engine.URL())
	a, b := open(t, valkey.Config{URL: c.URL}), open(t, valkey.Config{URL: engine.URL()})
	l := startLoad(t, a, b)
	l.flows()
	c.unplug()
	unreachable(t, a)
	l.flows() // at the other tracker
	c.plug()
	reachable(t, a)
	l.settle()
}

// The network fails for longer than the lease. The members of the tracker that is cut off leave at the
// other one. It keeps their streams, in which nobody leaves. Later it lists them again.
func TestFaultPartitionLong(t *testing.T) {
	t.Parallel()
	const lease = 5 * time.Second
	engine := valkeytest.Start(t, valkeytest.Options{})
	c := newCable(t, engine.URL())
	a, b := open(t, valkey.Config{URL: c.URL, Lease: lease}), open(t, valkey.Config{URL: engine.URL(), Lease: lease})
	var ofA, ofB ledger // what watchers at a and at b may see
	var atA, atB []*watcher
	for i := range 4 {
		atA = append(atA, member(t, &ofA, a, "k", peer(i)))
		atB = append(atB, member(t, &ofB, b, "k", peer(4+i)))
	}
	atA, atB = append(atA, watch(t, &ofA, a, "k")), append(atB, watch(t, &ofB, b, "k"))
	_, err := announce(a, "k", peer(8), longTTL)
	must(t, err)
	agree(t, repaired, b, "k", peers(0, 9), append(atA, atB...)...)
	ofA.stays("k", peers(0, 9)...)
	ofB.stays("k", peers(4, 9)...)

	c.unplug()
	began := time.Now()
	agree(t, lease+2*time.Second, b, "k", peers(4, 9), atB...)
	if took := time.Since(began); took < lease/2 {
		t.Errorf("members left %v after their tracker was cut off, and the lease is %v", took, lease)
	}
	unreachable(t, a)
	_, err = announce(b, "k", peer(9), longTTL)
	must(t, err)
	agree(t, repaired, b, "k", peers(4, 10), atB...)
	c.plug()
	reachable(t, a)
	agree(t, repaired, b, "k", peers(0, 10), append(atA, atB...)...)
}

// unreachable waits until an announce is refused, which must not take long.
func unreachable(t *testing.T, s *valkey.Store) {
	t.Helper()
	eventually(t, patience, func() error {
		began := time.Now()
		_, err := announce(s, "another", peer(0), time.Second)
		if took := time.Since(began); took > 2*repaired {
			t.Errorf("an announce took %v", took)
		}
		if !refused(t, err) {
			return errors.New("an announce still succeeds")
		}
		return nil
	})
}

// reachable waits until an announce succeeds.
func reachable(t *testing.T, s *valkey.Store) {
	t.Helper()
	eventually(t, patience, func() error {
		_, err := announce(s, "another", peer(0), time.Second)
		refused(t, err)
		return err
	})
}
