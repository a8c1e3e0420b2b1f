package announce_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// local starts a tracker on a free port. It returns its address as a native and as a classic tracker.
func local(t *testing.T, tr *tracker.Tracker) (native, classic announce.Tracker) {
	srv := httptest.NewServer(tracker.Handler(tr))
	t.Cleanup(srv.Close)
	return named(t, srv.URL), named(t, srv.URL+"/announce")
}

// named returns the tracker with a name.
func named(t *testing.T, name string) announce.Tracker {
	t.Helper()
	tr, err := announce.ParseTracker(name)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func key(t *testing.T, s string) announce.Key {
	t.Helper()
	k, err := announce.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func endpoints(r *announce.Reply) string {
	var s []string
	for _, p := range r.Peers {
		s = append(s, p.String())
	}
	return sorted(s...)
}

func sorted(s ...string) string {
	slices.Sort(s)
	return strings.Join(s, " ")
}

// A client joins, lists and leaves in the same way at a native and at a classic tracker.
func TestClient(t *testing.T) {
	for _, classic := range []bool{false, true} {
		at, other := local(t, &tracker.Tracker{Index: true})
		if classic {
			at, other = other, at
		}
		var c announce.Client
		t.Cleanup(c.Close)
		ctx, k := t.Context(), key(t, "chat/room 1+\x00")
		first, err := c.Announce(ctx, at, announce.Request{Key: k, Port: 4000})
		if err != nil {
			t.Fatal(err)
		}
		if first.You.String() != "127.0.0.1:4000" || len(first.Peers) != 0 || first.Count != 1 || first.Interval != 15*time.Second {
			t.Errorf("classic %v: first announce: %+v", classic, first)
		}
		second, err := c.Announce(ctx, at, announce.Request{Key: k, Port: 4001})
		if err != nil || endpoints(second) != "127.0.0.1:4000" || second.Sample {
			t.Errorf("classic %v: second announce: %+v, %v", classic, second, err)
		}
		origin, err := c.Announce(ctx, at, announce.Request{Key: k, Want: announce.NoPeers})
		if err != nil || origin.You.Port() < 2 || origin.You.Port() == 4000 || len(origin.Peers) != 0 || !origin.Sample {
			t.Errorf("classic %v: announce with the port of origin: %+v, %v", classic, origin, err)
		}
		all := sorted("127.0.0.1:4000", "127.0.0.1:4001", origin.You.String())
		for range 2 { // the second look shows that the first one has listed no peer
			look, err := c.List(ctx, at, announce.Request{Key: k})
			if err != nil || endpoints(look) != all || look.Count != 3 || look.Sample {
				t.Errorf("classic %v: list: %+v, %v; want %s", classic, look, err, all)
			}
		}
		if look, err := c.List(ctx, at, announce.Request{Key: k, Want: 1}); err != nil || len(look.Peers) != 1 || !look.Sample {
			t.Errorf("classic %v: list of one: %+v, %v", classic, look, err)
		}
		tracks, err := c.Index(ctx, at)
		if err != nil || len(tracks) != 1 || tracks[0].Count != 3 {
			t.Errorf("classic %v: index: %v, %v", classic, tracks, err)
		}
		if err := c.Leave(ctx, at, announce.Request{Key: k, Port: 4000}); err != nil {
			t.Error(err)
		}
		if look, err := c.List(ctx, at, announce.Request{Key: k}); err != nil || endpoints(look) != sorted("127.0.0.1:4001", origin.You.String()) {
			t.Errorf("classic %v: after the leave: %+v, %v", classic, look, err)
		}
		// The key of a torrent names the same track over both protocols. A text key does not, so that
		// it cannot collide with a torrent.
		torrent := key(t, "urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a")
		if _, err := c.Announce(ctx, at, announce.Request{Key: torrent, Port: 4000}); err != nil {
			t.Error(err)
		}
		if look, err := c.List(ctx, other, announce.Request{Key: torrent}); err != nil || endpoints(look) != "127.0.0.1:4000" {
			t.Errorf("classic %v: a torrent over the other protocol: %+v, %v", classic, look, err)
		}
		if look, err := c.List(ctx, other, announce.Request{Key: k}); err != nil || len(look.Peers) != 0 {
			t.Errorf("classic %v: a text key over the other protocol: %+v, %v", classic, look, err)
		}
	}
}

// If a track is larger than a reply, List takes the peers from the event stream, up to r.Want.
func TestListLarge(t *testing.T) {
	tr := &tracker.Tracker{}
	native, _ := local(t, tr)
	var c announce.Client
	t.Cleanup(c.Close)
	k := key(t, "k")
	label, err := announce.ParseLabel("me")
	if err != nil {
		t.Fatal(err)
	}
	for port := range uint16(1200) {
		if _, err := c.Announce(t.Context(), native, announce.Request{Key: k, Port: 2000 + port, ID: label, Want: announce.NoPeers}); err != nil {
			t.Fatal(err)
		}
	}
	for want, n := range map[int]int{10: 10, 1000: 1000, 1100: 1100, 10_000: 1200} {
		r, err := c.List(t.Context(), native, announce.Request{Key: k, Want: want})
		if err != nil || len(r.Peers) != n || r.Count != 1200 || r.Sample != (n < 1200) || r.Interval == 0 {
			t.Errorf("list of %d: %d peers, count %d, sample %v, %v", want, len(r.Peers), r.Count, r.Sample, err)
		}
	}
	// A stream has no labels, so there are those of the reply.
	if r, err := c.List(t.Context(), native, announce.Request{Key: k, Want: 10_000, Labels: true}); err != nil || len(r.Peers) != 1200 || len(r.Labels) != 1000 {
		t.Errorf("%d peers with %d labels, %v", len(r.Peers), len(r.Labels), err)
	}
	without := httptest.NewServer(polled(tr))
	t.Cleanup(without.Close)
	if r, err := c.List(t.Context(), named(t, without.URL), announce.Request{Key: k, Want: 10_000}); err != nil || len(r.Peers) != 1000 || r.Count != 1200 || !r.Sample {
		t.Errorf("without streams: %d peers, %v", len(r.Peers), err)
	}
}

// A refusal, a tracker that does not answer, and a context that has ended have errors of their own.
func TestClientErrors(t *testing.T) {
	native, _ := local(t, &tracker.Tracker{Tokens: []string{"secret"}})
	var c announce.Client
	k := key(t, "k")
	_, err := c.List(t.Context(), native, announce.Request{Key: k})
	if f, ok := errors.AsType[*announce.RefusalError](err); !ok || f.Status != 401 {
		t.Errorf("without a token: %v", err)
	}
	if _, err := (&announce.Client{Token: "secret"}).List(t.Context(), native, announce.Request{Key: k}); err != nil {
		t.Errorf("with the token: %v", err)
	}
	if _, err := c.List(t.Context(), native, announce.Request{Key: announce.Key{}}); err == nil {
		t.Error("an empty key was sent")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := named(t, l.Addr().String())
	_, err = (&announce.Client{Timeout: 100 * time.Millisecond}).List(t.Context(), silent, announce.Request{Key: k})
	if _, ok := errors.AsType[*announce.UnreachableError](err); !ok || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Errorf("a tracker that does not answer: %v", err)
	}
	l.Close()
	_, err = c.List(t.Context(), silent, announce.Request{Key: k})
	if u, ok := errors.AsType[*announce.UnreachableError](err); !ok || strings.Count(err.Error(), l.Addr().String()) != 1 || u.Tracker != silent {
		t.Errorf("nothing listens on the port: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := c.List(ctx, native, announce.Request{Key: k}); !errors.Is(err, why) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// A client checks certificates, and does not follow redirects from https to other schemes.
func TestHTTPS(t *testing.T) {
	srv := httptest.NewUnstartedServer(tracker.Handler(&tracker.Tracker{}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // no log lines of the handshake that has to fail
	srv.StartTLS()
	t.Cleanup(srv.Close)
	k := key(t, "k")
	at := named(t, srv.URL)
	var c announce.Client
	_, err := c.List(t.Context(), at, announce.Request{Key: k})
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("an unknown authority: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	trusting := announce.Client{TLS: &tls.Config{RootCAs: pool}}
	if _, err := trusting.List(t.Context(), at, announce.Request{Key: k}); err != nil {
		t.Error(err)
	}
	for _, to := range []string{"http://127.0.0.1:1/", "ftp://x/"} {
		srv.Config.Handler = http.RedirectHandler(to, http.StatusFound)
		if _, err := trusting.List(t.Context(), at, announce.Request{Key: k}); err == nil || !strings.Contains(err.Error(), "redirects") {
			t.Errorf("https redirected to %s: %v", to, err)
		}
	}
}

// A redirected DELETE is still a DELETE, and the token goes only to the tracker that the user
// named. A loop of redirects is an error.
func TestRedirects(t *testing.T) {
	var asked []string
	last := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization"))
		w.WriteHeader(204)
	}))
	t.Cleanup(last.Close)
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization"))
		http.Redirect(w, r, last.URL+r.RequestURI, http.StatusMovedPermanently)
	}))
	t.Cleanup(first.Close)
	c := announce.Client{Token: "secret"}
	if err := c.Leave(t.Context(), named(t, first.URL), announce.Request{Key: key(t, "a/b"), Port: 4000}); err != nil {
		t.Fatal(err)
	}
	want := "DELETE /ntrk/a%2fb?port=4000 Bearer secret, DELETE /ntrk/a%2fb?port=4000 "
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("requests %q, want %q", got, want)
	}
	loop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, "loop")
		http.Redirect(w, r, r.RequestURI, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(loop.Close)
	asked = nil
	if _, err := c.List(t.Context(), named(t, loop.URL), announce.Request{Key: key(t, "k")}); err == nil || len(asked) != 4 {
		t.Errorf("a loop of redirects: %v after %d requests, want an error after 4", err, len(asked))
	}
}

// A client does not read a reply without end.
func TestReplyIsBounded(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line := []byte(strings.Repeat("1.2.3.4:5\n", 1000))
		for {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	var c announce.Client
	if _, err := c.List(t.Context(), named(t, srv.URL), announce.Request{Key: key(t, "k")}); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("an endless reply: %v", err)
	}
}

// An answer that is not a reply is an error, also if it is made to use much memory or time.
func TestInvalidReplies(t *testing.T) {
	body, status := "", 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	native, classic := named(t, srv.URL), named(t, srv.URL+"/announce")
	var c announce.Client
	k := key(t, "k")
	expect := func(what string, err error) {
		t.Helper()
		if _, ok := errors.AsType[*announce.ReplyError](err); !ok || len(err.Error()) > 400 {
			t.Errorf("%s: %T of %d bytes: %.100v", what, err, len(err.Error()), err)
		}
	}
	for _, body = range []string{"", `{"status":"ok"}`, "de", "<html>", "null", `{"interval":` + strings.Repeat("1", 1<<20) + "}",
		"d5:peersl" + strings.Repeat("de", 1<<20) + "ee"} {
		_, err := c.List(t.Context(), native, announce.Request{Key: k})
		expect("native list of "+body[:min(20, len(body))], err)
		_, err = c.List(t.Context(), classic, announce.Request{Key: k})
		expect("classic list of "+body[:min(20, len(body))], err)
		expect("leave", c.Leave(t.Context(), native, announce.Request{Key: k, Port: 4000}))
	}
	// These bodies are within the limit, but a naive decoder would need a hundred times their size.
	for _, body = range []string{`{"tracks":[` + strings.Repeat("{},", 2<<20) + "{}]}", `{"status":"ok"}`, "d5:filesd" + strings.Repeat("1:ade", 1<<20) + "ee"} {
		_, err := c.Index(t.Context(), native)
		expect("index of "+body[:min(20, len(body))], err)
	}
}

// If a TLS handshake never ends, the client gives up and closes the connection.
func TestStalledHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			_, err = io.Copy(io.Discard, c) // until the client gives up
		}
		ended <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := announce.Client{Timeout: 50 * time.Millisecond}
	_, err = c.List(ctx, named(t, "https://"+l.Addr().String()), announce.Request{Key: key(t, "k")})
	if _, ok := errors.AsType[*announce.UnreachableError](err); !ok || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
	if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is left behind")
	}
}

