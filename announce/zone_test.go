package announce_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// loopback returns the name of the loopback interface. It can be the zone of ::1.
func loopback(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			return i.Name
		}
	}
	t.Fatal("no loopback interface")
	return ""
}

// listen6 starts an HTTP server at ::1.
func listen6(t *testing.T, secure bool, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	srv := httptest.NewUnstartedServer(h)
	_ = srv.Listener.Close()
	srv.Listener = l
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// A client uses a zone only to connect. It sends the zone neither in the Host header nor as the
// name for TLS. The tracker's text has the zone as the user wrote it.
func TestZoneIsNotSent(t *testing.T) {
	lo, h := loopback(t), tracker.Handler(&tracker.Tracker{Index: true})
	for _, secure := range []bool{false, true} {
		var mu sync.Mutex
		var hosts, names []string
		srv := listen6(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			hosts = append(hosts, r.Host)
			if r.TLS != nil {
				names = append(names, r.TLS.ServerName)
			}
			mu.Unlock()
			h.ServeHTTP(w, r)
		}))
		_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
		scheme, c := "http", announce.Client{}
		if secure {
			scheme = "https"
			roots := x509.NewCertPool()
			roots.AddCert(srv.Certificate()) // for ::1
			c.TLS = &tls.Config{RootCAs: roots}
		}
		t.Cleanup(c.Close)
		for _, name := range []string{"[::1%" + lo + "]:" + port, "[::1%25" + lo + "]:" + port} {
			for _, path := range []string{"", "/announce"} {
				at, k := named(t, scheme+"://"+name+path), key(t, "k")
				if at.HostPort() != "[::1%"+lo+"]:"+port {
					t.Errorf("%s is shown as %s", name, at.HostPort())
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r := announce.Request{Key: k, Port: 4000}
				if reply, err := c.Announce(ctx, at, r); err != nil || reply.You.String() != "[::1]:4000" {
					t.Fatalf("announce to %s: %+v, %v", at, reply, err)
				}
				if reply, err := c.List(ctx, at, announce.Request{Key: k}); err != nil || endpoints(reply) != "[::1]:4000" {
					t.Errorf("list %s: %+v, %v", at, reply, err)
				}
				if _, err := c.Index(ctx, at); err != nil {
					t.Errorf("index of %s: %v", at, err)
				}
				for ev, err := range c.Watch(ctx, []announce.Tracker{at}, r) {
					if err != nil || len(ev.You) != 1 || ev.You[0].String() != "[::1]:4000" || len(ev.Peers) != 0 {
						t.Errorf("watch %s: %+v, %v", at, ev, err)
					}
					break
				}
				if err := c.Leave(ctx, at, r); err != nil {
					t.Errorf("leave %s: %v", at, err)
				}
			}
		}
		mu.Lock()
		if len(hosts) == 0 || strings.Contains(strings.Join(append(hosts, names...), " "), "%") || strings.Join(names, "") != "" {
			t.Errorf("over %s: sent the hosts %q, the names %q", scheme, hosts, names)
		}
		mu.Unlock()
	}
}

// From may be an address with a zone.
func TestZoneFrom(t *testing.T) {
	srv := listen6(t, false, tracker.Handler(&tracker.Tracker{}))
	c := announce.Client{From: netip.MustParseAddrPort("[::1%" + loopback(t) + "]:0")}
	t.Cleanup(c.Close)
	reply, err := c.Announce(t.Context(), named(t, srv.URL), announce.Request{Key: key(t, "k"), Port: 4000})
	if err != nil || reply.You.String() != "[::1]:4000" {
		t.Errorf("%+v, %v", reply, err)
	}
}

// An error says what is wrong with a zone.
func TestZoneErrors(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this machine has no IPv6: ", err)
	} else {
		_ = l.Close()
	}
	for name, says := range map[string]string{
		"[fe80::1%nowhere0]:7000": `no network interface "nowhere0"`,
		"[fe80::1]:7000":          "needs the interface",
	} {
		var c announce.Client
		_, err := c.List(t.Context(), named(t, name), announce.Request{Key: key(t, "k")})
		if _, ok := errors.AsType[*announce.UnreachableError](err); !ok || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	c := announce.Client{From: netip.MustParseAddrPort("[fe80::1%nowhere0]:4000")}
	defer c.Close()
	if _, err := c.List(t.Context(), named(t, "[::1]:7000"), announce.Request{Key: key(t, "k")}); err == nil || !strings.Contains(err.Error(), `"nowhere0"`) {
		t.Errorf("From with an unknown zone: %v", err)
	}
}

// A client ignores a zone in a redirect, since it is a name on the tracker's machine.
func TestZoneRedirect(t *testing.T) {
	closed := freeEndpoint6(t)
	srv := listen6(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := "http://" + strings.Replace(closed, "]", "%25nowhere0]", 1) + "/ntrk/k"
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	}))
	var c announce.Client
	t.Cleanup(c.Close)
	_, err := c.List(t.Context(), named(t, srv.URL), announce.Request{Key: key(t, "k")})
	if err == nil || !strings.Contains(err.Error(), "redirects to "+closed+": ") {
		t.Errorf("%v; want a redirect to %s", err, closed)
	}
}

// freeEndpoint6 returns a port of ::1 on which nothing listens.
func freeEndpoint6(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	defer l.Close()
	return l.Addr().String()
}
