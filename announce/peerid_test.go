package announce

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ntrack/announce/wire"
)

// The peer id depends on the secret, the tracker, the key and the port, and on nothing else.
func TestClassicID(t *testing.T) {
	type from struct {
		secret, tracker, key string
		port                 uint16
	}
	idOf := func(f from) (wire.ID, uint32) {
		tracker, err := ParseTracker(f.tracker)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey(f.key)
		if err != nil {
			t.Fatal(err)
		}
		c := &Client{Secret: []byte(f.secret)}
		defer c.Close()
		return c.derive().classicID(tracker, &Request{Key: k, Port: f.port, Want: 7})
	}
	one := from{"correct horse", "http://tracker.example/announce?passkey=1", "lobby", 4000}
	id, key := idOf(one)
	// These values were computed with another implementation of HMAC-SHA256.
	if want := hex.EncodeToString([]byte("-NT0100-")) + "acdda07a2403b90b7f8fec7c"; hex.EncodeToString(id[:]) != want || fmt.Sprintf("%08x", key) != "46149a9d" {
		t.Errorf("peer id %x, key %08x, want %s", id, key, want)
	}
	for _, same := range []from{
		{one.secret, "http://TRACKER.example:80/announce?passkey=1#x", one.key, one.port},
		{one.secret, "http://user:password@tracker.example/announce?passkey=1", one.key, one.port},
	} {
		if got, key2 := idOf(same); got != id || key2 != key {
			t.Errorf("%v: peer id %x, key %08x", same, got, key2)
		}
	}
	seen := map[wire.ID]from{id: one}
	for _, other := range []from{
		{"correct horsf", one.tracker, one.key, one.port},
		{"", one.tracker, one.key, one.port},
		{"", one.tracker, one.key, one.port}, // a random secret
		{one.secret, "http://tracker.example/announce?passkey=2", one.key, one.port},
		{one.secret, "http://tracker.example/announce", one.key, one.port},
		{one.secret, "http://tracker.example/x/announce?passkey=1", one.key, one.port},
		{one.secret, "http://tracker.example:81/announce?passkey=1", one.key, one.port},
		{one.secret, "https://tracker.example/announce?passkey=1", one.key, one.port},
		{one.secret, "http://tracker2.example/announce?passkey=1", one.key, one.port},
		{one.secret, one.tracker, "lobby2", one.port},
		{one.secret, one.tracker, "urn:btih:" + "c12fe1c06bba254a9dc9f519b335aa7c1367a88a", one.port},
		{one.secret, one.tracker, one.key, 4001},
		{one.secret, one.tracker, one.key, 4000 + 256},
	} {
		got, _ := idOf(other)
		if twin, ok := seen[got]; ok {
			t.Errorf("%v has the peer id of %v", other, twin)
		}
		if !strings.HasPrefix(string(got[:]), idPrefix) {
			t.Errorf("%v: peer id %q", other, got)
		}
		seen[got] = other
	}
	// If the request has an id, the client uses it. The `key` parameter differs for each id.
	c := &Client{Secret: []byte(one.secret)}
	c.once.Do(c.init)
	tracker, _ := ParseTracker(one.tracker)
	mine := wire.ID([]byte("aaaaaaaaaaaaaaaaaaaa"))
	if got, key := c.classicID(tracker, &Request{Key: wire.KeyOf([]byte("lobby")), Port: 4000, ID: mine}); got != mine || fmt.Sprintf("%08x", key) != "03255eb6" {
		t.Errorf("given %q: %q, key %08x", mine, got, key)
	}
}

// byID is a classic tracker that identifies peers by their id alone, as some do.
type byID struct {
	mu    sync.Mutex
	peers map[wire.ID]uint16
	asked []string // peer_id and event of each request
	left  int      // the number of requests to leave
}

func (b *byID) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var q Request
	if err := q.Parse(r.Method, []byte(r.RequestURI)); err != nil || q.Classic != strings.HasPrefix(r.URL.Path, "/announce") {
		w.WriteHeader(400)
		return
	}
	event := r.URL.Query().Get("event")
	b.asked = append(b.asked, fmt.Sprintf("%q %s", q.ID, event))
	switch {
	case !q.Classic:
		if q.Verb == wire.VerbLeave {
			b.left++
		}
	case event == "stopped":
		delete(b.peers, q.ID)
		b.left++
	default:
		b.peers[q.ID] = q.Port
	}
	if q.Verb == wire.VerbLeave && !q.Classic {
		w.WriteHeader(204)
		return
	}
	_, _ = w.Write([]byte("d8:intervali60e5:peers0:e"))
}

func (b *byID) ports() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ports []uint16
	for _, p := range b.peers {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	return fmt.Sprint(ports)
}

