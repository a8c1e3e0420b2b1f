package commands

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// These tables map commands and options to the names that other programs use for them. Of
// optionsMeant, the table for a command counts first, and then the table for "", which is for every
// command. The user's value replaces a word in braces; without a value the word stays.
var (
	commandsMeant = map[string]string{
		"announce":         "join add register publish advertise",
		"announce --leave": "leave part remove unregister deregister unannounce",
		"list":             "ls peers show get find lookup query look scrape index keys",
		"serve":            "server tracker start run listen",
		"watch":            "follow tail monitor wait gather barrier subscribe",
		"completion":       "complete",
		"man":              "manual",
	}
	optionsMeant = map[string]map[string]string{
		"": {
			"--port {PORT}":       "p",
			"--numwant {N}":       "n count limit max",
			"--from [IP:]PORT":    "ip addr address bind",
			"--label {TEXT}":      "name tag nick id comment",
			"--stay":              "daemon d background keep forever follow",
			"--leave":             "remove delete stop quit",
			"--ready udp":         "udp",
			"--tracker {TRACKER}": "url server host u",
			"--token-file FILE":   "token password",
			"--key-file FILE":     "key k",
			"--ca FILE":           "cert cacert cafile insecure tls",
			"--quiet":             "silent s",
			"-o json":             "json j",
			"-o text":             "text plain",
			"-o table":            "table",
			"--format {TEMPLATE}": "template",
		},
		"watch": {
			"--min {N}":         "n count peers",
			"--for {D}":         "duration max",
			"--exec {CMD}":      "e c run command",
			"--to {FILE}":       "file out write",
			"--settle {D}":      "debounce delay",
			"--on-leave {kill}": "on-lost on-exit on-loss",
			"--exactly":         "exact",
			"--once":            "one 1",
		},
		"serve": {
			"--listen 127.0.0.1:{PORT}": "port p",
			"--listen {IP}:6969":        "host ip",
			"--listen {ADDR}":           "addr address bind l",
			"--listen :6969":            "public",
			"--interval D":              "ttl",
			"--index":                   "keys",
			"--dns-zone {ZONE}":         "zone domain",
			"--page":                    "browser gui html ui web webui",
			"--page=false":              "no-page no-browser",
			"--max-memory SIZE":         "max-keys max-peers max-peers-per-key memory",
		},
	}
	attached    = regexp.MustCompile(`^([a-z-]+):?([0-9]+)$`) // such as port4000
	placeholder = regexp.MustCompile(`\{(\w+)\}`)
)

// meantBy returns the command or option of a table to which the user's word belongs, or "".
func meantBy(table map[string]string, word string) string {
	for meant, words := range table {
		if slices.Contains(strings.Fields(words), word) {
			return meant
		}
	}
	return ""
}

// unknownOption is the error for args[0], which is not an option of this command. The error shows
// what the user probably meant.
func (l *line) unknownOption(app *cli.App, args []string) error {
	typed, value, _ := strings.Cut(args[0], "=")
	if value == "" && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		value = args[1]
	}
	// If a `--` is missing, COMMAND begins after the options between the arguments, or after the first
	// argument.
	if at := max(l.gap, 1); !slices.Contains(args, "--") && len(l.arguments) > at && l.looksRunnable(l.arguments[at]) {
		command := slices.Concat(l.arguments[at:], args)
		return l.instead(typed, "a COMMAND comes after `--`, with its options:\n  "+l.showCommand(l.arguments[:at], command))
	}
	if meant := l.meantOption(app, typed, value); meant != "" {
		return l.instead(typed, meant)
	}
	if l.takesKey() && len(l.arguments) == 0 {
		return l.mistake("%s has no option %s; a KEY that begins with - comes after `--`", l.cmd.Name, shown(typed))
	}
	return l.mistake("%s has no option %s", l.cmd.Name, shown(typed))
}

// instead is the error for an unknown option, with a text that shows what to type instead.
func (l *line) instead(typed, meant string) error {
	text := fmt.Sprintf("%s has no option %s; %s", l.cmd.Name, shown(typed), meant)
	return &usageError{text: text, shows: true}
}

