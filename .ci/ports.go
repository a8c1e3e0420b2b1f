// Ports checks the types of packages, and of their tests, for other ports of Go, as a compiler
// would see them: every name has to be there, and every constant has to fit. It reads all sources
// itself. To compile the standard library for each of some fifty ports would take half an hour.
//
//	ports PATTERN [GOOS/GOARCH...]
//
// Without ports named it takes all that `go tool dist list` has.
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
	pattern, ports := os.Args[1], os.Args[2:]
	if len(ports) == 0 {
		list, err := exec.Command("go", "tool", "dist", "list").Output()
		if ports = strings.Fields(string(list)); err != nil || len(ports) == 0 {
			fmt.Println("go tool dist list:", err)
			os.Exit(1)
		}
	}
	errs := make([]error, len(ports))
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := range next {
				errs[i] = check(ports[i], pattern)
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

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath, Dir string
	Standard        bool
	DepOnly         bool
	GoFiles         []string
	ImportMap       map[string]string
	Error           *struct{ Err string }
}

func check(port, pattern string) error {
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
	fset := token.NewFileSet()
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
		if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") { // the latter is made by go test
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
			f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
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
				if !p.Standard { // which the compiler treats specially in places
					failed = append(failed, err.Error())
				}
			},
		}
		path, _, _ := strings.Cut(p.ImportPath, " ") // "PATH [PATH.test]"
		checked[p.ImportPath], _ = conf.Check(path, fset, files, nil)
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