// If a tracker identifies peers by their id, a process with the same secret can renew or remove the
// peer of another process. A process with a different secret cannot.
func TestLeaveInAnotherProcess(t *testing.T) {
	b := &byID{peers: make(map[wire.ID]uint16)}
	srv := httptest.NewServer(b)
	defer srv.Close()
	tracker, err := ParseTracker(srv.URL + "/announce")
	if err != nil {
		t.Fatal(err)
	}
	do := func(secret string, leave bool, port uint16, want string) {
		t.Helper()
		c := &Client{Secret: []byte(secret)} // each client stands for a process
		defer c.Close()
		r := Request{Key: wire.KeyOf([]byte("lobby")), Port: port}
		var err error
		if leave {
			err = c.Leave(t.Context(), tracker, r)
		} else {
			_, err = c.Announce(t.Context(), tracker, r)
		}
		if got := b.ports(); err != nil || got != want {
			t.Errorf("secret %q, leave %v, port %d: listed %s, %v, want %s", secret, leave, port, got, err, want)
		}
	}
	do("s", false, 4000, "[4000]")
	do("s", false, 4000, "[4000]")
	do("s", false, 4001, "[4000 4001]")
	do("", false, 4000, "[4000 4000 4001]")
	do("other", true, 4000, "[4000 4000 4001]")
	do("", true, 4000, "[4000 4000 4001]")
	do("s", true, 4000, "[4000 4001]")
	do("s", true, 4001, "[4000]")
}

// Each look at a classic tracker has a new id. A native tracker gets an id only if the request has
// one.
func TestOtherIDs(t *testing.T) {
	b := &byID{peers: make(map[wire.ID]uint16)}
	srv := httptest.NewServer(b)
	defer srv.Close()
	native, _ := ParseTracker(srv.URL)
	classic, _ := ParseTracker(srv.URL + "/announce")
	c := &Client{Secret: []byte("s")}
	defer c.Close()
	k := wire.KeyOf([]byte("lobby"))
	for range 2 {
		if _, err := c.List(t.Context(), classic, Request{Key: k}); err != nil {
			t.Error(err)
		}
	}
	if n := len(b.asked); n == 0 || b.asked[0] == b.asked[n-1] || b.asked[0] == b.asked[n/2] {
		t.Errorf("looks: %v", b.asked)
	}
	b.asked = nil
	if _, err := c.Announce(t.Context(), native, Request{Key: k, Port: 4000}); err != nil {
		t.Error(err)
	}
	if err := c.Leave(t.Context(), native, Request{Key: k, Port: 4000}); err != nil {
		t.Error(err)
	}
	if none := fmt.Sprintf("%q ", wire.ID{}); !slices.Equal(b.asked, []string{none, none}) {
		t.Errorf("at a native tracker: %v", b.asked)
	}
}

// If another process still announces the same endpoint, a member does not leave a classic tracker,
// since the tracker would remove both. It leaves a native tracker, which counts the two separately.
func TestClientShared(t *testing.T) {
	b := &byID{peers: make(map[wire.ID]uint16)}
	srv := httptest.NewServer(b)
	defer srv.Close()
	native, _ := ParseTracker(srv.URL)
	classic, _ := ParseTracker(srv.URL + "/announce")
	k := wire.KeyOf([]byte("lobby"))
	for _, tt := range []struct {
		about   string
		tracker Tracker
		shared  func(Tracker, Request) bool
		leaves  bool
	}{
		{"no Shared", classic, nil, true},
		{"it is the last", classic, func(Tracker, Request) bool { return false }, true},
		{"others stay", classic, func(at Tracker, r Request) bool {
			return at == classic && r.Port == 4000 && string(r.Key.Bytes()) == "lobby"
		}, false},
		{"natively", native, func(Tracker, Request) bool { return true }, true},
	} {
		b.asked, b.left = nil, 0
		c := &Client{Shared: tt.shared}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		m, err := c.Join(ctx, []Tracker{tt.tracker}, Request{Key: k, Port: 4000}, func(Event, error) { cancel() })
		if err != nil {
			t.Fatal(err)
		}
		<-m.Done()
		if err := m.Leave(ctx); err != nil {
			t.Errorf("%s: %v", tt.about, err)
		}
		if left := b.left > 0; len(b.asked) == 0 || left != tt.leaves {
			t.Errorf("%s: %d requests, leaves: %v", tt.about, len(b.asked), left)
		}
		// Client.Leave always leaves.
		b.left = 0
		if err := c.Leave(t.Context(), tt.tracker, Request{Key: k, Port: 4000}); err != nil || b.left == 0 {
			t.Errorf("%s: after Client.Leave: %v, %v", tt.about, b.left, err)
		}
		cancel()
		c.Close()
	}
}
