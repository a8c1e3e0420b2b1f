//go:build unix

package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each claim of SECURITY.md names what shows it, and each of these exists.
func TestSecurityIsShown(t *testing.T) {
	tests := make(map[string]bool)
	err := filepath.WalkDir(".", func(name string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\([tf] \*testing`).FindAllStringSubmatch(page(t, name), -1) {
			tests[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	interop := page(t, "interop/interop_test.go")
	exists := func(reference string) bool {
		part, isPart := strings.CutPrefix(reference, "TestInterop/")
		vector, isVector := strings.CutPrefix(reference, "[v:")
		switch {
		case isPart:
			return strings.Contains(interop, `{"`+part+`", `)
		case isVector:
			if vector = strings.TrimSuffix(vector, "]"); !strings.Contains(vector, "/") {
				vector = "tracker/" + vector
			}
			_, err := os.Stat("testdata/vectors/" + vector + ".json")
			return err == nil
		case strings.HasSuffix(reference, ".txtar"):
			_, err := os.Stat("testdata/script/" + reference)
			return err == nil
		}
		return tests[reference]
	}
	text, rows := page(t, "SECURITY.md"), 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if cells[0] != "" || len(cells) < 2 || strings.HasPrefix(line, "|--") || strings.HasPrefix(line, "| it can try to |") {
			continue
		}
		if len(cells) != 5 {
			t.Errorf("not a row of three cells: %s", line)
			continue
		}
		rows++
		for reference := range strings.SplitSeq(cells[3], ",") {
			if reference = strings.TrimSpace(reference); !exists(reference) {
				t.Errorf("%s: nothing is called %q", strings.TrimSpace(cells[1]), reference)
			}
		}
	}
	for _, m := range regexp.MustCompile(`\((Test\w+)\)`).FindAllStringSubmatch(text, -1) {
		if !exists(m[1]) {
			t.Errorf("nothing is called %q", m[1])
		}
	}
	if rows < 40 || len(tests) < 100 {
		t.Errorf("found %d rows and %d tests", rows, len(tests))
	}
	if n := strings.Count(text, "\n"); n > 200 {
		t.Errorf("%d lines, want at most 200", n)
	}
}
