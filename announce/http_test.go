package announce_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/tracker"
)

// served starts a tracker that answers with h until the test ends.
func served(t *testing.T, path string, h http.HandlerFunc) announce.Tracker {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return named(t, srv.URL+path)
}

// within returns a context for requests that should end before it does.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A client does not read an answer whose header is too large.
func TestHeaderIsBounded(t *testing.T) {
	at := served(t, "", func(w http.ResponseWriter, r *http.Request) {
		for range 100 {
			w.Header().Add("X", strings.Repeat("x", 1000))
		}
		_, _ = io.WriteString(w, `{"interval":60,"peers":[]}`)
	})
	var c announce.Client
	defer c.Close()
	if r, err := c.List(within(t), at, announce.Request{Key: key(t, "k")}); err == nil {
		t.Errorf("a header of 100 KB: %+v", r)
	}
}

// A client does not decompress an event stream: some bytes of it could be events without end.
func TestStreamIsNotCompressed(t *testing.T) {
	at := served(t, "", func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding: %s", got)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "event: you\ndata:\n\nevent: peers\ndata: 192.0.2.1:1\n\n")
		_ = z.Close()
	})
	var c announce.Client
	defer c.Close()
	for ev, err := range c.Watch(within(t), []announce.Tracker{at}, announce.Request{Key: key(t, "k")}) {
		if err == nil {
			t.Errorf("%+v", ev)
		}
		break
	}
}

// A client does not read an index that is too large, native or classic.
func TestIndexIsBounded(t *testing.T) {
	for _, path := range []string{"", "/announce"} {
		at := served(t, path, func(w http.ResponseWriter, r *http.Request) {
			for line := []byte(strings.Repeat("d", 1<<16)); ; {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		})
		var c announce.Client
		_, err := c.Index(within(t), at)
		if _, ok := errors.AsType[*announce.ReplyError](err); !ok || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%q: %v", path, err)
		}
		c.Close()
	}
}

// The limit for replies also counts for a reply to a request for a stream.
func TestReplyInsteadOfStreamIsBounded(t *testing.T) {
	var asked atomic.Int32
	at := served(t, "", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		for line := []byte(strings.Repeat("1.2.3.4:5\n", 1000)); ; {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	})
	var c announce.Client
	defer c.Close()
	for _, err := range c.Watch(within(t), []announce.Tracker{at}, announce.Request{Key: key(t, "k")}) {
		if _, ok := errors.AsType[*announce.ReplyError](err); !ok || !strings.Contains(err.Error(), "longer than") || asked.Load() != 1 {
			t.Errorf("after %d requests: %v", asked.Load(), err)
		}
		return
	}
	t.Error("nothing is reported")
}

// The client does not read the body of a redirect. It closes the connection, and follows the
// redirect.
func TestRedirectWithBody(t *testing.T) {
	ended := make(chan bool)
	h := tracker.Handler(new(tracker.Tracker))
	at := served(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ntrk/k" {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Location", "/ntrk/elsewhere?port=0")
		w.WriteHeader(http.StatusFound)
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				close(ended)
				return
			}
		}
	})
	var c announce.Client
	defer c.Close()
	for _, err := range c.Watch(within(t), []announce.Tracker{at}, announce.Request{Key: key(t, "k")}) {
		if err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the connection is left open")
		}
		return
	}
	t.Error("nothing is reported")
}

// A redirect to another protocol is a ReplyError, since the tracker is reachable.
func TestRedirectElsewhere(t *testing.T) {
	for _, to := range []string{"ftp://127.0.0.1/x", "file:///etc/passwd", "javascript:alert(1)", "http://%zz/", "://"} {
		at := served(t, "", func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Location"] = []string{to}
			w.WriteHeader(http.StatusFound)
		})
		var c announce.Client
		_, err := c.List(within(t), at, announce.Request{Key: key(t, "k")})
		if _, ok := errors.AsType[*announce.ReplyError](err); !ok {
			t.Errorf("redirected to %q: %v", to, err)
		}
		c.Close()
	}
}

// A remoteConn is a connection that seems to lead to another address.
type remoteConn struct {
	net.Conn
	remote net.Addr
}

func (c remoteConn) RemoteAddr() net.Addr { return c.remote }

// A tracker cannot make its clients send requests to their own machine or network: the client follows
// no redirect to an address of a narrower scope, also if it has a connection to that address already.
func TestRedirectToNarrowerScope(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		follows  bool
	}{
		{"192.0.2.1:80", "192.0.2.2:80", true},
		{"192.0.2.1:80", "[2001:db8::1]:80", true},
		{"192.0.2.1:80", "127.0.0.1:80", false},
		{"192.0.2.1:80", "[::1]:80", false},
		{"192.0.2.1:80", "[::ffff:127.0.0.1]:80", false},
		{"192.0.2.1:80", "10.0.0.1:80", false},
		{"192.0.2.1:80", "169.254.169.254:80", false},
		{"[2001:db8::1]:80", "[fd00::1]:80", false},
		{"10.0.0.1:80", "127.0.0.1:80", false},
		{"10.0.0.1:80", "10.0.0.2:80", true},
		{"10.0.0.1:80", "192.0.2.1:80", true},
		{"127.0.0.1:80", "10.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", true},
	} {
		var followed atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/other/") {
				followed.Add(1)
			}
			if r.Host == tt.from {
				w.Header().Set("Location", "http://"+tt.to+"/other"+r.URL.Path)
				w.WriteHeader(http.StatusTemporaryRedirect)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}))
		c := announce.Client{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			cn, err := new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
			return remoteConn{cn, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}, err
		}}
		r := announce.Request{Key: key(t, "k"), Port: 4000}
		if err := c.Leave(within(t), named(t, "http://"+tt.to), r); err != nil { // this connection is kept
			t.Error(err)
		}
		err := c.Leave(within(t), named(t, "http://"+tt.from), r)
		_, refused := errors.AsType[*announce.ReplyError](err)
		if refused == tt.follows || !refused && err != nil || (followed.Load() == 1) != tt.follows {
			t.Errorf("from %s to %s: %v, and %d requests", tt.from, tt.to, err, followed.Load())
		}
		c.Close()
		srv.Close()
	}
}

// The client sends the token only to native trackers.
func TestTokenIsNative(t *testing.T) {
	for path, want := range map[string]string{"": "Bearer secret", "/announce": ""} {
		got := "nothing"
		at := served(t, path, func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Get("Authorization")
			_, _ = io.WriteString(w, "d8:intervali60e5:peers0:e")
		})
		c := announce.Client{Token: "secret"}
		if _, err := c.Announce(within(t), at, announce.Request{Key: key(t, "k"), Port: 4000}); err != nil {
			t.Error(err)
		}
		if got != want {
			t.Errorf("%q was sent %q, want %q", path, got, want)
		}
		c.Close()
	}
}

// The reason of a refusal is safe to print: one line without control characters.
func TestReasonIsClean(t *testing.T) {
	for _, reason := range []string{"\x1b[2Jno\r\nX: y\n", "no\x00\xc2\x9b31m", "\u202eno"} {
		at := served(t, "", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, reason)
		})
		var c announce.Client
		_, err := c.List(within(t), at, announce.Request{Key: key(t, "k")})
		if f, ok := errors.AsType[*announce.RefusalError](err); !ok || f.Reason != wire.Clean(f.Reason) || !strings.Contains(f.Reason, "no") || strings.Contains(f.Reason, "X: y") {
			t.Errorf("%q: %+v", reason, err)
		}
		c.Close()
	}
}
