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
Environment:
{{range environment}}{{variable .}}{{end}}
Exit codes:
{{range exitCodes}}{{exitCode .}}{{end}}
` + commandExit + "\n\n`ntrack COMMAND --help` shows more about each.\n"

	commandHelp = `{{.HelpName}} - {{.Usage}}

Usage: {{.UsageText}}

{{.Description}}
{{with .VisibleFlags}}
Options:
{{range .}}{{option .}}{{end}}{{end}}
Examples:
{{range examples .Name}}{{example .}}{{end}}`
)

// An example is a command line, and what it does.
type example struct{ line, does string }

// examples has the examples of each command.
var examples = map[string][]example{
	"announce": {
		{"ntrack announce lobby --port 4000", "join once, and print the other peers"},
		{"ntrack announce lobby --port 4000 --stay", "stay listed until Ctrl-C"},
		{"ntrack announce lobby --port 4000 -- my-service --port 4000", "list a service while it runs"},
		{"ntrack announce -t a.example -t b.example lobby --port 4000 --stay", "stay listed at two trackers, in case one of them fails"},
		{"ntrack announce lobby --port 4000 --leave", "leave"},
	},
	"list": {
		{"ntrack list lobby", "print the peers in a table"},
		{"ntrack list tracker.example lobby -o json", "ask another tracker, and print JSON"},
		{"ntrack list lobby -q | while read peer; do echo \"$peer\"; done", "do something for each peer"},
	},
	"watch": {
		{"ntrack watch --serve lobby", "run a tracker, and show the peers of a key"},
		{"ntrack watch lobby | while read event peer; do echo \"$peer\"; done", "do something for each change"},
		{"ntrack watch lobby --exec 'echo \"$NTRACK_PEERS\"'", "do something with the whole list, at the start and after each change"},
		{"ntrack watch lobby --format '{{.Endpoint}}' --to list --exec ./reload", "keep a file true, and have its reader read it again"},
		{"ntrack watch job-17 --port 4000 --min 4 --for 5m -o json", "wait until four programs are there, and learn your rank among them"},
		{"ntrack watch job-17 --port 0 --min 4 --exactly -- python3 train.py", "run one of four parts of a job, once all of them are there"},
	},
	"serve": {
		{"ntrack serve", "run a tracker for this machine"},
		{"ntrack serve --listen :6969", "run a tracker for every machine that can reach this one"},
		{"ntrack serve --proxy 127.0.0.1", "run a tracker behind a reverse proxy on this machine"},
	},
	"completion": {
		{"source <(ntrack completion bash)", "complete in bash; zsh works in the same way"},
		{"ntrack completion fish | source", "complete in fish"},
	},
	"man": {
		{"ntrack man | man -l -", "read the manual page"},
		{"ntrack man >/usr/local/share/man/man1/ntrack.1", "install it"},
	},
}

// A variable is a variable of the environment.
type variable struct{ name, meaning string }

var environment = []variable{
	{"NTRACK_TRACKER", "the trackers to ask if the command line names none, with commas between them; for a COMMAND or CMD ntrack sets it to the trackers that it asks itself"},
	{"NTRACK_<OPTION>", "for serve: an option that is not on the command line, such as NTRACK_MAX_RATE for --max-rate; commas separate the values of an option that may be repeated; empty means unset"},
	{"NTRACK_KEY", "for a COMMAND or CMD: the KEY"},
	{"NTRACK_PORT", "for a COMMAND: the port at which it is listed, also if --port 0 has chosen it"},
	{"NTRACK_RANK", "for the COMMAND of watch: its place among the peers, from 0. RANK, WORLD_SIZE, LOCAL_RANK (the place among those with the same IP), MASTER_ADDR and MASTER_PORT (of rank 0) are for torch"},
	{"NTRACK_SIZE", "for the COMMAND of watch: the number of peers that have met"},
	{"NTRACK_SELF_FILE", "for the COMMAND of announce: a file that appears once the COMMAND is listed, and has its IP:PORT, or several, one per line"},
	{"NTRACK_EVENT", "for the CMD of watch: join or leave; or peers, for the list at the start and for several changes at once"},
	{"NTRACK_PEER", "for the CMD of watch: the peer that joined or left"},
	{"NTRACK_PEERS", "for the CMD or COMMAND of watch: all peers, with spaces between them; not set if they exceed 64 KiB. For a COMMAND they include itself, and stand in the order of ranks"},
	{"XDG_STATE_HOME", "the directory for the files of ntrack, instead of ~/.local/state"},
}

const (
	stateFiles   = "~/.local/state/ntrack/"
	stateMeaning = "a secret and locks, for BitTorrent trackers alone: peer ids come from the secret, so that a later process can leave what an earlier one announced"

	commandExit = "If ntrack runs a COMMAND, it ends with the exit code of COMMAND, or 128+n if\nsignal n ended COMMAND."
)

func printHelp(w io.Writer, text string, data any) {
	cli.HelpPrinterCustom(w, text, data, map[string]any{
		"option":      describe,
		"examples":    func(command string) []example { return examples[command] },
		"example":     func(e example) string { return entry(e.line, e.does) },
		"environment": func() []variable { return environment },
		"variable":    func(v variable) string { return entry(v.name, v.meaning) },
		"exitCodes":   sortedExitCodes,
		"exitCode":    func(e exitCode) string { return fmt.Sprintf("  %3d  %s\n", e.code, e.meaning) },
	})
}

// describe is the text of the help about one option.
func describe(f cli.Flag) string {
	names, value, meaning := optionText(f)
	if value != "" {
		for i := range names {
			names[i] += " " + value
		}
	}
	return entry(strings.Join(names, ", "), meaning)
}

// optionText has the names of an option with their dashes, the name of its value, and what it means.
func optionText(f cli.Flag) (names []string, value, meaning string) {
	df, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return nil, "", ""
	}
	meaning = df.GetUsage()
	if parts := strings.SplitN(meaning, "`", 3); len(parts) == 3 { // backquotes mark the name of the value
		value, meaning = parts[1], strings.Join(parts, "")
	}
	for _, n := range f.Names() {
		dashes := "--"
		if len(n) == 1 {
			dashes = "-"
		}
		names = append(names, dashes+n)
	}
	if d := df.GetDefaultText(); df.TakesValue() && d != "" && d != "0" && d != "0s" {
		meaning += " (default " + strings.Trim(d, `"`) + ")"
	}
	return names, value, meaning
}

// entry is a word or a line of the help, with its meaning on the lines below it.
func entry(head, meaning string) string {
	return "  " + head + "\n" + wrap(meaning, 72, "        ")
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
