//go:build unix

package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"ntrack/commands"
)

// What the pages for users show is true: their transcripts are played, their Go is an Example that runs,
// their exit codes are those of --help, and each of their options exists.
var pages = []string{"README.md", "docs/manual.md", "docs/operating.md", "docs/clients.md"}

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks returns the fenced blocks of a language.
func blocks(text, language string) (list []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
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

// One screen sells the program, three screens teach it.
func TestReadmeLength(t *testing.T) {
	if n := strings.Count(page(t, "README.md"), "\n"); n > 180 {
		t.Errorf("README.md has %d lines, want at most 180", n)
	}
}

// Prose has at most 100 columns. Tables, HTML and what programs print may be wider.
func TestPageWidth(t *testing.T) {
	files := []string{"testdata/vectors/README.md"}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		list, err := filepath.Glob(pattern)
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: found %d pages, %v", pattern, len(list), err)
		}
		files = append(files, list...)
	}
	for _, name := range files {
		verbatim := false
		for i, line := range strings.Split(page(t, name), "\n") {
			if strings.HasPrefix(line, "```") {
				verbatim = !verbatim
			}
			if n := utf8.RuneCountInString(line); n > 100 && !verbatim && !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "<") {
				t.Errorf("%s:%d has %d columns", name, i+1, n)
			}
		}
	}
}

func TestPageExitCodes(t *testing.T) {
	rows := func(text, row string) (list []string) {
		for _, m := range regexp.MustCompile(row).FindAllStringSubmatch(text, -1) {
			list = append(list, m[1]+" "+m[2])
		}
		return list
	}
	_, section, _ := strings.Cut(page(t, "docs/manual.md"), "\n## Exit codes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := rows(section, `(?m)^\| (\d+) \| (.*) \|$`)
	shown := rows(help(t), `(?m)^ +(\d+)  (.*)$`)
	if len(shown) == 0 || !slices.Equal(documented, shown) {
		t.Errorf("docs/manual.md has the exit codes\n%q\nand --help\n%q", documented, shown)
	}
}

// The manual has every option of every command, and the page for operators those of serve. No page has
// an option that does not exist.
func TestPageOptions(t *testing.T) {
	options := make(map[string]bool) // "announce --port"
	for _, command := range []string{"", "announce", "list", "watch", "serve", "completion", "man"} {
		name := "docs/manual.md"
		if command == "serve" {
			name = "docs/operating.md"
		}
		text := page(t, name)
		if command != "" && !strings.Contains(text, "ntrack "+command) {
			t.Errorf("%s does not show ntrack %s", name, command)
		}
		for _, line := range regexp.MustCompile(`(?m)^  -.*$`).FindAllString(help(t, strings.Fields(command)...), -1) {
			for _, option := range regexp.MustCompile(`(?:^|[ ,])(--?[a-z][a-z-]*)`).FindAllStringSubmatch(line, -1) {
				options[command+" "+option[1]] = true
				options["any "+option[1]] = true
				if command != "" && strings.HasPrefix(option[1], "--") && option[1] != "--help" && !strings.Contains(text, option[1]) {
					t.Errorf("%s does not mention ntrack %s %s", name, command, option[1])
				}
			}
		}
	}

	count := 0
	for _, name := range pages {
		text := page(t, name)
		// A command line goes from `ntrack COMMAND` to the end of the line or of the command.
		lines := regexp.MustCompile("(?:ntrack|go run \\.) (announce|list|watch|serve|completion|man)\\b([^`|;&<>#\n]*)").FindAllStringSubmatch(text, -1)
		count += len(lines)
		for _, m := range lines {
			args, _, _ := strings.Cut(m[2], " -- ")
			for _, option := range regexp.MustCompile(`(?:^| )(--?[a-z][a-z-]*)`).FindAllStringSubmatch(args, -1) {
				if !options[m[1]+" "+option[1]] {
					t.Errorf("%s: %s: ntrack %s has no %s", name, m[0], m[1], option[1])
				}
			}
		}
		// Some options are mentioned on their own.
		for _, m := range regexp.MustCompile("`(--?[a-z][a-z-]*)[^`]*`").FindAllStringSubmatch(text, -1) {
			if !options["any "+m[1]] {
				t.Errorf("%s: no command has the option %s", name, m[1])
			}
		}
	}
	if count < 20 {
		t.Fatalf("found only %d command lines", count)
	}
}

// The costs that the README names are those of go.mod, of the build, and of the last run of bench.
func TestReadmeCosts(t *testing.T) {
	_, text, _ := strings.Cut(page(t, "README.md"), "**What it costs.**")
	text, _, _ = strings.Cut(text, "\n\n")
	text = strings.Join(strings.Fields(text), " ")

	requires := regexp.MustCompile(`(?m)^(?:\t|require )\S+ v\S+( // indirect)?$`).FindAllStringSubmatch(page(t, "go.mod"), -1)
	direct := 0
	for _, m := range requires {
		if m[1] == "" {
			direct++
		}
	}
	modules := func(pkg string) int {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		list := strings.Fields(string(out))
		slices.Sort(list)
		return len(slices.Compact(list))
	}
	want := fmt.Sprintf("go.mod has %d direct modules and %d behind them; %d of these are in the program, and %d in package announce.",
		direct, len(requires)-direct, modules("."), modules("./announce"))
	if !strings.Contains(text, want) {
		t.Errorf("README.md should say %q; it says\n%s", want, text)
	}

	measured := strings.Fields(page(t, "docs/performance.md"))
	numbers := regexp.MustCompile(`\d+\.\d+`).FindAllString(text, -1)
	for _, n := range numbers {
		if !slices.Contains(measured, n) {
			t.Errorf("README.md has the measurement %s, and docs/performance.md does not", n)
		}
	}
	if len(numbers) == 0 {
		t.Error("README.md has no measurement")
	}
}

// Every block of Go is in the body of an Example, word for word. So it compiles and works.
func TestPageGo(t *testing.T) {
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
	count := 0
	for _, name := range pages {
		for _, block := range blocks(page(t, name), "go") {
			count++
			in := func(body string) bool { return strings.Contains(body, strings.TrimSpace(block)) }
			if !slices.ContainsFunc(bodies, in) {
				t.Errorf("%s shows Go that is no Example:\n%s", name, block)
			}
		}
	}
	if count == 0 {
		t.Error("found no Go")
	}
}
