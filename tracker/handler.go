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
	streamTimeout = 10 * time.Second // how long a client may read nothing of a stream
)

// Handler returns an http.Handler for t. Mount it at /ntrk/, /announce, /tracker and /scrape, or
// make it a server's only handler. It reads the request target as it was sent, so http.StripPrefix
// changes nothing. An http.ServeMux redirects /ntrk/a//b before a handler sees it, so there it
// serves only keys without empty segments and dot segments. As a server's only handler it serves
// every key.
//
// Connection limits and timeouts are the server's: set ReadHeaderTimeout, MaxHeaderBytes and
// WriteTimeout, which does not end event streams. The server's Shutdown waits for streams, which do
// not end by themselves: pass [Tracker.EndStreams] to RegisterOnShutdown. If the packets of a
// streaming peer are lost, it leaves when the system ends its connection. On Linux that takes a
// quarter of an hour, unless the server's ConnContext sets TCP_USER_TIMEOUT as package server does.
func Handler(t *Tracker) http.Handler {
	buffers := &sync.Pool{New: func() any { return new([2][]byte) }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil { // a handler around this one may have set it to an address
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
			Origin:    h["Origin"] != nil,
			Page:      h["Referer"] != nil || h["Sec-Purpose"] != nil || h["Purpose"] != nil,
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody)); err != nil {
			panic(http.ErrAbortHandler) // the request is cut short, so it gets no reply
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
			sendStream(w, r, resp.Stream, body) // buf is not reused: it may be large, and streams last
			return
		}
		if resp.Status != http.StatusNoContent {
			set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(resp.Status)
		_, _ = w.Write(body) // net/http drops the body of HEAD and 204
		if cap(target) <= wire.MaxTarget && cap(body) <= maxBuffer {
			buffers.Put(buf)
		}
	})
}

// sendStream sends an event stream until it ends or the client is gone. net/http notices that at
// once. If the client has sent something after its request, it notices at the next heartbeat.
func sendStream(w http.ResponseWriter, r *http.Request, s *Stream, out []byte) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Transfer-Encoding", "identity") // net/http sends no chunks then
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
		} else { // the server's WriteTimeout is for a reply that ends
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
