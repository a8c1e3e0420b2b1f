package commands

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// The manual page has every command, option and variable, and every exit code, as the help has them.
func TestManualPage(t *testing.T) {
	app := newApp(Streams{})
	page := manualPage(app)
	wants := func(what, text string) {
		t.Helper()
		if !strings.Contains(page, text) {
			t.Errorf("the page lacks %s: no %q", what, text)
		}
	}
	for _, c := range app.Commands {
		wants("a synopsis", "\n"+synopsis(c.UsageText)+"\n")
		wants("a command", "\n.SS "+synopsis("ntrack "+c.Name)+"\n")
		for _, f := range c.Flags {
			wants("an option of "+c.Name, manOption(f))
		}
	}
	for _, e := range exitCodes {
		wants("an exit code", fmt.Sprintf("\n\\fB%d\\fR\n%s\n", e.code, e.meaning))
	}
	for name, list := range examples {
		for _, e := range list {
			const widest = 80 - 11 // man indents an example by 11 columns
			if len(e.line) > widest {
				t.Errorf("an example of %s is longer than %d columns: %s", name, widest, e.line)
			}
		}
	}
	for _, v := range environment {
		wants("a variable", "\n\\fB"+v.name+"\\fR\n")
	}
}

// The help names every variable that the code reads or sets.
func TestEnvironment(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	named := make(map[string]bool)
	for _, v := range environment {
		named[v.name] = true
	}
	delete(named, "NTRACK_<OPTION>") // stands for these
	options := make(map[string]bool)
	for _, f := range serveCommand(Streams{}).Flags {
		options[variableOf(f.Names()[0])] = true
		if named[variableOf(f.Names()[0])] {
			t.Errorf("%s has two meanings", variableOf(f.Names()[0]))
		}
	}
	used := make(map[string]bool)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") || file == "help.go" {
			continue
		}
		for _, name := range regexp.MustCompile(`\b(NTRACK|XDG)_[A-Z_]+`).FindAllString(string(source), -1) {
			used[name] = true
			if !named[name] && !options[name] {
				t.Errorf("%s uses %s, and the help does not name it", file, name)
			}
		}
	}
	for name := range named {
		if !used[name] {
			t.Errorf("the help names %s, and no code uses it", name)
		}
	}
}

// Every command has examples, and these have only options that it has.
func TestExamples(t *testing.T) {
	app := newApp(Streams{})
	for _, c := range app.Commands {
		if len(examples[c.Name]) == 0 {
			t.Errorf("%s has no examples", c.Name)
		}
		for _, e := range examples[c.Name] {
			_, rest, ok := strings.Cut(e.line, "ntrack "+c.Name)
			if !ok {
				t.Errorf("%s is no example of %s", e.line, c.Name)
			}
			checkOptions(t, c, e.line, rest)
		}
	}
	for name := range examples {
		if app.Command(name) == nil {
			t.Errorf("there are examples of %q, which is no command", name)
		}
	}
}

// checkOptions checks the options up to the end of the command.
func checkOptions(t *testing.T, c *cli.Command, line, rest string) {
	t.Helper()
	for _, word := range strings.Fields(rest) {
		switch {
		case strings.ContainsAny(word[:1], `|>)'`), word == "--":
			return
		case word[0] == '-' && findFlag(c, word) == nil:
			t.Errorf("%s: %s has no %s", line, c.Name, word)
		}
	}
}
