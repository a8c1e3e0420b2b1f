package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows has every package of this module, and the other packages of it that each may import.
// docs/architecture.md explains them.
var arrows = map[string][]string{
	"ntrack":                           {"ntrack/commands"},
	"ntrack/commands":                  {"ntrack/announce", "ntrack/announce/wire", "ntrack/commands/process", "ntrack/output", "ntrack/tracker", "ntrack/tracker/store/memory", "ntrack/tracker/server"},
	"ntrack/commands/process":          {},
	"ntrack/bench":                     {"ntrack/announce", "ntrack/announce/wire", "ntrack/tracker", "ntrack/tracker/server"},
	"ntrack/examples/chat":             {"ntrack/announce", "ntrack/announce/wire"},
	"ntrack/examples/job":              {"ntrack/announce"},
	"ntrack/examples/lobby":            {"ntrack/announce", "ntrack/announce/wire"},
	"ntrack/output":                    {"ntrack/announce", "ntrack/announce/wire"},
	"ntrack/announce":                  {"ntrack/announce/wire"},
	"ntrack/announce/wire":             {},
	"ntrack/tracker":                   {"ntrack/announce/wire", "ntrack/tracker/store", "ntrack/tracker/store/memory"},
	"ntrack/tracker/store":             {"ntrack/announce/wire"},
	"ntrack/tracker/store/memory":      {"ntrack/announce/wire", "ntrack/tracker/store"},
	"ntrack/tracker/server":            {"ntrack/announce/wire", "ntrack/tracker"},
	"ntrack/tracker/server/servertest": {"ntrack/tracker"},
	"ntrack/tracker/store/storetest":   {"ntrack/announce/wire", "ntrack/tracker/store"},
}

// guests has every foreign module, and our packages that may import it. Each has one host, except for
// x/sys, which is the operating system.
var guests = map[string][]string{
	"github.com/urfave/cli/v2":          {"ntrack/commands"},
	"github.com/xrash/smetrics":         {"ntrack/commands"},
	"github.com/olekukonko/tablewriter": {"ntrack/output"},
	"github.com/jackpal/bencode-go":     {"ntrack/announce/wire"},
	"golang.org/x/term":                 {"ntrack/commands"},
	"golang.org/x/sys":                  {"ntrack/announce", "ntrack/bench", "ntrack/commands", "ntrack/commands/process", "ntrack/tracker/server"},
}

func TestArrows(t *testing.T) {
	house := parseHouse(t)
	for name, files := range house {
		allowed, ok := arrows[name]
		if !ok {
			t.Errorf("package %s is not among the arrows: decide what it may import, and explain that in docs/architecture.md", name)
		}
		for file, syntax := range files {
			for _, spec := range syntax.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(allowed, imported) && !mayHost(name, imported) {
					t.Errorf("%s: %s may not import %s", file, name, imported)
				}
			}
		}
	}
	for name := range arrows {
		if house[name] == nil {
			t.Errorf("package %s is among the arrows, but does not exist", name)
		}
	}
}

// mayHost reports whether a package may import a foreign one. Any package may import the standard
// library; guests has the rest.
func mayHost(name, imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	if first != "ntrack" && !strings.Contains(first, ".") {
		return true
	}
	for guest, hosts := range guests {
		if imported == guest || strings.HasPrefix(imported, guest+"/") {
			return slices.Contains(hosts, name)
		}
	}
	return false
}

func TestPackageComments(t *testing.T) {
	for name, files := range parseHouse(t) {
		begin := "Package " + path.Base(name) + " "
		if name == "ntrack" || name == "ntrack/bench" || path.Dir(name) == "ntrack/examples" {
			begin = "Command " + path.Base(name) + " "
		}
		n := 0
		for _, syntax := range files {
			if syntax.Doc != nil && strings.HasPrefix(syntax.Doc.Text(), begin) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("package %s has %d comments that begin %q, want 1", name, n, begin)
		}
	}
}

// TestNoHiddenState keeps packages free of hidden state: no package runs code before main, only
// main.go ends the process, and each package-level variable is a table that never changes.
func TestNoHiddenState(t *testing.T) {
	for name, files := range parseHouse(t) {
		if strings.HasSuffix(name, "test") {
			continue // it is for tests alone
		}
		variables := make(map[string]bool)
		for file, syntax := range files {
			for _, decl := range syntax.Decls {
				switch d := decl.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil && d.Name.Name == "init" {
						t.Errorf("%s: has an init function", file)
					}
				case *ast.GenDecl:
					if d.Tok != token.VAR {
						continue
					}
					embedded := d.Doc != nil && strings.Contains(d.Doc.List[len(d.Doc.List)-1].Text, "//go:embed")
					for _, spec := range d.Specs {
						v := spec.(*ast.ValueSpec)
						for i, ident := range v.Names {
							variables[ident.Name] = ident.Name != "_"
							if ident.Name == "_" || embedded {
								continue
							}
							if i >= len(v.Values) {
								t.Errorf("%s: variable %s has no value, so code must change it", file, ident.Name)
							} else if u, ok := v.Values[i].(*ast.UnaryExpr); ok && u.Op == token.AND {
								t.Errorf("%s: variable %s is a pointer, through which it can change", file, ident.Name)
							}
						}
					}
				}
			}
		}
		for file, syntax := range files {
			ast.Inspect(syntax, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.AssignStmt:
					for _, left := range n.Lhs {
						if id := root(left); n.Tok != token.DEFINE && id != nil && variables[id.Name] {
							t.Errorf("%s: assigns to the package-level variable %s", file, id.Name)
						}
					}
				case *ast.SelectorExpr:
					if id, ok := n.X.(*ast.Ident); ok && id.Name == "os" && n.Sel.Name == "Exit" && name != "ntrack" {
						t.Errorf("%s: os.Exit is for main.go alone", file)
					}
				}
				return true
			})
		}
	}
}

// root returns the variable that an assignment to e changes.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// parseHouse parses every file except tests, by import path and file name.
func parseHouse(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	house := make(map[string]map[string]*ast.File)
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch base := filepath.Base(file); {
		case err != nil:
			return err
		case d.IsDir() && file != "." && (base == "testdata" || base[0] == '.' || base[0] == '_'):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		syntax, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		name := path.Join("ntrack", filepath.ToSlash(filepath.Dir(file)))
		if house[name] == nil {
			house[name] = make(map[string]*ast.File)
		}
		house[name][file] = syntax
		return nil
	})
	if err != nil || len(house) == 0 {
		t.Fatalf("found %d packages, %v", len(house), err)
	}
	return house
}
