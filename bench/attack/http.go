//go:build linux

package main

import (
	"bytes"
	"strconv"
)

// A replyReader finds the replies in the bytes of a connection.
type replyReader struct {
	head []byte // of a reply, as far as it has come
	body int    // how many bytes of the body are still to come
	open bool   // the body has no end, as that of a stream
	code int    // the status
	text []byte // how the body begins, as long as failure at most
}

// failure is how a failure of the classic interface begins.
const failure = "d14:failure reason"

// read takes the next bytes of a connection. It calls each for every complete reply. It calls stream
// with the bytes after the head of a reply that has no end. If each returns false, it returns at once.
func (r *replyReader) read(b []byte, each func(status int, failed bool) bool, stream func(b []byte)) {
	for len(b) > 0 {
		if r.open {
			stream(b)
			return
		}
		if r.body > 0 {
			n := min(r.body, len(b))
			r.text = append(r.text, b[:min(n, len(failure)-len(r.text))]...)
			b, r.body = b[n:], r.body-n
			if r.body == 0 && !each(r.code, string(r.text) == failure) {
				return
			}
			continue
		}
		known := len(r.head)
		r.head = append(r.head, b...)
		end := bytes.Index(r.head, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		head := r.head[:end+2]
		b = b[end+4-known:]
		r.code = 0
		if len(head) > 12 {
			r.code, _ = strconv.Atoi(string(head[9:12]))
		}
		r.body, r.open, r.text = 0, false, r.text[:0]
		if _, length, ok := bytes.Cut(head, []byte("\r\nContent-Length: ")); ok {
			length, _, _ = bytes.Cut(length, []byte("\r\n"))
			r.body, _ = strconv.Atoi(string(length))
		} else {
			r.open = r.code != 204
		}
		r.head = r.head[:0]
		if r.body == 0 && !r.open && !each(r.code, string(r.text) == failure) {
			return
		}
	}
}
