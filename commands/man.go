package commands

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func manCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		UsageText:   "ntrack man",
		Description: "The page has what --help shows about every command.",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage(c, "man takes no arguments")
			}
			_, err := io.WriteString(s.Out, manualPage(c.App))
			return err
		},
	}
}

// manualPage writes the help of all commands with the macros of man(7).
func manualPage(app *cli.App) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	date, _, _ := strings.Cut(built("vcs.time"), "T")
	line(".TH NTRACK 1 %q %q", date, "ntrack "+app.Version)
	line(".SH NAME\n%s \\- %s", app.Name, roff(app.Usage))
	line(".SH SYNOPSIS\n.nf")
	for _, c := range app.Commands {
		line("%s", synopsis(c.UsageText))
	}
	line(".fi\n.SH DESCRIPTION\n%s", paragraphs(app.Description))
	for _, f := range app.VisibleFlags() {
		b.WriteString(manOption(f))
	}

	var shared []string // the options of announce, list and watch
	for _, f := range clientFlags() {
		shared = append(shared, manOption(f))
	}
	line(".SH COMMANDS")
	for _, c := range app.Commands {
		line(".SS %s", synopsis("ntrack "+c.Name))
		line("%s.\n.PP\n%s", roff(upperFirst(c.Usage)), paragraphs(c.Description))
		for _, f := range c.Flags {
			if o := manOption(f); !slices.Contains(shared, o) {
				b.WriteString(o)
			}
		}
	}
	line(".SS Options of announce, list and watch\n%s", strings.TrimSuffix(strings.Join(shared, ""), "\n"))
	var shown []string
	for _, c := range app.Commands {
		for _, e := range examples[c.Name] {
			shown = append(shown, fmt.Sprintf("%s:\n.PP\n.RS 4\n.nf\n%s\n.fi\n.RE", roff(upperFirst(e.does)), roff(e.line)))
		}
	}
	line(".SH EXAMPLES\n%s", strings.Join(shown, "\n.PP\n"))
	line(".SH ENVIRONMENT")
	for _, v := range environment {
		line(".TP\n\\fB%s\\fR\n%s", roff(v.name), roff(v.meaning))
	}
	line(".SH FILES\n.TP\n\\fI%s\\fR\n%s", roff(stateFiles), roff(stateMeaning))
	line(".SH EXIT STATUS")
	for _, e := range sortedExitCodes() {
		line(".TP 6\n\\fB%d\\fR\n%s", e.code, roff(e.meaning))
	}
	line(".PP\n%s", roff(commandExit))
	return b.String()
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// manOption is the text of the manual page about one option.
func manOption(f cli.Flag) string {
	names, value, meaning := optionText(f)
	for i, n := range names {
		names[i] = `\fB` + roff(n) + `\fR`
		if value != "" {
			names[i] += ` \fI` + roff(value) + `\fR`
		}
	}
	return fmt.Sprintf(".TP\n%s\n%s\n", strings.Join(names, ", "), roff(meaning))
}

// synopsis sets `ntrack COMMAND` in bold, and what follows as it is.
func synopsis(usage string) string {
	words := strings.SplitAfterN(usage, " ", 3)
	return `\fB` + roff(strings.Join(words[:2], "")) + `\fR` + roff(strings.Join(words[2:], ""))
}

// paragraphs is the text of a description. Lines of a paragraph are filled again, except for those that
// begin with a space.
func paragraphs(text string) string {
	var lines []string
	for l := range strings.SplitSeq(text, "\n") {
		switch {
		case l == "":
			l = ".PP"
		case l[0] == ' ':
			l = ".nf\n" + roff(strings.TrimLeft(l, " ")) + "\n.fi"
		default:
			l = roff(l)
		}
		lines = append(lines, l)
	}
	return strings.Join(lines, "\n")
}

var inBackquotes = regexp.MustCompile("`([^`]*)`")

// roff escapes text for groff and mandoc. Text in backquotes becomes bold.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, `^`, `\(ha`, `~`, `\(ti`).Replace(text)
	text = inBackquotes.ReplaceAllString(text, `\fB$1\fR`)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}
