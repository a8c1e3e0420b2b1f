package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The published specification and the conformance vectors belong together: a rule without a vector
// is an opinion, and a vector without a rule tests something that nobody was told.
func TestSpecificationNamesVectors(t *testing.T) {
	spec, err := os.ReadFile("docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
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

	// [v: name, name], perhaps with the end of a line in it.
	named := make(map[string]bool)
	for _, ref := range regexp.MustCompile(`\[v:([^\]]*)\]`).FindAllStringSubmatch(string(spec), -1) {
		for name := range strings.SplitSeq(ref[1], ",") {
			name = strings.TrimSpace(name)
			named[name] = true
			if !slices.Contains(vectors, name) {
				t.Errorf("docs/PROTOCOL.md names the vector %q, and there is none", name)
			}
		}
	}
	for _, v := range vectors {
		if !named[v] {
			t.Errorf("docs/PROTOCOL.md does not name the vector %q", v)
		}
	}
	doc, err := os.ReadFile("announce/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	prose, _, _ := strings.Cut(string(doc), "\npackage ")
	refs := regexp.MustCompile(`\(([a-z0-9-]+(?:, [a-z0-9-]+)*)\)`).FindAllStringSubmatch(prose, -1)
	for _, ref := range refs {
		for name := range strings.SplitSeq(ref[1], ", ") {
			if !slices.Contains(vectors, name) {
				t.Errorf("announce/doc.go names the vector %q, and there is none", name)
			}
		}
	}
	if len(refs) < 5 {
		t.Errorf("announce/doc.go names vectors in %d places, want several", len(refs))
	}
	if !slices.Contains(vectors, "proposal-example") {
		t.Error("the proposal's own example is not among the vectors")
	}
}
