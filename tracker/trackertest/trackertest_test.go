package trackertest_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Two peers meet at a tracker that runs in this process.
func Example() {
	local := trackertest.New()
	defer local.Close()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		log.Fatal(err)
	}
	var client announce.Client
	defer client.Close()
	for _, port := range []uint16{4000, 4001} {
		reply, err := client.Announce(context.Background(), local.Tracker, announce.Request{Key: key, Port: port})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(reply.You, "meets", len(reply.Peers))
	}
	// Output:
	// 127.0.0.1:4000 meets 0
	// 127.0.0.1:4001 meets 1
}

// A restart forgets all peers and ends their streams, but keeps the address. Close ends streams,
// and does not wait for their clients.
func TestRestartAndClose(t *testing.T) {
	local := trackertest.New()
	defer local.Close()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	get := func(query, accept string) io.Reader {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+local.Tracker.HostPort()+"/ntrk/lobby?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp.Body
	}
	expectEnd := func(stream io.Reader) {
		t.Helper()
		if _, err := io.Copy(io.Discard, stream); err != nil {
			t.Error("the stream did not end properly:", err)
		}
	}
	expectPeers := func(want string) {
		t.Helper()
		if peers, err := io.ReadAll(get("port=0", "text/plain")); err != nil || string(peers) != want {
			t.Errorf("the tracker lists %q, %v; want %q", peers, err, want)
		}
	}

	stream := get("port=4000", "text/event-stream")
	expectPeers("127.0.0.1:4000\n")
	local.Restart()
	expectEnd(stream)
	expectPeers("")

	stream = get("port=4000", "text/event-stream")
	local.Close()
	expectEnd(stream)
	local.Close()
}
