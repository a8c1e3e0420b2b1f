package tracker_test

import (
	"net"
	"net/http"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/doortest"
)

// The published conformance scenarios, through the net/http door.
func TestVectors(t *testing.T) {
	doortest.Vectors(t, "../testdata/vectors/tracker", func(l net.Listener, tr *tracker.Tracker) {
		server := &http.Server{
			Handler: tracker.Handler(tr),
			// Else net/http itself answers OPTIONS *, without the CORS headers.
			DisableGeneralOptionsHandler: true,
		}
		server.Serve(l)
	})
}
