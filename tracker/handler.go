package tracker

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"ntrack/announce/wire"
)

const (
	maxBody       = 64 << 10         // bytes of a request's body that are read and ignored
	maxBuffer     = 64 << 10         // bytes of a buffer that is kept for another reply
	streamTimeout = 10 * time.Second // how long a client may stop reading a stream
)

// Handler returns an http.Handler for t. Mount it at /ntrk/, /announce, /tracker and /scrape, or
// make it a server's only handler. It reads the request target as the client sent it, so
// http.StripPrefix has no effect. An http.ServeMux redirects paths such as /ntrk/a//b and
// /ntrk/a/../b. So behind a ServeMux the handler does not serve keys with empty segments or dot
// segments.
//
// The server has to limit connections and times: set its ReadHeaderTimeout, MaxHeaderBytes and
// WriteTimeout. WriteTimeout does not end event streams, because the handler replaces it there.
// Shutdown of the server waits for event streams: pass [Tracker.EndStreams] to RegisterOnShutdown.
//
// If a streaming peer becomes unreachable, it stays listed until the system gives up the connection.
// On Linux that takes a quarter of an hour, unless the server's ConnContext sets TCP_USER_TIMEOUT,
// as package server does.
func Handler(t *Tracker) http.Handler {
	type buffers struct{ target, body []byte }
	pool := &sync.Pool{New: func() any { return new(buffers) }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil { // a handler around this one may have set RemoteAddr to an address without a port
			a, _ := netip.ParseAddr(r.RemoteAddr)
			remote = netip.AddrPortFrom(a, 0)
		}
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		buf := pool.Get().(*buffers)
		target := append(buf.target[:0], r.RequestURI...)
		h := r.Header
		call := Call{
			Method: r.Method, Target: target, Remote: remote,
			Unix:   !remote.Addr().IsValid() && local != nil && local.Network() == "unix",
			Accept: joined(h, "Accept"), Authorization: joined(h, "Authorization"), ForwardedFor: joined(h, "X-Forwarded-For"),
			FetchMode:       joined(h, "Sec-Fetch-Mode"),
			HasOrigin:       h["Origin"] != nil,
			HasBrowserField: h["Referer"] != nil || h["Sec-Purpose"] != nil || h["Purpose"] != nil,
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody)); err != nil {
			panic(http.ErrAbortHandler) // an incomplete request gets no reply
		}
		resp, body := t.Answer(r.Context(), &call, buf.body[:0])
		buf.target, buf.body = target, body
		date := time.Now()
		set := w.Header().Set
		set("Date", date.UTC().Format(http.TimeFormat))
		for line := range strings.Lines(string(resp.AppendHeader(nil, date))) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
			set(name, value)
		}
		if resp.Close || resp.Stream != nil && r.ProtoMajor == 1 {
			set("Connection", "close")
		}
		if resp.Stream != nil {
			defer resp.Stream.Close()
			sendStream(w, r, resp.Stream, body)
			return // buf is not put back: after a stream, which may last for hours, that saves nothing
		}
		if resp.Status != http.StatusNoContent {
			set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(resp.Status)
		_, _ = w.Write(body) // net/http omits the body if the method is HEAD or the status 204
		if cap(target) <= wire.MaxTarget && cap(body) <= maxBuffer {
			pool.Put(buf)
		}
	})
}

// sendStream sends an event stream until it ends or the client is gone. net/http notices at
// once that the client is gone. But if the client sent more bytes after its request, net/http
// notices only when the write of a heartbeat fails (see [Stream]).
func sendStream(w http.ResponseWriter, r *http.Request, s *Stream, out []byte) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Transfer-Encoding", "identity") // so that net/http sends no chunks
	}
	conn := http.NewResponseController(w)
	woken := make(wakeups, 1)
	s.KeepAlive()
	for live := true; ; out, live = s.Append(nil, woken) {
		if len(out) > 0 || !live {
			// This deadline replaces the server's WriteTimeout, which would end the stream.
			_ = conn.SetWriteDeadline(time.Now().Add(streamTimeout))
			if _, err := w.Write(out); err != nil || conn.Flush() != nil || !live {
				return
			}
			continue
		}
		select {
		case <-woken:
		case <-r.Context().Done():
			return
		}
	}
}

// A wakeups is a channel with room for one wake-up.
type wakeups chan struct{}

// Wake never blocks, because the stream calls it at most once for each Append.
func (w wakeups) Wake() { w <- struct{}{} }

// joined returns the values of a header field, without empty ones, joined with commas.
func joined(h http.Header, name string) (b []byte) {
	for _, v := range h[name] {
		if v != "" && len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, v...)
	}
	return b
}
