// Package docs_test holds the documents to what is true.
package docs_test

import (
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMain runs the tests at the top of the module, where the README is.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		log.Fatal(err)
	}
	m.Run()
}

// Each rule of the specification has a vector, and each vector belongs to a rule. A rule without a
// vector is an opinion. A vector without a rule tests something that nobody can read about.
func TestSpecificationNamesVectors(t *testing.T) {
	// The rules are in the first, advice to clients is in the second.
	documents := []string{"docs/PROTOCOL.md", "docs/clients.md"}
	files, err := filepath.Glob("testdata/vectors/*/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d vectors, %v", len(files), err)
	}
	var vectors []string
	for _, f := range files {
		name := strings.TrimSuffix(filepath.ToSlash(f), ".json")
		name = strings.TrimPrefix(strings.TrimPrefix(name, "testdata/vectors/"), "tracker/")
		vectors = append(vectors, name)
	}

	// A reference is [v: name, name]; a line may end within it.
	named := make(map[string]bool)
	for _, file := range documents {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range regexp.MustCompile(`\[v:([^\]]*)\]`).FindAllStringSubmatch(string(text), -1) {
			for name := range strings.SplitSeq(ref[1], ",") {
				name = strings.TrimSpace(name)
				named[name] = true
				if !slices.Contains(vectors, name) {
					t.Errorf("%s names the vector %q, and there is none", file, name)
				}
			}
		}
	}
	for _, v := range vectors {
		if !named[v] {
			t.Errorf("neither of %v names the vector %q", documents, v)
		}
	}
	doc, err := os.ReadFile("announce/wire/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	prose, _, _ := strings.Cut(string(doc), "\npackage ")
	refs := regexp.MustCompile(`\(([a-z0-9-]+(?:, [a-z0-9-]+)*)\)`).FindAllStringSubmatch(prose, -1)
	for _, ref := range refs {
		for name := range strings.SplitSeq(ref[1], ", ") {
			if !slices.Contains(vectors, name) {
				t.Errorf("announce/wire/doc.go names the vector %q, and there is none", name)
			}
		}
	}
	if len(refs) < 5 {
		t.Errorf("announce/wire/doc.go names vectors in %d places, want several", len(refs))
	}
	if !slices.Contains(vectors, "proposal-example") {
		t.Error("the proposal's own example is not among the vectors")
	}
}

// Every link within the repository leads somewhere.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := func(file string) map[string]bool {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set := make(map[string]bool)
		for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(b), -1) {
			name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
			set[strings.ReplaceAll(name, " ", "-")] = true
		}
		return set
	}
	n := 0
	for _, file := range append(files, more...) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:\]\(|src="|srcset=")([^)"\s]+)[)"]`).FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			n++
			target, anchor, hasAnchor := strings.Cut(m[1], "#")
			if target = filepath.Join(filepath.Dir(file), target); strings.HasPrefix(m[1], "#") {
				target = file
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", file, err)
			} else if hasAnchor && !anchors(target)[anchor] {
				t.Errorf("%s: no heading for %s", file, m[1])
			}
		}
	}
	if n == 0 {
		t.Fatal("found no links")
	}
}
