package announce_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
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
