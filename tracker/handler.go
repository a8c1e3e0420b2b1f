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
// WriteTimeout, which does not end event streams. Its Shutdown waits for event streams: pass
// [Tracker.EndStreams] to RegisterOnShutdown. If the packets of a streaming peer are lost, the peer
// leaves when the system ends its connection. On Linux that takes a quarter of an hour, unless the
// server's ConnContext sets TCP_USER_TIMEOUT, as package server does.
func Handler(t *Tracker) http.Handler {
	buffers := &sync.Pool{New: func() any { return new([2][]byte) }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil { // a handler around this one may have set RemoteAddr to an address without a port
			a, _ := netip.ParseAddr(r.RemoteAddr)
			remote = netip.AddrPortFrom(a, 0)
		}
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		buf := buffers.Get().(*[2][]byte)
		target := append(buf[0][:0], r.RequestURI...)
		h := r.Header
		call := Call{
			Method: r.Method, Target: target, Remote: remote,
			Unix:   !remote.Addr().IsValid() && local != nil && local.Network() == "unix",
			Accept: joined(h, "Accept"), Authorization: joined(h, "Authorization"), ForwardedFor: joined(h, "X-Forwarded-For"),
			FetchMode: joined(h, "Sec-Fetch-Mode"),
			HasOrigin: h["Origin"] != nil,
			FromPage:  h["Referer"] != nil || h["Sec-Purpose"] != nil || h["Purpose"] != nil,
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody)); err != nil {
			panic(http.ErrAbortHandler) // an incomplete request gets no reply
		}
		resp, body := t.Answer(r.Context(), &call, buf[1][:0])
		buf[0], buf[1] = target, body
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
			sendStream(w, r, resp.Stream, body) // buf is not put back: a stream is long, and buf may be large
			return
		}
		if resp.Status != http.StatusNoContent {
			set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(resp.Status)
		_, _ = w.Write(body) // net/http omits the body if the method is HEAD or the status 204
		if cap(target) <= wire.MaxTarget && cap(body) <= maxBuffer {
			buffers.Put(buf)
		}
	})
}

// sendStream sends an event stream until it ends or the client is gone. net/http notices a gone
// client at once. Only if the client has sent something after its request, it takes until the next
// heartbeat.
func sendStream(w http.ResponseWriter, r *http.Request, s *Stream, out []byte) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Transfer-Encoding", "identity") // so that net/http sends no chunks
	}
	conn := http.NewResponseController(w)
	woken := make(chan struct{}, 1)
	wake := func() { woken <- struct{}{} }
	for live := true; ; {
		if len(out) == 0 && live {
			select {
			case <-woken:
			case <-r.Context().Done():
				return
			}
		} else { // this deadline replaces the server's WriteTimeout, which would end the stream
			_ = conn.SetWriteDeadline(time.Now().Add(streamTimeout))
			if _, err := w.Write(out); err != nil || conn.Flush() != nil || !live {
				return
			}
		}
		out, live = s.Append(nil, wake)
	}
}

// joined returns the values of a header field, joined with commas.
func joined(h http.Header, name string) []byte {
	v := h[name]
	if len(v) == 0 {
		return nil
	}
	return []byte(strings.Join(v, ","))
}
