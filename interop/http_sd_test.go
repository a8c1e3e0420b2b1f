//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A real Prometheus finds its targets by the http_sd format: a peer joins and is scraped, with the key as
// a label. The peer leaves, and is no target any more. Prometheus itself is not listed.
func httpSD(t *testing.T, bin string) {
	dir, admin, web := t.TempDir(), "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	addr := serve(t, bin, "--admin", admin, "--max-memory", "32M")
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), fmt.Appendf(nil, `
global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs:
  - job_name: peers
    http_sd_configs: [{url: "http://%s/ntrk/web?format=http_sd&port=80", refresh_interval: 250ms}]
    relabel_configs: [{source_labels: [__meta_ntrack_key], target_label: key}]
`, addr), 0o600))
	_, port, err := net.SplitHostPort(admin)
	must(t, err)
	peer := start(t, dir, bin, "announce", "--stay", "--port", port, addr, "web")
	prometheus := start(t, dir, "prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", web)
	expectTargets := func(want string) {
		t.Helper()
		eventually(t, func() error {
			got, err := targets(web)
			if err == nil && got != want {
				err = fmt.Errorf("the targets are %q, want %q", got, want)
			}
			return err
		}, prometheus)
	}
	expectTargets(admin + " up web;")
	stdout, stderr, _ := run(t, bin, "list", addr, "web")
	if got, want := strings.Join(strings.Fields(stdout), " "), "PEER SCOPE "+admin+" loopback"; got != want {
		t.Errorf("listed: %q, want %q; %s", got, want, stderr)
	}
	must(t, peer.cmd.Process.Signal(syscall.SIGTERM))
	expectTargets("")
}

// targets returns what Prometheus scrapes, each with its state and the label for the key.
func targets(prometheus string) (text string, err error) {
	var reply struct {
		Data struct {
			ActiveTargets []struct {
				Health string
				Labels map[string]string
			}
		}
	}
	if err := getJSON("http://"+prometheus+"/api/v1/targets?state=active", &reply); err != nil {
		return "", err
	}
	for _, target := range reply.Data.ActiveTargets {
		if target.Labels["job"] != "peers" {
			return "", errors.New("a target of another job")
		}
		text += target.Labels["instance"] + " " + target.Health + " " + target.Labels["key"] + ";"
	}
	return text, nil
}
