package tracker

import (
	"bytes"
	"context"
	"io/fs"
	"path"
	"strings"

	"ntrack/announce/wire"
)

// pageParts is the path of the files in Tracker.Page. No key is there.
const pageParts = "/.ntrack/"

// pageHeader are the header fields of these files. They keep out everything that is not in them, and
// other sites that want to show the page in a frame. Referrer-Policy keeps keys from other sites, but
// lets requests of the page have a Referer, so that they can only look.
const pageHeader = "Content-Security-Policy: default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'\r\n" +
	"Cross-Origin-Resource-Policy: same-origin\r\n" +
	"Referrer-Policy: same-origin\r\n" +
	"X-Content-Type-Options: nosniff\r\n"

// answerPage returns the reply to a call that gets a file of Page. ok is false for any other call, which
// is not changed.
func (t *Tracker) answerPage(ctx context.Context, c *Call, dst []byte) (resp Response, body []byte, ok bool) {
	name, up := c.pageFile()
	if name == "" {
		return resp, dst, false
	}
	client, err := t.clientOf(c)
	if err != nil || t.PageLocal && (!client.Addr().IsLoopback() || len(c.ForwardedFor) > 0 && !c.Unix && !t.isProxy(wire.Canonical(c.Remote).Addr())) {
		return resp, dst, false
	}
	text, err := fs.ReadFile(t.Page, name)
	if err != nil {
		return resp, dst, false
	}
	s := t.scratch.Get().(*scratch)
	defer t.recycle(s)
	s.kind, s.req = kindPage, wire.Request{Verb: wire.VerbLook, Keys: s.req.Keys[:0]}
	err = t.checkRate(ctx, client.Addr(), &s.req, lookRate, 1, t.meter.now())
	t.count(s, err)
	if err != nil {
		resp, body = t.appendRefusal(c, &s.req, err, dst)
		return resp, body, true
	}
	if up != "" {
		text = bytes.ReplaceAll(text, []byte(`".ntrack/`), []byte(`"`+up+`.ntrack/`))
	}
	return Response{Status: 200, Type: pageType(name), page: true}, append(dst, text...), true
}

// pageFile returns the name of the file in Page that c asks for, or "". If it is the page itself, up is
// the way from there to the root of the tracker. So the page needs no absolute path, and works behind a
// proxy that adds something in front of the path.
func (c *Call) pageFile() (name, up string) {
	target, query, _ := bytes.Cut(c.Target, []byte("?"))
	part, isPart := bytes.CutPrefix(target, []byte(pageParts))
	switch {
	case c.Method != "GET" && c.Method != "HEAD" || len(c.Target) > wire.MaxTarget:
		return "", ""
	case isPart && string(part) != "index.html" && fs.ValidPath(string(part)):
		return string(part), ""
	case !c.navigates() || bytes.HasPrefix(query, []byte("format=")) || bytes.Contains(query, []byte("&format=")):
		return "", ""
	case string(target) == "/", bytes.HasPrefix(target, []byte("/ntrk/")):
		return "index.html", strings.Repeat("../", bytes.Count(target, []byte("/"))-1)
	}
	return "", ""
}

// navigates reports whether a browser sent c because a person wants to see this address. Browsers send
// Sec-Fetch-Mode only over https and to their own machine.
func (c *Call) navigates() bool {
	return c.parseAccept().page && !c.HasOrigin && (len(c.FetchMode) == 0 || equalFold(c.FetchMode, "navigate"))
}

func pageType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return "application/octet-stream"
}
