//go:build linux

package interop_test

import (
	"strings"
	"testing"
)

// manual has mandoc and groff format the manual page.
func manual(t *testing.T, bin string) {
	page, stderr, code := run(t, bin, "man")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	file := write(t, "ntrack.1", page)
	complaints, _, _ := run(t, "mandoc", "-T", "lint", "-W", "warning", file)
	for line := range strings.Lines(complaints) {
		if !strings.Contains(line, "missing date") { // only a build from a commit has a date
			t.Errorf("mandoc: %s", line)
		}
	}
	text, stderr, code := run(t, "env", "MANWIDTH=80", "man", "--warnings", "-l", file)
	if code != 0 || stderr != "" {
		t.Errorf("man: exit code %d\n%s", code, stderr)
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); len([]rune(line)) > 80 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
	for _, section := range []string{"SYNOPSIS", "EXAMPLES", "ENVIRONMENT", "FILES", "EXIT STATUS"} {
		if !strings.Contains(text, "\n"+section+"\n") {
			t.Errorf("man shows no %s", section)
		}
	}
}
