package admin_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/server/admin"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
	"ntrack/tracker/store/valkey"
)

// serveTracker serves a tracker and its metrics, and returns both addresses.
func serveTracker(t *testing.T) (trackerAt, adminAt string) {
	table := memory.New()
	table.Limits = store.Limits{MaxBytes: 1 << 20, MaxPerAddr: 3}
	srv := &server.Server{Tracker: &tracker.Tracker{Store: table}, MaxConns: 50, MaxConnsPerAddr: -1}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	at := serve(t, &admin.Server{Server: srv})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = srv.Shutdown(ctx)
	})
	return l.Addr().String(), at
}

// request sends a request to the tracker, and closes the connection.
func request(t *testing.T, at, method, target string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+at+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// The metrics count what happens, and name neither keys nor addresses.
func TestMetrics(t *testing.T) {
	at, adminAt := serveTracker(t)
	for i := range 2 {
		request(t, at, "GET", fmt.Sprintf("/ntrk/secret%d?port=4000", i))
	}
	request(t, at, "GET", "/ntrk/secret0?port=4001")
	request(t, at, "GET", "/ntrk/secret2?port=4000") // exceeds a limit
	request(t, at, "GET", "/ntrk/secret0?port=0")
	request(t, at, "GET", "/scrape?info_hash=secret0")
	request(t, at, "DELETE", "/ntrk/secret0?port=4001")
	request(t, at, "GET", "/ntrk/secret0?port=x")
	request(t, at, "GET", "/nothing")
	request(t, at, "GET", "/ntrk/")
	stream := dial(t, "tcp", at)
	fmt.Fprint(stream, "GET /ntrk/secret0?port=4002 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
	if _, err := stream.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	silent := dial(t, "tcp", at)
	defer silent.Close()
	idle := dial(t, "tcp", at)
	fmt.Fprint(idle, "GET /ntrk/secret1?port=0 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := idle.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}

	text := scrape(t, adminAt)
	for _, line := range []string{
		"ntrack_ready 1", "ntrack_keys 2", "ntrack_peers 3", "ntrack_streams 1",
		`ntrack_connections{state="stream"} 1`, `ntrack_connections{state="idle"} 1`,
		`ntrack_requests_total{request="announce",result="served"} 3`,
		`ntrack_requests_total{request="announce",result="refused"} 1`,
		`ntrack_requests_total{request="look",result="served"} 2`,
		`ntrack_requests_total{request="leave",result="served"} 1`,
		`ntrack_requests_total{request="scrape",result="served"} 1`,
		`ntrack_requests_total{request="scrape",result="refused"} 1`,
		`ntrack_requests_total{request="stream",result="served"} 1`,
		`ntrack_requests_total{request="other",result="refused"} 2`,
		`ntrack_refusals_total{reason="max_per_addr"} 1`,
		`ntrack_refusals_total{reason="malformed"} 1`,
		`ntrack_refusals_total{reason="not_found"} 2`,
		`ntrack_refusals_total{reason="token"} 0`,
		`ntrack_limit{what="table_bytes"} 1.048576e+06`, `ntrack_limit{what="peers_per_addr"} 3`, `ntrack_limit{what="connections"} 50`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, " ")
			t.Errorf("missing %s; there is %q", line, regexp.MustCompile("(?m)^"+regexp.QuoteMeta(name)+" .*").FindString(text))
		}
	}
	for _, absent := range []string{"secret", "127.0.0.1", "4001", `what="connections_per_addr"`} {
		if strings.Contains(text, absent) {
			t.Errorf("the metrics have %q", absent)
		}
	}
	for _, name := range []string{"ntrack_table_bytes", "ntrack_serve_duration_seconds_count", "go_goroutines", "go_build_info", "ntrack_connections_accepted_total"} {
		if !regexp.MustCompile("(?m)^" + name + `(\{.*\})? [1-9]`).MatchString(text) {
			t.Errorf("no %s above 0", name)
		}
	}
}

func scrape(t *testing.T, at string) string {
	t.Helper()
	status, text := ask(t, dial(t, "tcp", at), "/metrics", "Host: tracker.example")
	if status != 200 {
		t.Fatalf("status %d: %s", status, text)
	}
	return text
}

// everyMetric returns the metrics of a tracker, and those of a store in a database and of names.
func everyMetric(t *testing.T) string {
	_, adminAt := serveTracker(t)
	return scrape(t, adminAt) + scrape(t, serve(t, &admin.Server{Store: func() valkey.Stats { return valkey.Stats{} }, DNS: new(dns.Server).Stats}))
}

// The metrics of names are there if names are served.
func TestDNSMetrics(t *testing.T) {
	st := dns.Stats{Queries: map[string]uint64{"answered": 7, "nxdomain": 8}, Conns: 9, Panics: 10}
	text := scrape(t, serve(t, &admin.Server{DNS: func() dns.Stats { return st }}))
	for _, line := range []string{`ntrack_dns_queries_total{result="answered"} 7`, `ntrack_dns_queries_total{result="nxdomain"} 8`,
		"ntrack_dns_connections 9", "ntrack_dns_panics_total 10"} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing %s", line)
		}
	}
	if strings.Contains(scrape(t, serve(t, &admin.Server{})), "ntrack_dns") {
		t.Error("there are metrics of names that nobody serves")
	}
}

