//go:build unix

package docs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The figures of docs/scale.md are those of the last run of bench/shared.
func TestScaleFigures(t *testing.T) {
	_, measured, _ := strings.Cut(page(t, "docs/performance.md"), "<!-- bench/shared redis-server: begin -->")
	measured, _, _ = strings.Cut(measured, "<!-- bench/shared redis-server: end -->")
	_, table, _ := strings.Cut(page(t, "docs/scale.md"), "\n| figure | measured |")
	table, _, _ = strings.Cut(table, "\n\n")
	count := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[3], "`") {
			continue
		}
		for _, n := range regexp.MustCompile(`\d+(\.\d+)?`).FindAllString(cells[2], -1) {
			count++
			if !slices.Contains(strings.Fields(measured), n) {
				t.Errorf("docs/scale.md has the figure %s for %q, and the tables of bench/shared do not", n, strings.TrimSpace(cells[1]))
			}
		}
	}
	if count < 10 {
		t.Errorf("docs/scale.md has %d figures", count)
	}
}
