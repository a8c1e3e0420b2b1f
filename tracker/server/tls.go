package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// plainOverTLS is the reply to a client that speaks HTTP without TLS where the server expects TLS.
const plainOverTLS = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Cache-Control: no-store\r\nContent-Length: 33\r\nConnection: close\r\n\r\n" +
	"this port speaks https, not http\n"

// refusePlain replies to a client that speaks HTTP without TLS. err is that of the handshake.
func (c *conn) refusePlain(err error) {
	bad, ok := errors.AsType[tls.RecordHeaderError](err)
	if !ok || bad.Conn == nil || !looksLikeHTTP(bad.RecordHeader) {
		return
	}
	_ = bad.Conn.SetWriteDeadline(time.Now().Add(c.s.Timeout))
	if _, err := io.WriteString(bad.Conn, plainOverTLS); err == nil {
		(&conn{nc: bad.Conn}).linger()
	}
}

// looksLikeHTTP says whether a request of HTTP begins with b.
func looksLikeHTTP(b [5]byte) bool {
	for _, method := range [...]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodOptions, http.MethodPut} {
		if strings.HasPrefix(method+" /", string(b[:])) {
			return true
		}
	}
	return false
}

// isChallenge says whether Challenge answers b.call. If so, b.body is the reply.
func (s *Server) isChallenge(b *buffers) bool {
	if b.call.Method != http.MethodGet {
		return false
	}
	body := s.Challenge(b.call.Target)
	if body == nil {
		return false
	}
	b.body = append(b.body[:0], body...)
	return true
}