// The metrics of a store take the place of those of a table in memory.
func TestStoreMetrics(t *testing.T) {
	st := valkey.Stats{Unavailable: 2, Full: 3, RoundTripTime: 5 * time.Second, InFlight: 6, SinceAnswer: time.Second, Peers: 7, Trackers: 8, Held: 9, Watched: 10}
	for i := range len(valkey.RoundTripBounds()) + 1 {
		st.RoundTrips = append(st.RoundTrips, int64(1+i))
	}
	at := serve(t, &admin.Server{Server: &server.Server{Tracker: new(tracker.Tracker)}, Store: func() valkey.Stats { return st }})
	text := scrape(t, at)
	for _, line := range []string{
		"ntrack_store_up 1", "ntrack_store_peers 7", "ntrack_store_trackers 8", "ntrack_store_held_peers 9", "ntrack_store_watched_keys 10",
		"ntrack_store_calls_in_flight 6", `ntrack_store_calls_total{result="answered"} 91`, `ntrack_store_calls_total{result="unavailable"} 2`,
		`ntrack_store_calls_total{result="full"} 3`, `ntrack_store_call_duration_seconds_bucket{le="0.0005"} 1`,
		`ntrack_store_call_duration_seconds_bucket{le="2.5"} 78`, "ntrack_store_call_duration_seconds_sum 5", "ntrack_store_call_duration_seconds_count 91",
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing %s in\n%s", line, regexp.MustCompile("(?m)^ntrack_store.*\n").FindAllString(text, -1))
		}
	}
	for _, absent := range []string{"ntrack_keys", "ntrack_peers", "ntrack_table_bytes"} {
		if strings.Contains(text, absent) {
			t.Errorf("there is %s", absent)
		}
	}
	st.SinceAnswer = 5 * time.Second
	if !strings.Contains(scrape(t, at), "\nntrack_store_up 0\n") {
		t.Error("a database that does not answer is up")
	}
}

// docs/operating.md has a row for each metric, and no other row.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	names := func(text, pattern string) (names []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	has, documents := names(everyMetric(t), `(?m)^# TYPE (ntrack_\w+)`), names(string(page), "(?m)^\\| `(ntrack_\\w+)")
	if !slices.Equal(has, documents) || len(has) == 0 {
		t.Errorf("/metrics has\n%q, docs/operating.md has\n%q", has, documents)
	}
}

// The alerts of docs/operating/ ask only for metrics that exist.
func TestAlertsHaveMetrics(t *testing.T) {
	rules, err := os.ReadFile("../../../docs/operating/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := everyMetric(t)
	names := regexp.MustCompile(`\b(ntrack|go|process)_\w+`).FindAllString(string(rules), -1)
	for _, name := range names {
		if !regexp.MustCompile(`(?m)^# TYPE ` + strings.TrimSuffix(name, "_bucket") + " ").MatchString(text) {
			t.Errorf("there is no metric %s", name)
		}
	}
	if len(names) == 0 {
		t.Error("the alerts have no metrics")
	}
}
