package tracker_test

import (
	"log"
	"net/http"

	"ntrack/tracker"
)

// Any Go server can have a tracker at /ntrk/, next to other handlers.
func ExampleHandler() {
	http.Handle("/ntrk/", tracker.Handler(&tracker.Tracker{}))
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}
