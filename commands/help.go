package commands

import (
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// Help fits a terminal of 80 columns: each option on a line, what it does below it.
const (
	appHelp = `{{.Name}} - {{.Usage}}

Usage: {{.UsageText}}

{{.Description}}

Commands:
{{range .VisibleCommands}}  {{printf "%-10s" .Name}}  {{.Usage}}
{{end}}
Options:
{{range .VisibleFlags}}{{option .}}{{end}}
` + "`ntrack COMMAND --help` tells more of each.\n"

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

// describe is an option's entry. The name of its value stands in backquotes in its usage.
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

// wrap breaks text into lines of at most width, each after indent.
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
