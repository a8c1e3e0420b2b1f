package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each fault of docs/reliability.md names tests, scripts, parts of TestInterop or vectors that exist.
func TestFaultsHaveTests(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		code.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Faults\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.HasPrefix(cells[1], "-") || cells[1] == " fault " {
			continue
		}
		rows++
		shown := cells[len(cells)-2]
		names := regexp.MustCompile("`([^`]+)`|\"([^\"]+)\"").FindAllStringSubmatch(shown, -1)
		if len(names) == 0 {
			t.Errorf("nothing shows what happens if%s", cells[1])
		}
		for _, m := range names {
			var found bool
			switch name := m[1]; {
			case m[2] != "":
				found = strings.Contains(code.String(), `{"`+m[2]+`", `)
			case strings.HasSuffix(name, ".txtar"):
				_, err := os.Stat("testdata/script/" + name)
				found = err == nil
			case strings.HasPrefix(name, "Test"):
				found = strings.Contains(code.String(), "\nfunc "+name+"(t *testing.T)")
			default:
				_, err := os.Stat("testdata/vectors/client/" + name + ".json")
				found = err == nil
			}
			if !found {
				t.Errorf("there is no test %s", m[0])
			}
		}
	}
	if rows < 10 {
		t.Errorf("found %d faults", rows)
	}
}
