package page_test

import (
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/page"
)

// Every file is used, and the page uses nothing but these files: no address elsewhere, and no script or
// style in the page itself, which its Content-Security-Policy would refuse.
func TestFiles(t *testing.T) {
	files := page.Files()
	used := map[string]bool{"index.html": true}
	texts := make(map[string]string)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, name)
		texts[name] = string(text)
		if len(text) > 20<<10 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		return err
	})
	if err != nil || len(texts) < 4 {
		t.Fatalf("%d files, %v", len(texts), err)
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(texts["index.html"], -1) {
		name, ok := strings.CutPrefix(m[1], ".ntrack/")
		if !ok {
			t.Errorf("index.html refers to %q, which is no file of the page", m[1])
		}
		used[name] = true
	}
	for name, text := range texts {
		for _, m := range regexp.MustCompile(`from "\./([^"]+)"`).FindAllStringSubmatch(text, -1) {
			used[m[1]] = true
		}
		if path.Ext(name) == ".svg" {
			text = strings.Replace(text, "http://www.w3.org/2000/svg", "", 1) // a name, not an address
		}
		for _, bad := range []string{`(?i)<style`, `(?i) style=`, `(?i) on[a-z]+="`, `<script[^>]*>[^<]`, `innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function`, `(?i)["'(` + "`" + `](https?:)?//[^$\[]`, `url\(`, `@import`} {
			if found := regexp.MustCompile(bad).FindString(text); found != "" {
				t.Errorf("%s has %q", name, found)
			}
		}
	}
	for name := range used {
		if _, ok := texts[name]; !ok {
			t.Errorf("%s does not exist", name)
		}
	}
	for name := range texts {
		if !used[name] {
			t.Errorf("%s is not used", name)
		}
	}
}

// A proxy may put something in front of the path. The page finds its parts there, too.
func TestBehindPrefix(t *testing.T) {
	backend := httptest.NewServer(tracker.Handler(&tracker.Tracker{Page: page.Files()}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/peers/", http.StripPrefix("/peers", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}))
	proxy := httptest.NewServer(mux)
	defer proxy.Close()
	get := func(address string) (status int, body string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", "text/html")
		reply, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply.StatusCode, string(text)
	}
	for _, at := range []string{"/peers/", "/peers/ntrk/", "/peers/ntrk/k", "/peers/ntrk/a/b%2fc"} {
		base, err := url.Parse(proxy.URL + at)
		if err != nil {
			t.Fatal(err)
		}
		_, html := get(base.String())
		parts := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(html, -1)
		if len(parts) < 3 {
			t.Fatalf("%s has %d parts: %q", at, len(parts), html)
		}
		for _, m := range parts {
			part, err := base.Parse(m[1])
			if err != nil {
				t.Fatal(err)
			}
			if status, _ := get(part.String()); status != 200 || !strings.HasPrefix(part.Path, "/peers/.ntrack/") {
				t.Errorf("%s refers to %s: %s has status %d", at, m[1], part, status)
			}
		}
	}
}
