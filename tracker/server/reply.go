package server

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"ntrack/tracker"
)

// output is what an answer needs, and only for that long: a connection that idles holds none, or
// ten thousand of them would hold the largest replies they ever got.
type output struct {
	out, body []byte
	call      tracker.Call
}

// small says whether o may be kept for whoever is next: few replies need more.
func (o *output) small() bool { return max(cap(o.out), cap(o.body)) <= 2*maxReplies }

// ask makes a call of a request.
func (o *output) ask(h *head, remote netip.AddrPort) {
	o.call = tracker.Call{
		Method: h.method, Target: h.target, Remote: remote,
		Accept: h.accept, Authorization: h.authorization, ForwardedFor: h.forwardedFor, FetchMode: h.fetchMode,
		Origin: h.origin, Page: h.page,
	}
}

// answer has the tracker decide o.call and appends the reply to o.out. It returns whether the
// connection goes on to another request, or else what may follow the reply.
func (s *Server) answer(o *output, h *head, now time.Time, close bool) (more bool, stream *tracker.Stream) {
	var resp tracker.Response
	resp, o.body = s.Tracker.Answer(context.Background(), &o.call, o.body[:0])
	close = close || resp.Close || s.ending.Load() || resp.Stream != nil
	s.reply(o, &resp, h, now, close)
	return !close, resp.Stream
}

// reply appends a reply whose body is in o.body to o.out.
func (s *Server) reply(o *output, resp *tracker.Response, h *head, now time.Time, close bool) {
	out := append(o.out, "HTTP/1.1 "...)
	out = append(out, status(resp.Status)...)
	out = s.appendDate(append(out, "\r\nDate: "...), now)
	out = resp.AppendHeader(append(out, "\r\n"...), now)
	if resp.Status != 204 && resp.Stream == nil {
		out = append(out, "Content-Length: "...)
		out = append(strconv.AppendInt(out, int64(len(o.body)), 10), "\r\n"...)
	}
	switch {
	case close:
		out = append(out, "Connection: close\r\n"...)
	case h.minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if h.method != "HEAD" {
		out = append(out, o.body...)
	}
	o.out = out
}

// status is the status line from the code on.
func status(code int) string {
	switch code {
	case 200:
		return "200 OK"
	case 204:
		return "204 No Content"
	case 400:
		return "400 Bad Request"
	case 401:
		return "401 Unauthorized"
	case 404:
		return "404 Not Found"
	case 503:
		return "503 Service Unavailable"
	}
	return "500 Internal Server Error"
}

// stamp is a second and its text.
type stamp struct {
	unix int64
	text string
}

// appendDate appends the Date of now, which is worked out once a second.
func (s *Server) appendDate(dst []byte, now time.Time) []byte {
	d := s.date.Load()
	if d == nil || d.unix != now.Unix() {
		d = &stamp{now.Unix(), now.UTC().Format(http.TimeFormat)}
		s.date.Store(d)
	}
	return append(dst, d.text...)
}
