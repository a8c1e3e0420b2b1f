package commands

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// The help fits a terminal of 80 columns. The meaning of each option is on the lines below it.
const (
	appHelp = `{{.Name}} - {{.Usage}}

Usage: {{.UsageText}}

{{.Description}}

Commands:
{{range .VisibleCommands}}  {{printf "%-10s" .Name}}  {{.Usage}}
{{end}}
Options:
{{range .VisibleFlags}}{{option .}}{{end}}
` + "`ntrack COMMAND --help` shows more about each.\n"

	commandHelp = `{{.HelpName}} - {{.Usage}}

Usage: {{.UsageText}}

{{.Description}}
{{with .VisibleFlags}}
Options:
{{range .}}{{option .}}{{end}}{{end}}`
)

func printHelp(w io.Writer, text string, data any) {
	cli.HelpPrinterCustom(w, text, data, map[string]any{"option": describe})
}

// describe is the text of the help about one option. In the flag's usage, backquotes mark the name of
// the value.
func describe(f cli.Flag) string {
	df, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	usage, value := df.GetUsage(), ""
	if parts := strings.SplitN(usage, "`", 3); len(parts) == 3 {
		value = " " + parts[1]
		usage = strings.Join(parts, "")
	}
	var names []string
	for _, n := range f.Names() {
		dashes := "--"
		if len(n) == 1 {
			dashes = "-"
		}
		names = append(names, dashes+n+value)
	}
	if env := df.GetEnvVars(); len(env) > 0 {
		usage += " [$" + strings.Join(env, ", $") + "]"
	}
	if d := df.GetDefaultText(); df.TakesValue() && d != "" && d != "0" && d != "0s" {
		usage += " (default " + strings.Trim(d, `"`) + ")"
	}
	return "  " + strings.Join(names, ", ") + "\n" + wrap(usage, 72, "        ")
}

// wrap breaks text into lines of at most width bytes, and puts indent before each of them.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			b.WriteString(indent + line + "\n")
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	b.WriteString(indent + line + "\n")
	return b.String()
}

func manCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		UsageText:   "ntrack man",
		Description: "To read it:     ntrack man | man -l -\nTo install it:  ntrack man > /usr/local/share/man/man1/ntrack.1",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage(c, "man takes no arguments")
			}
			for _, cmd := range c.App.Commands { // the page that cli makes has no descriptions
				cmd.UsageText += "\n\n" + cmd.Description
			}
			page, err := c.App.ToManWithSection(1)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(s.Out, page)
			return err
		},
	}
}
