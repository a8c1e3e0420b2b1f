package tracker_test

import (
	"net"
	"net/http"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/server/servertest"
)

// A Handler passes the published conformance scenarios.
func TestVectors(t *testing.T) {
	servertest.Vectors(t, "../testdata/vectors/tracker", func(l net.Listener, tr *tracker.Tracker) {
		server := &http.Server{
			Handler: tracker.Handler(tr),
			// Otherwise net/http itself answers OPTIONS *, without the CORS headers.
			DisableGeneralOptionsHandler: true,
		}
		server.Serve(l)
	})
}
