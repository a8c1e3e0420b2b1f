//go:build linux

package interop_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The alerts of docs/operating/ fire for the data in alerts-test.yml, and only for those.
func alertRules(t *testing.T, _ string) {
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts-test.yml"}} {
		p := start(t, "../docs/operating", "promtool", args...)
		p.wait(t)
	}
}

// A real Prometheus asks a real tracker, and the alerts fire that a test can provoke. For the test, the
// times in docs/operating/alerts.yml are shorter: an alert fires at once, and a rate is that of the last
// 3 seconds.
func alerts(t *testing.T, bin string) {
	rules, err := os.ReadFile("../docs/operating/alerts.yml")
	must(t, err)
	rules = regexp.MustCompile(`(?m)^ +for: .*\n`).ReplaceAll(rules, nil)
	rules = regexp.MustCompile(`\[5m\]`).ReplaceAll(rules, []byte("[3s]"))

	dir, admin, web := t.TempDir(), "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	must(t, os.WriteFile(filepath.Join(dir, "alerts.yml"), rules, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), fmt.Appendf(nil, `
global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: ntrack
    static_configs: [{targets: [%q]}]
`, admin), 0o600))
	const maxConns = 8
	tracker, serving := serveProgram(t, bin, "127.0.0.1:0", "--admin", admin, "--max-memory", "32M", "--proxy", "127.0.0.1", "--interval", "10m",
		"--max-conns", fmt.Sprint(maxConns), "--drain", "1h")
	prometheus := start(t, dir, "prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", web)

	// fires repeats provoke until exactly these alerts fire.
	fires := func(provoke func() error, want ...string) {
		t.Helper()
		eventually(t, func() error {
			if err := provoke(); err != nil {
				return err
			}
			got, err := firing(web)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("the alerts %q fire, want %q", got, want)
			}
			return err
		}, prometheus)
	}
	quiet := func() error { return nil }
	fires(func() error { return targetIsUp(web) })

	// Fresh keys take the memory, until all of a hundred are refused.
	clients, keys, full := &asker{t: t, at: tracker}, 0, false
	key := func(method string, n int) (line, from string) {
		return fmt.Sprintf("%s /ntrk/key-%010d?port=4000&numwant=0", method, n), fmt.Sprintf("198.18.%d.%d", n/1000>>8, n/1000&255)
	}
	flood := func() {
		full = !slices.Contains(clients.pipeline(100, func(i int) (line, from string) { return key("GET", keys+i) }), 200)
		keys += 100
	}
	for !full {
		flood()
	}
	fires(quiet, "NtrackNearLimitOfMemory")
	fires(func() error { flood(); return nil }, "NtrackNearLimitOfMemory", "NtrackRefusals")
	for n := 0; n < keys; n += 100 {
		clients.pipeline(100, func(i int) (line, from string) { return key("DELETE", n+i) })
	}
	clients.close()
	fires(quiet)

	// Streams are never idle, so they cannot make room for another connection.
	for range maxConns {
		c, err := net.Dial("tcp", tracker)
		must(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET /ntrk/first?port=0 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n")
		must(t, err)
	}
	fires(quiet, "NtrackNearLimitOfConnections")
	fires(func() error { return get(tracker, "/ntrk/first?port=0") }, "NtrackConnectionRefusals", "NtrackNearLimitOfConnections")
	must(t, serving.cmd.Process.Signal(syscall.SIGTERM))
	fires(quiet, "NtrackNearLimitOfConnections", "NtrackNotReady")
	must(t, serving.cmd.Process.Kill())
	fires(quiet, "NtrackDown")
}

// firing returns the names of the alerts that fire, in order.
func firing(prometheus string) (names []string, err error) {
	var reply struct {
		Data struct {
			Alerts []struct {
				State  string
				Labels struct{ Alertname string }
			}
		}
	}
	if err := getJSON("http://"+prometheus+"/api/v1/alerts", &reply); err != nil {
		return nil, err
	}
	for _, a := range reply.Data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels.Alertname)
		}
	}
	slices.Sort(names)
	return names, nil
}

// targetIsUp returns an error until Prometheus has asked the tracker.
func targetIsUp(prometheus string) error {
	var reply struct {
		Data struct{ ActiveTargets []struct{ Health string } }
	}
	if err := getJSON("http://"+prometheus+"/api/v1/targets", &reply); err != nil {
		return err
	}
	if targets := reply.Data.ActiveTargets; len(targets) != 1 || targets[0].Health != "up" {
		return fmt.Errorf("targets: %v", targets)
	}
	return nil
}

func getJSON(url string, reply any) error {
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(reply)
}

// get makes a request with a connection of its own. It ignores the status.
func get(tracker, target string) error { return request("GET", tracker, target) }

func request(method, tracker, target string) error {
	c, err := net.DialTimeout("tcp", tracker, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, method+" "+target+" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && !strings.HasPrefix(string(b), "HTTP/1.1 ") {
		err = fmt.Errorf("%s %s: %q", method, target, b)
	}
	return err
}