// freePort returns a port of 127.0.0.1 on which nothing listens. It is below the ports that systems
// give to connections, so no other program gets it meanwhile.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 1000 {
		port := 29_000 + rand.N(3000)
		if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return uint16(port)
		}
	}
	t.Fatal("no port is free")
	return 0
}

// Without a port, the tracker lists the local endpoint of the connection: Client.From, if it is set.
func TestFrom(t *testing.T) {
	native, classic := local(t, &tracker.Tracker{})
	from := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))
	l, err := net.Listen("tcp", from.String())
	if err != nil {
		t.Fatal(err)
	}
	c := announce.Client{From: netip.AddrPortFrom(netip.Addr{}, from.Port())}
	r := announce.Request{Key: key(t, "k")}
	if _, err := c.Announce(t.Context(), native, r); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("from the port of a service without SO_REUSEPORT: %v", err)
	}
	l.Close()
	for _, at := range []announce.Tracker{native, classic, native} {
		// A new client each time, as in another process: the last connection must not block the
		// port.
		c := announce.Client{From: c.From}
		reply, err := c.Announce(t.Context(), at, r)
		if err != nil || reply.You != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), from.Port()) {
			t.Errorf("from %v: %+v, %v", from, reply, err)
		}
		if err := c.Leave(t.Context(), at, r); err != nil {
			t.Error(err)
		}
		if look, err := c.List(t.Context(), at, announce.Request{Key: r.Key}); err != nil || len(look.Peers) != 0 {
			t.Errorf("after the leave from the port: %+v, %v", look, err)
		}
		c.Close()
	}
	// If nothing listens on the port, TCP would allow it to connect to itself.
	self := announce.Client{From: netip.AddrPortFrom(netip.Addr{}, from.Port())}
	_, err = self.Announce(t.Context(), named(t, from.String()), r)
	if _, ok := errors.AsType[*announce.UnreachableError](err); !ok {
		t.Errorf("connected to itself: %v", err)
	}
}

// Every request to the zero Tracker is an error before anything is sent.
func TestZeroTracker(t *testing.T) {
	var c announce.Client
	defer c.Close()
	var zero announce.Tracker
	ctx, r := t.Context(), announce.Request{Key: key(t, "k"), Port: 4000}
	for name, ask := range map[string]func() error{
		"announce": func() error { _, err := c.Announce(ctx, zero, r); return err },
		"leave":    func() error { return c.Leave(ctx, zero, r) },
		"list":     func() error { _, err := c.List(ctx, zero, announce.Request{Key: r.Key}); return err },
		"index":    func() error { _, err := c.Index(ctx, zero); return err },
		"join":     func() error { _, err := c.Join(ctx, []announce.Tracker{named(t, ""), zero}, r, nil); return err },
		"gather":   func() error { _, err := c.Gather(ctx, zero, r, 2, nil); return err },
		"watch": func() (err error) {
			for _, err = range c.Watch(ctx, []announce.Tracker{zero}, r) {
			}
			return err
		},
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), "no tracker is named") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
