package certs

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A certificate that cannot be kept, as on a full disk, is used, and the log says that it is not kept.
func TestCacheFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	a, err := NewAuthority([]string{"t.example"}, dir, "none://authority")
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	h := a.hosts["t.example"]
	h.log.Store(slog.New(slog.NewTextHandler(&logged, nil)))
	if err := h.cache.Put(t.Context(), "t.example", nil); err != nil || logged.Len() > 0 {
		t.Errorf("%v, logged %s", err, &logged)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no directory any more
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"t.example":        "level=WARN msg=\"--acme t.example: the certificate is not in --acme-cache: ",
		"acme_account+key": "", // the order fails, and its message has the error
		"t.example+token":  "", // a challenge is not written
		"abc+http-01":      "",
	} {
		logged.Reset()
		if err := h.cache.Put(t.Context(), key, nil); (err == nil) != isChallenge(key) {
			t.Errorf("%s: %v", key, err)
		}
		if got := logged.String(); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: logged %q, want %q", key, got, want)
		}
	}
}
