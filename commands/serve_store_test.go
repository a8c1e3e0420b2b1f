package commands

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// serve ends if the database does not answer in time.
func TestStoreWaits(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	var o serveOptions
	o.store.config.URL, o.store.from, o.store.wait = "valkey://"+l.Addr().String(), "--store", 20*time.Millisecond
	var out bytes.Buffer
	err = o.openStore(t.Context(), Streams{Err: &out})
	code, _ := exitCodeOf(err)
	if err == nil || code != 1 || !strings.Contains(err.Error(), "connection refused") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v after\n%s", err, &out)
	}
}
