//go:build unix

package docs_test

import (
	"bytes"
	"context"
	"errors"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ntrack/commands"
)

// What the README shows is true: its transcripts are played, its Go is an Example that runs, its exit
// codes are those of --help, and each of its options exists.

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks returns the fenced blocks of a language.
func blocks(t *testing.T, text, language string) []string {
	t.Helper()
	var list []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	if len(list) == 0 {
		t.Fatalf("README.md has no block of %s", language)
	}
	return list
}

// help returns what `ntrack ARGS --help` prints.
func help(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	code := commands.Main(t.Context(), append(append([]string{"ntrack"}, args...), "--help"), commands.Streams{Out: &out, Err: &errs})
	if code != 0 || out.Len() == 0 {
		t.Fatalf("ntrack %s --help: exit code %d\n%s", strings.Join(args, " "), code, &errs)
	}
	return out.String()
}

func TestReadmeExitCodes(t *testing.T) {
	rows := func(text, row string) (list []string) {
		for _, m := range regexp.MustCompile(row).FindAllStringSubmatch(text, -1) {
			list = append(list, m[1]+" "+m[2])
		}
		return list
	}
	_, section, _ := strings.Cut(readme(t), "\n## Exit codes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := rows(section, `(?m)^\| (\d+) \| (.*) \|$`)
	shown := rows(help(t), `(?m)^ +(\d+)  (.*)$`)
	if len(shown) == 0 || !slices.Equal(documented, shown) {
		t.Errorf("README.md has the exit codes\n%q\nand --help\n%q", documented, shown)
	}
}

func TestReadmeOptions(t *testing.T) {
	text := readme(t)
	options := make(map[string]bool) // "announce --port"
	for _, command := range []string{"", "announce", "list", "watch", "serve", "completion", "man"} {
		args := strings.Fields(command)
		if command != "" && !strings.Contains(text, "ntrack "+command) {
			t.Errorf("README.md does not show ntrack %s", command)
		}
		page := help(t, args...)
		for _, line := range regexp.MustCompile(`(?m)^  -.*$`).FindAllString(page, -1) {
			for _, name := range regexp.MustCompile(`(?:^|[ ,])(--?[a-z][a-z-]*)`).FindAllStringSubmatch(line, -1) {
				options[command+" "+name[1]] = true
				options["any "+name[1]] = true
				if command != "" && strings.HasPrefix(name[1], "--") && !strings.Contains(text, name[1]) {
					t.Errorf("README.md does not mention ntrack %s %s", command, name[1])
				}
			}
		}
	}

	// A command line goes from `ntrack COMMAND` to the end of the line or of the command.
	lines := regexp.MustCompile("(?:ntrack|go run \\.) (announce|list|watch|serve|completion|man)\\b([^`|;&<>\n]*)").FindAllStringSubmatch(text, -1)
	if len(lines) < 20 {
		t.Fatalf("found only %d command lines", len(lines))
	}
	for _, m := range lines {
		for _, name := range regexp.MustCompile(`(?:^| )(--?[a-z][a-z-]*)`).FindAllStringSubmatch(m[2], -1) {
			if !options[m[1]+" "+name[1]] {
				t.Errorf("README.md: %s: ntrack %s has no %s", m[0], m[1], name[1])
			}
		}
	}
	// Some options are mentioned on their own.
	for _, m := range regexp.MustCompile("`(--?[a-z][a-z-]*)[^`]*`").FindAllStringSubmatch(text, -1) {
		if !options["any "+m[1]] {
			t.Errorf("README.md: no command has the option %s", m[1])
		}
	}
}

// Every block of Go is in the body of an Example, word for word. So it compiles and works.
func TestReadmeGo(t *testing.T) {
	var bodies []string
	for _, file := range []string{"announce/example_test.go", "tracker/example_test.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		syntax, err := parser.ParseFile(fset, file, source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range syntax.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Example") {
				body := source[fset.Position(f.Body.Lbrace).Offset+1 : fset.Position(f.Body.Rbrace).Offset]
				body, _, _ = bytes.Cut(body, []byte("\t// Output:"))
				flat, err := format.Source(body)
				if err != nil {
					t.Fatal(err)
				}
				bodies = append(bodies, strings.TrimSpace(strings.ReplaceAll("\n"+string(flat), "\n\t", "\n")))
			}
		}
	}
	for _, block := range blocks(t, readme(t), "go") {
		in := func(body string) bool { return strings.Contains(body, strings.TrimSpace(block)) }
		if !slices.ContainsFunc(bodies, in) {
			t.Errorf("README.md shows Go that is no Example:\n%s", block)
		}
	}
}

// The test types the blocks marked console into a shell, from the first to the last. Its tracker
// listens on a free port instead of 6969.
func TestReadmeConsole(t *testing.T) {
	const patience = 30 * time.Second // for each wait
	dir := t.TempDir()
	file, ntrack := filepath.Join(dir, "addr"), filepath.Join(dir, "ntrack")
	if out, err := exec.Command("go", "build", "-o", ntrack, "ntrack").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	serve := exec.Command(ntrack, "serve", "--listen", "127.0.0.1:0", "--index", "--addr-file", file)
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	}()
	var addr string
	for deadline := time.Now().Add(patience); addr == ""; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if addr = strings.TrimSpace(string(b)); err != nil && !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			t.Fatalf("ntrack serve is not ready after %v: %v", patience, err)
		}
	}
	_, port, _ := strings.Cut(addr, ":")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shell := func(name string, args ...string) string {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "NTRACK_TRACKER=localhost:"+port, "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", cmd, err)
		}
		return string(out)
	}
	text := strings.ReplaceAll(readme(t), ":6969", ":"+port)
	for _, block := range blocks(t, text, "console") {
		for command := range strings.SplitSeq(strings.TrimPrefix(block, "$ "), "\n$ ") {
			command, want, _ := strings.Cut(command, "\n")
			if program, _, _ := strings.Cut(command, " "); program == "curl" {
				if _, err := exec.LookPath(program); err != nil {
					t.Logf("not played: %s: %v", command, err)
					continue
				}
			}
			if got := shell("sh", "-c", command); got != want && got != want+"\n" {
				t.Errorf("$ %s\n%s\nREADME.md has\n%s", command, got, want)
			}
		}
	}
	if python, err := exec.LookPath("python3"); err == nil {
		script := strings.ReplaceAll(blocks(t, text, "python")[0], ", 6969)", ", "+port+")")
		if got := shell(python, "-c", script); !strings.Contains(got, "'127.0.0.1:4002'") {
			t.Errorf("the client in Python does not find itself:\n%s", got)
		}
	}
}
