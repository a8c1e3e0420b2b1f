//go:build unix

package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// What docs/performance.md says about DNS is in the tables of the last run of bench/dns.
func TestFiguresOfDNS(t *testing.T) {
	_, rest, _ := strings.Cut(page(t, "docs/performance.md"), "<!-- bench/dns: begin -->")
	table, prose, ok := strings.Cut(rest, "<!-- bench/dns: end -->")
	if !ok {
		t.Fatal("docs/performance.md has no tables of bench/dns")
	}
	prose, _, _ = strings.Cut(strings.TrimSpace(prose), "\n\n")
	for row, says := range map[string]string{
		`A, 5 peers +\d+`:       "An answer with 5 addresses takes %s µs",
		`announce, 50 peers +-`: "an announce takes %s µs",
		`no query`:              "instead of %s µs",
		`10000 queries/s`:       "the median announce takes %s µs",
	} {
		m := regexp.MustCompile(`(?m)^` + row + ` +([0-9.]+)`).FindStringSubmatch(table)
		if m == nil {
			t.Errorf("the tables have no row %s", row)
			continue
		}
		if says = strings.Replace(says, "%s", m[1], 1); !strings.Contains(strings.Join(strings.Fields(prose), " "), says) {
			t.Errorf("docs/performance.md does not say %q", says)
		}
	}
}
