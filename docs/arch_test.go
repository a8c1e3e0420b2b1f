package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows has every package of this module, and the other packages of it that each may import. The
// names are relative to the module; "." is the package at its root. docs/architecture.md explains the
// arrows.
const arrows = `
.                          commands
commands                   announce announce/wire commands/certs commands/process output tracker tracker/page tracker/store tracker/store/memory tracker/store/valkey tracker/server tracker/server/admin tracker/server/dns
commands/certs
commands/process
commands/commandstest      commands
output                     announce announce/wire
announce                   announce/wire
announce/wire
tracker                    announce/wire tracker/rate tracker/store tracker/store/memory
tracker/page
tracker/rate
tracker/store              announce/wire
tracker/store/feed         announce/wire tracker/store
tracker/store/memory       announce/wire tracker/store tracker/store/feed
tracker/store/storetest    announce/wire tracker/store
tracker/store/valkey       announce/wire tracker/store tracker/store/feed
tracker/store/valkey/valkeytest
tracker/server             announce/wire tracker tracker/rate
tracker/server/admin       tracker/server tracker/server/dns tracker/store/valkey
tracker/server/dns         announce/wire tracker tracker/rate tracker/server
tracker/server/servertest  tracker tracker/store/memory
tracker/trackertest        announce tracker tracker/server
bench                      announce/wire bench/measure tracker tracker/server tracker/store/memory
bench/attack               announce/wire bench/measure tracker
bench/dns                  announce/wire bench/measure tracker tracker/server tracker/server/dns tracker/store tracker/store/memory
bench/measure
bench/shared               announce/wire bench/measure tracker tracker/server tracker/store tracker/store/memory tracker/store/valkey
bench/soak
examples/chat              announce
examples/job               announce
examples/lobby             announce
`

// guests has every foreign module, and our packages that may import it. Each has one host, except for
// x/sys, which is the operating system, and for rueidis and x/net, which bench measures alone, too.
const guests = `
github.com/urfave/cli/v2           commands
golang.org/x/crypto                commands/certs
github.com/xrash/smetrics          commands
github.com/coreos/go-systemd/v22   commands
github.com/olekukonko/tablewriter  output
github.com/jackpal/bencode-go      announce/wire
github.com/redis/rueidis           tracker/store/valkey bench/shared
github.com/pires/go-proxyproto     tracker/server
github.com/rogpeppe/go-internal    commands/commandstest
golang.org/x/net                   tracker/server/dns bench/dns
golang.org/x/term                  commands
github.com/prometheus/client_golang  tracker/server/admin
golang.org/x/sys                   announce bench bench/attack bench/dns bench/measure commands commands/process tracker/server tracker/server/dns
`

// table parses arrows and guests: the first field of each line is the key of the others.
func table(text string) map[string][]string {
	rows := make(map[string][]string)
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 {
			rows[fields[0]] = fields[1:]
		}
	}
	return rows
}

func TestArrows(t *testing.T) {
	house, may := parseHouse(t), table(arrows)
	used := make(map[[2]string]bool)
	for name, files := range house {
		if _, ok := may[name]; !ok {
			t.Errorf("package %s is not among the arrows: decide what it may import, and explain that in docs/architecture.md", name)
		}
		for file, syntax := range files {
			for _, spec := range syntax.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				ours, ok := strings.CutPrefix(imported, "ntrack/")
				used[[2]string{name, ours}] = true
				if ok && !slices.Contains(may[name], ours) || !ok && !mayHost(name, imported) {
					t.Errorf("%s may not import %s", file, imported)
				}
			}
		}
	}
	for name, list := range may {
		if house[name] == nil {
			t.Errorf("package %s is among the arrows, but does not exist", name)
		}
		for _, other := range list {
			if !used[[2]string{name, other}] {
				t.Errorf("package %s does not import %s: remove the arrow", name, other)
			}
		}
	}
}

// mayHost reports whether a package may import a foreign one. Any package may import the standard
// library; guests has the rest.
func mayHost(name, imported string) bool {
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return true
	}
	for guest, hosts := range table(guests) {
		if imported == guest || strings.HasPrefix(imported, guest+"/") {
			return slices.Contains(hosts, name)
		}
	}
	return false
}

// burdens has the packages that other programs import. Each is followed by every package outside the
// standard library that it needs, directly or not. Of the standard library it has net/http alone, the
// largest.
const burdens = `
announce              announce/wire github.com/jackpal/bencode-go golang.org/x/sys/unix net/http
announce/wire         github.com/jackpal/bencode-go
tracker               tracker/rate tracker/store tracker/store/feed tracker/store/memory announce/wire github.com/jackpal/bencode-go net/http
tracker/store         announce/wire github.com/jackpal/bencode-go
tracker/store/memory  tracker/store tracker/store/feed announce/wire github.com/jackpal/bencode-go
`

// A program with the client gets no tracker, and a program with a tracker gets no client.
func TestBurdens(t *testing.T) {
	for name, may := range table(burdens) {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{.Standard}} {{.ImportPath}}", "./"+name).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			standard, path, _ := strings.Cut(strings.TrimSpace(line), " ")
			path = strings.TrimPrefix(path, "ntrack/")
			if path != name && (standard == "false" || path == "net/http") && !slices.Contains(may, path) {
				t.Errorf("%s needs %s", name, path)
			}
		}
	}
}

// Each row of the walks in docs/architecture.md has a file and functions of it, in order.
func TestWalks(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_/]+\\.go)` \\| (.*?) \\|").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 20 {
		t.Errorf("docs/architecture.md has %d rows, want two walks", len(rows))
	}
	for _, row := range rows {
		syntax, err := parser.ParseFile(token.NewFileSet(), row[1], nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		functions := make(map[string]bool)
		for _, decl := range syntax.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				name = root(f.Recv.List[0].Type).Name + "." + name
			}
			functions[name] = true
		}
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			if !functions[name[1]] {
				t.Errorf("docs/architecture.md: %s has no %s", row[1], name[1])
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for name, files := range parseHouse(t) {
		begin := "Package " + path.Base(name) + " "
		switch {
		case name == ".":
			begin = "Command ntrack "
		case name == "bench", path.Dir(name) == "bench" && name != "bench/measure", path.Dir(name) == "examples":
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
					if id, ok := n.X.(*ast.Ident); ok && id.Name == "os" && n.Sel.Name == "Exit" && name != "." {
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

// parseHouse parses every file except tests, by package and file name.
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
		name := filepath.ToSlash(filepath.Dir(file))
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
