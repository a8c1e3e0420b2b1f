package tracker

import (
	"context"
	"errors"
	"strconv"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A Response is what a server sends before the body.
type Response struct {
	Status int
	// Type is the Content-Type; empty if there is no body.
	Type string
	// TTL is how long the peer just announced is listed: Expires is Date plus that. 0 if the call
	// was no announce.
	TTL time.Duration
	// Retry is Retry-After; 0 for none.
	Retry time.Duration
	// CORS says that a web page may read the reply.
	CORS bool
	// Close says that the connection must end after this reply.
	Close bool
	// Stream is not nil if the reply is an event stream, which goes on after the body. The reply
	// then has no Content-Length and ends with its connection. The server must call Stream.Close.
	Stream *Stream

	preflight bool
}

// AppendHeader appends, as lines that end in CRLF, every header field except Date, Content-Length and
// Connection, which the server sends itself. date is the time that it sends as Date.
func (r *Response) AppendHeader(dst []byte, date time.Time) []byte {
	if r.Type != "" {
		dst = append(append(append(dst, "Content-Type: "...), r.Type...), "\r\n"...)
	}
	dst = append(dst, "Cache-Control: no-store\r\n"...)
	if r.Stream != nil {
		dst = append(dst, "X-Accel-Buffering: no\r\n"...) // else nginx would delay events
	}
	if r.TTL > 0 {
		dst = appendDate(append(dst, "Expires: "...), date.Add(r.TTL).UTC())
		dst = append(dst, "\r\n"...)
	}
	if r.Retry > 0 {
		dst = strconv.AppendInt(append(dst, "Retry-After: "...), int64((r.Retry+time.Second-1)/time.Second), 10)
		dst = append(dst, "\r\n"...)
	}
	if r.Status == 401 {
		dst = append(dst, "WWW-Authenticate: Bearer\r\n"...)
	}
	if r.CORS {
		dst = append(dst, "Access-Control-Allow-Origin: *\r\n"...)
	}
	if r.preflight {
		dst = append(dst, "Access-Control-Allow-Methods: GET\r\nAccess-Control-Allow-Headers: Authorization\r\nAccess-Control-Max-Age: 86400\r\n"...)
	}
	return dst
}

// appendDate appends t, which is in UTC, as HTTP writes dates. time.Format with http.TimeFormat would
// take longer than all the rest of a header.
func appendDate(dst []byte, t time.Time) []byte {
	const days, months = "SunMonTueWedThuFriSat", "JanFebMarAprMayJunJulAugSepOctNovDec"
	two := func(n int) (tens, ones byte) { return '0' + byte(n/10), '0' + byte(n%10) }
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	w, m := 3*t.Weekday(), 3*month-3
	d1, d2 := two(day)
	c1, c2 := two(year / 100)
	y1, y2 := two(year % 100)
	h1, h2 := two(hour)
	m1, m2 := two(minute)
	s1, s2 := two(second)
	return append(dst, days[w], days[w+1], days[w+2], ',', ' ', d1, d2, ' ', months[m], months[m+1], months[m+2], ' ',
		c1, c2, y1, y2, ' ', h1, h2, ':', m1, m2, ':', s1, s2, ' ', 'G', 'M', 'T')
}

// replyFormat returns the format of a reply: that of the classic interface, or the one that the
// request names, or the one that Accept names, or else the given one.
func replyFormat(r *wire.Request, a *accepted, otherwise wire.Format) wire.Format {
	switch {
	case r.Classic:
		return wire.FormatBencode
	case r.Format != wire.FormatUnnamed:
		return r.Format
	case a.format != wire.FormatUnnamed:
		return a.format
	}
	return otherwise
}

func contentType(r *wire.Request, f wire.Format) string {
	switch {
	case r.Classic:
		return "text/plain"
	case f == wire.FormatJSON:
		return "application/json"
	case f == wire.FormatText:
		return "text/plain; charset=utf-8"
	}
	return "application/x-bencode"
}

// appendRefusal appends the reply to a request that ended with err.
func (t *Tracker) appendRefusal(c *Call, req *wire.Request, err error, dst []byte) (Response, []byte) {
	var f *wire.RefusalError
	var full *store.FullError
	switch {
	case errors.As(err, &f):
	case errors.As(err, &full):
		f = &wire.RefusalError{Status: 503, Reason: full.Error(), Retry: t.refusalInterval()}
		if full.Stream {
			f.Retry = 0 // a plain request may follow at once
		}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f = &wire.RefusalError{Status: 503, Reason: "the store did not answer in time", Retry: t.refusalInterval()}
	default:
		// The text of err is for the operator, not for a client.
		f = &wire.RefusalError{Status: 500, Reason: "the tracker has an error of its own"}
	}
	format := replyFormat(req, c.parseAccept(), wire.FormatText)
	resp := Response{Status: f.Status, Type: contentType(req, format), Retry: f.Retry, CORS: c.Origin, Close: len(c.Target) > wire.MaxTarget}
	if req.Classic {
		resp.Status, resp.Retry = 200, 0
	}
	return resp, f.Append(dst, format, t.refusalInterval())
}
