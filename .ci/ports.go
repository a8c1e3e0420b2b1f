// Ports checks the types of packages and of their tests for other ports of Go, as a compiler does:
// every name has to exist, and every constant has to fit. It reads all sources itself, because
// compiling the standard library for each of about fifty ports would take half an hour.
//
//	ports PATTERN GOOS/GOARCH...
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Println("usage: ports PATTERN GOOS/GOARCH...")
		os.Exit(1)
	}
	pattern, ports := os.Args[1], os.Args[2:]
	errs := make([]error, len(ports))
	files := &sources{fset: token.NewFileSet(), parsed: make(map[string]func() (*ast.File, error))}
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := range next {
				errs[i] = files.check(ports[i], pattern)
			}
		})
	}
	for i := range ports {
		next <- i
	}
	close(next)
	wg.Wait()
	failed := false
	for i, err := range errs {
		if err != nil {
			failed = true
			fmt.Printf("%s:\n%v\n", ports[i], err)
		}
	}
	if failed {
		os.Exit(1)
	}
	fmt.Printf("%s: %d ports\n", pattern, len(ports))
}

// A pkg is a package in the output of `go list -json`.
type pkg struct {
	ImportPath, Dir string
	Standard        bool
	DepOnly         bool
	GoFiles         []string
	ImportMap       map[string]string
	Error           *struct{ Err string }
}

// sources has each file once, for all ports.
type sources struct {
	fset   *token.FileSet
	mu     sync.Mutex
	parsed map[string]func() (*ast.File, error)
}

// parse parses a file, but without function bodies if its package is of the standard library.
func (s *sources) parse(name string, standard bool) (*ast.File, error) {
	s.mu.Lock()
	parse := s.parsed[name]
	if parse == nil {
		parse = sync.OnceValues(func() (*ast.File, error) {
			f, err := parser.ParseFile(s.fset, name, nil, parser.SkipObjectResolution)
			if err == nil && standard {
				for _, decl := range f.Decls {
					if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil {
						d.Body = new(ast.BlockStmt)
					}
				}
			}
			return f, err
		})
		s.parsed[name] = parse
	}
	s.mu.Unlock()
	return parse()
}

// check checks the packages that pattern names, for one port.
func (s *sources) check(port, pattern string) error {
	goos, goarch, _ := strings.Cut(port, "/")
	cmd := exec.Command("go", "list", "-e", "-deps", "-test", "-json=ImportPath,Dir,Standard,DepOnly,GoFiles,ImportMap,Error", pattern)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	checked := map[string]*types.Package{"unsafe": types.Unsafe}
	ours := 0
	var failed []string
	for list := json.NewDecoder(out); ; {
		var p pkg
		if err := list.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return errors.Join(err, cmd.Wait())
		}
		if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") { // go test makes the latter
			continue
		}
		if p.Error != nil {
			failed = append(failed, p.Error.Err)
		}
		if !p.DepOnly {
			ours++
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			if !filepath.IsAbs(name) {
				name = filepath.Join(p.Dir, name)
			}
			f, err := s.parse(name, p.Standard)
			if err != nil {
				failed = append(failed, err.Error())
				continue
			}
			files = append(files, f)
		}
		conf := types.Config{
			IgnoreFuncBodies: p.DepOnly,
			Sizes:            types.SizesFor("gc", goarch),
			Importer: importer(func(path string) (*types.Package, error) {
				if instead := p.ImportMap[path]; instead != "" {
					path = instead
				}
				if checked[path] == nil {
					return nil, fmt.Errorf("no package %s", path)
				}
				return checked[path], nil
			}),
			Error: func(err error) {
				if !p.Standard { // the compiler treats parts of the standard library specially
					failed = append(failed, err.Error())
				}
			},
		}
		path, _, _ := strings.Cut(p.ImportPath, " ") // "PATH [PATH.test]"
		checked[p.ImportPath], _ = conf.Check(path, s.fset, files, nil)
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	if ours == 0 {
		return errors.New("no packages")
	}
	if len(failed) > 0 {
		slices.Sort(failed)
		return errors.New(strings.Join(slices.Compact(failed), "\n"))
	}
	return nil
}

type importer func(path string) (*types.Package, error)

func (i importer) Import(path string) (*types.Package, error) { return i(path) }