// meantOption is a hint for an option that the command does not have, or "". value may be "".
func (l *line) meantOption(app *cli.App, typed, value string) string {
	name := strings.ToLower(strings.TrimLeft(typed, "-"))
	own := flagNames(l.cmd)
	meant := cmp.Or(meantBy(optionsMeant[l.cmd.Name], name), meantBy(optionsMeant[""], name))
	if word, _, _ := strings.Cut(strings.Replace(meant, "=", " ", 1), " "); findFlag(l.cmd, word) != nil {
		meant = placeholder.ReplaceAllStringFunc(meant, func(p string) string {
			if value != "" {
				return quote(value)
			}
			return strings.Trim(p, "{}")
		})
		return "did you mean " + meant + "?"
	}
	var others []string // other commands that have the option
	for _, c := range app.Commands {
		if slices.Contains(flagNames(c), name) {
			others = append(others, c.Name)
		}
	}
	switch near := nearest(name, own); {
	case slices.Contains(own, name): // the user wrote the name in capitals
		return "did you mean " + strings.Repeat("-", min(len(name), 2)) + name + "?"
	case name == "version" || name == "v":
		return "did you mean ntrack --version?"
	case name == "exec" && l.cmd.Name == "announce":
		return "a COMMAND comes after the KEY and `--`"
	case l.cmd.Name == "list" && slices.Contains([]string{"watch", "follow", "f", "w"}, name):
		return "did you mean ntrack watch?"
	case len(others) > 0 && l.cmd.Name == "list" && name == "port":
		return "list does not join; announce and watch do"
	case len(others) == 1:
		return others[0] + " has it"
	case len(others) > 1:
		n := len(others) - 1
		return strings.Join(others[:n], ", ") + " and " + others[n] + " have it"
	case attached.MatchString(name) && slices.Contains(own, attached.FindStringSubmatch(name)[1]):
		m := attached.FindStringSubmatch(name)
		return "did you mean --" + m[1] + " " + m[2] + "?"
	case near != "":
		return "did you mean --" + near + "?"
	case !strings.HasPrefix(typed, "--") && len(name) > 1 && slices.Contains(own, name[:1]):
		short, more := "-"+name[:1], quote(typed[2:])
		if (option{flag: findFlag(l.cmd, short)}).takesValue() { // -ofoo means -o foo
			return "did you mean " + short + " " + more + "?"
		}
		return "did you mean " + short + " -" + more + "?" // -qx means -q -x
	}
	return ""
}

// flagNames are the names of a command's options.
func flagNames(cmd *cli.Command) []string {
	var names []string
	for _, f := range cmd.Flags {
		names = append(names, f.Names()...)
	}
	return names
}

// nearest is the name that is most similar to the user's word, or "" if no name is similar enough.
func nearest(typed string, names []string) string {
	const least = 0.84 // found by trial
	best, most := "", least
	for _, name := range names {
		switch similarity := smetrics.JaroWinkler(typed, name, 0.7, 4); { // the usual parameters
		case len(name) < 2 || len(typed) < 2: // one letter is similar to too many names
		case similarity > most:
			best, most = name, similarity
		case best == "" && strings.HasSuffix(name, "-"+typed):
			best = name
		}
	}
	return best
}

// unknownCommand is the error for a command line whose first word is not a command. The error shows
// the line that the user probably meant.
func unknownCommand(app *cli.App, words []string) error {
	typed, rest := words[0], words[1:]
	names := commandNames(app)
	isOption := strings.HasPrefix(typed, "-")
	name, _, _ := strings.Cut(strings.ToLower(strings.TrimLeft(typed, "-")), "=")
	isName := func(word string) bool { return slices.Contains(names, word) }
	why := fmt.Sprintf("there is no command %q", shown(typed))
	if isOption {
		why = "there is no option " + shown(typed)
	}
	meant := func(command string, rest []string) error {
		command, option, _ := strings.Cut(command, " ")
		show := strings.TrimSpace("ntrack " + command + showRest(rest) + " " + option)
		return &usageError{text: why + "; did you mean\n  " + show, shows: true}
	}
	at := slices.IndexFunc(rest, isName) // the first command later in the line, or -1
	others := words                      // without this command
	if at >= 0 {
		others = slices.Concat(words[:1+at], words[1+at+1:])
	}
	has := func(c *cli.Command) bool { return slices.Contains(flagNames(c), name) }
	owner := slices.IndexFunc(app.Commands, has) // the first command that has the option typed, or -1
	known := append(slices.Clone(names), "help", "version")
	for _, words := range commandsMeant {
		known = append(known, strings.Fields(words)...)
	}
	slices.Sort(known) // for the same result each time if two names are equally similar
	near := nearest(name, known)
	switch other := meantBy(commandsMeant, near); {
	case isName(name): // the user wrote it with capitals or dashes
		return meant(name, rest)
	case isOption && at >= 0:
		why = "options stand after the command"
		return meant(rest[at], others)
	case isOption && owner >= 0:
		why = "options stand after a command"
		return meant(app.Commands[owner].Name, words)
	case typed == "-V":
		return meant("--version", nil)
	case at == 0 && near != name: // such as ntrack tracker.example list KEY
		return meant(rest[0], others)
	case near == "help" || near == "version":
		return meant("--"+near, nil)
	case other != "":
		return meant(other, rest)
	case near != "":
		return meant(near, rest)
	}
	if isOption {
		return &usageError{text: why}
	}
	return &usageError{text: why + "; the commands are " + strings.Join(names, ", ")}
}

var secretOption = regexp.MustCompile(`^--?(token|password|key)$`)

// showRest is the words after a command, with "..." in place of words that may be secret.
func showRest(words []string) string {
	text := ""
	for i, w := range words {
		switch name, _, hasValue := strings.Cut(w, "="); {
		case i > 1 && words[i-2] == "--": // after the name of a COMMAND, its arguments, which may be secret
			return text + " ..."
		case i > 0 && secretOption.MatchString(words[i-1]):
			w = "..."
		case hasValue && secretOption.MatchString(name):
			w = name + "=..."
		}
		text += " " + quote(w)
	}
	return text
}
