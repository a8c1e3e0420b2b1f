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

// maxPostBody is how much of a POST's body is read before it is ignored.
const maxPostBody = 64 << 10

// maxBuffer is up to what size a buffer is kept for the next reply.
const maxBuffer = 64 << 10

// takeTimeout is how long a client may take to take what a stream sends.
const takeTimeout = 10 * time.Second

// Handler is the net/http door of t. Mount it at /ntrk/, /announce, /tracker and /scrape, or make
// it a server's only handler. It reads the request target as it was sent, so http.StripPrefix
// changes nothing. Mounted on an http.ServeMux it serves every key without empty or dot segments:
// the mux redirects /ntrk/a//b before a handler sees it. As a server's only handler it serves
// every key.
//
// Connection limits and timeouts are the server's: set ReadHeaderTimeout, MaxHeaderBytes and
// WriteTimeout, which does not end event streams. The server's Shutdown waits for these, and they
// do not end by themselves: have it call [Tracker.EndStreams], by RegisterOnShutdown. A streaming peer whose packets are lost is gone when
// the system gives its connection up, which takes Linux a quarter of an hour unless the server's
// ConnContext sets TCP_USER_TIMEOUT; package door does.
func Handler(t *Tracker) http.Handler {
	buffers := &sync.Pool{New: func() any { return new([2][]byte) }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil { // what wraps a handler may leave an address there
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
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxPostBody)); err != nil {
			panic(http.ErrAbortHandler) // cut short: not a request, so no reply
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
			pump(w, r, resp.Stream, body) // and buf is garbage: it may be large, and streams last
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

// pump sends an event stream until it ends or the client is gone. net/http sees that at once,
// unless the client has sent something after its request: then it is seen at the next heartbeat.
func pump(w http.ResponseWriter, r *http.Request, s *Stream, out []byte) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Transfer-Encoding", "identity") // in words of net/http: no chunks
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
		} else { // a server's ReadTimeout does not matter here, and its WriteTimeout is for a reply
			_ = conn.SetWriteDeadline(time.Now().Add(takeTimeout))
			if _, err := w.Write(out); err != nil || conn.Flush() != nil || !live {
				return
			}
		}
		out, live = s.Next(nil, wake)
	}
}

func joined(h http.Header, name string) []byte {
	v := h[name]
	if len(v) == 0 {
		return nil
	}
	return []byte(strings.Join(v, ","))
}
