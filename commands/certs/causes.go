package certs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// causes carries requests to an authority, and keeps what the authority says about failures. The
// errors of autocert do not have that: if a challenge fails, it only says that there is no other one.
type causes struct {
	ctx  atomic.Pointer[context.Context] // requests end with it
	mu   sync.Mutex
	list []string
}

// maxCause is the most bytes of a cause that are kept.
const maxCause = 300

// A problem is an error of an authority (RFC 7807).
type problem struct {
	Type, Detail string
}

func (c *causes) RoundTrip(r *http.Request) (*http.Response, error) {
	if end := c.ctx.Load(); end != nil {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel() // the body has been read by then
		defer context.AfterFunc(*end, cancel)()
		r = r.WithContext(ctx)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		c.add("", err.Error())
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	if err != nil {
		c.add("", err.Error())
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	c.note(resp.StatusCode, body)
	return resp, nil
}

// note keeps the problems in the body of a reply.
func (c *causes) note(status int, body []byte) {
	var reply struct {
		problem
		Status     any // of an authorization; a problem has a number there
		Challenges []struct {
			Type  string
			Error *problem
		}
	}
	_ = json.Unmarshal(body, &reply) // not every reply is JSON
	switch {
	case status >= 400 && strings.HasSuffix(reply.Type, ":badNonce"): // the client tries again
	case status >= 400:
		c.add("the authority", cmp.Or(reply.Detail, http.StatusText(status)))
	case reply.Status == "invalid":
		for _, challenge := range reply.Challenges {
			if challenge.Error != nil {
				c.add(challenge.Type, challenge.Error.Detail)
			}
		}
	}
}

func (c *causes) add(who, text string) {
	if who != "" {
		text = who + ": " + text
	}
	text = text[:min(len(text), maxCause)]
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.list, text) {
		c.list = append(c.list, text)
		c.list = c.list[max(0, len(c.list)-3):]
	}
}

func (c *causes) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = nil
}

// explain returns the causes, or else the error.
func (c *causes) explain(err error) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) == 0 && err != nil {
		return err.Error()
	}
	return strings.Join(c.list, "; ")
}
