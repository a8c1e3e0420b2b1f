// Package admin shows the operator of a tracker how it is: metrics, health, and profiles of the
// process. It is an HTTP server of its own, for an address that only operators reach. Nothing that
// it shows has a key or the address of a peer.
//
//	/metrics      for Prometheus
//	/healthz      200 while the process answers
//	/readyz       200 while the tracker serves, 503 once it is about to end or its shared table is away
//	/debug/pprof  profiles, for clients on this machine alone
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ntrack/tracker/server"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store/valkey"
)

const (
	// maxConns is how many connections may be open. Prometheus needs one.
	maxConns   = 64
	maxScrapes = 4
	// writeTime is how long a reply may take. A profile adds its own time.
	writeTime = 30 * time.Second
)

// A Server serves the operator. The zero Server works, and is always ready. Do not copy a Server, and
// do not change its fields once it serves.
type Server struct {
	// Server is the tracker whose metrics are shown. nil shows those of the process alone.
	Server *server.Server
	// Store returns the numbers of the tracker's store in a database. nil means that the tracker has its
	// table in memory.
	Store func() valkey.Stats
	// DNS returns the numbers of the server of names. nil means that there is none.
	DNS func() dns.Stats
	// Ready returns nil while the tracker is ready for clients, or else the reason why not. It may be
	// called at any time. nil means always ready.
	Ready func() error
	// Log gets an error for each panic. nil logs nothing.
	Log *slog.Logger

	once sync.Once
	http http.Server
}

func (s *Server) init() {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	s.http = http.Server{
		Handler:           s.recovering(s.handler()),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      writeTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		// net/http writes the addresses of clients, which belong into no usual log.
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
}

// Serve accepts connections from l until an accept fails or Close is called. Then it closes l and
// returns the error, or [http.ErrServerClosed].
func (s *Server) Serve(l net.Listener) error {
	s.once.Do(s.init)
	return s.http.Serve(&limitedListener{Listener: l})
}

// Close ends the server, all of its connections included.
func (s *Server) Close() error {
	s.once.Do(s.init)
	return s.http.Close()
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.Ready != nil {
			if err := s.Ready(); err != nil {
				answer(w, http.StatusServiceUnavailable, err.Error())
				return
			}
		}
		answer(w, http.StatusOK, "ok")
	})
	ready := func() bool { return s.Ready == nil || s.Ready() == nil }
	mux.Handle("GET /metrics", promhttp.HandlerFor(newRegistry(s, ready), promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		ErrorLog:            slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}))
	for path, profile := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		mux.Handle("GET "+path, localOnly(profile))
	}
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text)
}

// localOnly lets only clients on this machine use h. A profile takes CPU time, and shows what the
// process is doing. So a proxy on this machine is refused if it says that it serves another client.
// A web page is refused too: a browser names the page's site, or a host that is not this machine.
func localOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header
		site := header.Get("Sec-Fetch-Site")
		switch {
		case !isLocal(r), header.Get("X-Forwarded-For") != "", header.Get("Forwarded") != "":
			answer(w, http.StatusForbidden, "profiles are for clients on the tracker's machine: connect to a loopback address there")
		case !isLocalHost(r.Host), site != "" && site != "none" && site != "same-origin":
			answer(w, http.StatusForbidden, "profiles are not for other web pages: use localhost or an IP address in the URL")
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// isLocal says whether the other end of the connection is on this machine: it has a loopback address,
// or the connection came by a Unix socket.
func isLocal(r *http.Request) bool {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return true
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && remote.Addr().Unmap().IsLoopback()
}

// isLocalHost says whether the field Host has an IP address or localhost. Any other name may be that
// of a web page whose owner lets the name stand for this machine (DNS rebinding).
func isLocalHost(field string) bool {
	host, _, err := net.SplitHostPort(field)
	if err != nil {
		host = strings.Trim(field, "[]")
	}
	_, err = netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

// recovering logs a panic of h without the address of the client, which net/http would log.
func (s *Server) recovering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
					s.Log.LogAttrs(context.Background(), slog.LevelError, "panic while serving the operator",
						slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
				}
				panic(http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// A limitedListener closes a new connection if maxConns are open. So clients of a public address
// cannot take the files that the tracker needs for its own connections.
type limitedListener struct {
	net.Listener
	open atomic.Int32
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if server.AcceptsLater(err) {
			return nil, passing{err}
		}
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= maxConns {
			return &limitedConn{Conn: c, release: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		_ = c.Close()
	}
}

// A passing error makes net/http accept again after a pause. By itself it ends the server for some
// errors that pass, and the tracker would end with it.
type passing struct{ error }

func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }

// A limitedConn counts as open until it is closed.
type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
