package certs

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// An authority cannot fill the log or the memory: causes are short, and the last three are kept.
func TestCausesAreBounded(t *testing.T) {
	c := new(causes)
	c.add("authority", strings.Repeat("x", 1000))
	if got := c.explain(nil); len(got) != maxCause || !strings.HasPrefix(got, "authority: xxx") {
		t.Errorf("%d bytes: %.40q", len(got), got)
	}
	for _, i := range []int{1, 2, 2, 3, 4, 4} {
		c.add("", fmt.Sprint("cause ", i))
	}
	if got := c.explain(errors.New("the error")); got != "cause 2; cause 3; cause 4" {
		t.Errorf("causes: %q", got)
	}
	c.reset()
	if got := c.explain(errors.New("the error")); got != "the error" {
		t.Errorf("without a cause: %q", got)
	}
}

// Of a reply of an authority a megabyte is read.
func TestRepliesOfAuthorityAreBounded(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 3 << 4 {
			_, _ = w.Write(make([]byte, 1<<16))
		}
	}))
	defer srv.Close()
	resp, err := (&http.Client{Transport: new(causes)}).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 1<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
