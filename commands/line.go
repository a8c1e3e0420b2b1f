package commands

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// A line is a parsed command line. Options keep their spelling, so that messages can repeat the line.
type line struct {
	cmd       *cli.Command
	options   []option
	arguments []string
	command   []string // the COMMAND of announce or watch, after a `--` that follows the KEY; nil without one
	literal   bool     // a `--` stands before the arguments: each of them is taken literally
	// gap is the number of arguments before the first option that stands between two arguments. It is
	// 0 if there is no such option. The arguments after the gap may be a COMMAND without its `--`.
	gap           int
	gapEndsInBool bool     // the last option in the gap takes no value
	unfinished    cli.Flag // the option at the end of the line, if its value is missing
}

// An option is an option with its value in a command line.
type option struct {
	flag  cli.Flag
	typed string // the user's spelling, with dashes; or the variable that it comes from, with a $
	value string // in the form that the flag reads
}

func (o option) name() string { return o.flag.Names()[0] }

func (o option) takesValue() bool { _, isBool := o.flag.(*cli.BoolFlag); return !isBool }

// lineKey is the key of the [line] in [cli.App.Metadata].
const lineKey = "line"

// lineOf is the command line that c comes from.
func lineOf(c *cli.Context) *line { return c.App.Metadata[lineKey].(*line) }

// arrangeArgs parses the arguments of the program, and returns them in the form that cli reads. The line
// is nil if no command will run, for example for --help.
func arrangeArgs(app *cli.App, args []string) ([]string, *line, error) {
	if len(args) > 1 && args[1] == "--" { // `ntrack -- announce` means `ntrack announce`
		args = slices.Delete(slices.Clone(args), 1, 2)
	}
	if len(args) < 2 {
		return args, nil, nil
	}
	program, first := args[0], args[1]
	switch { // people also type forms that no help shows
	case (first == "help" || isHelp(first)) && len(args) > 2:
		first, args = args[2], []string{program, args[2], "--help"}
	case first == "help" || isHelp(first):
		return []string{program, "--help"}, nil, nil
	case first == "--version" || first == "-v" || first == "version" && len(args) == 2:
		return []string{program, "--version"}, nil, nil
	}
	cmd := app.Command(first)
	if cmd == nil {
		return nil, nil, unknownCommand(app, args[1:])
	}
	l, err := parse(app, cmd, args[2:])
	if err == nil && l != nil {
		err = l.misplaced()
	}
	if err != nil || l == nil {
		return []string{program, first, "--help"}, nil, err
	}
	if cmd.Name == "serve" {
		if err := l.addVariables(); err != nil {
			return nil, l, err
		}
	}
	return l.words(program), l, nil
}

// parse parses the words after the command's name. Options may stand anywhere, because users write
// `ntrack announce host KEY --port 4000`. A `--` before the arguments ends the options. A `--` after
// the KEY begins the COMMAND of announce or watch. The line is nil if the user asks for help, even if the
// words before --help have a mistake.
func parse(app *cli.App, cmd *cli.Command, args []string) (*line, error) {
	l := &line{cmd: cmd}
	var mistake error    // the first mistake in the line
	afterOption := false // the word before a is an option or its value
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--" && (len(l.arguments) > 0 || l.given("key-file")):
			l.command = args[i+1:]
			i = len(args)
			switch {
			case !takesCommand(cmd):
				mistake = cmp.Or(mistake, l.mistake("`--` after KEY starts a command, and only announce and watch --min run one"))
			case len(l.command) == 0:
				mistake = cmp.Or(mistake, l.mistake("the command after `--` is missing"))
			case l.command[0] == "": // a variable that is not set
				mistake = cmp.Or(mistake, l.mistake("the command after `--` is empty"))
			}
		case a == "--" && !l.literal:
			l.literal = true
		case l.literal:
			l.arguments = append(l.arguments, a)
		case isHelp(a):
			return nil, nil
		case len(a) > 1 && a[0] == '-':
			afterOption = true
			n, err := l.addOption(app, args[i:])
			mistake = cmp.Or(mistake, err)
			i += n
		default:
			if name := strings.TrimLeft(a, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212-"); name != a {
				if f := findFlag(cmd, "--"+name); f != nil {
					mistake = cmp.Or(mistake, l.mistake("%q begins with the wrong dash; type --%s", shown(a), name))
				}
			}
			if afterOption && len(l.arguments) > 0 && l.gap == 0 {
				l.gap = len(l.arguments)
				l.gapEndsInBool = len(l.options) > 0 && !l.options[len(l.options)-1].takesValue()
			}
			l.arguments, afterOption = append(l.arguments, a), false
		}
	}
	return l, mistake
}

// takesCommand reports whether a command line may end in a COMMAND.
func takesCommand(cmd *cli.Command) bool { return cmd.Name == "announce" || cmd.Name == "watch" }

func isHelp(word string) bool { return word == "--help" || word == "-h" }

// addOption adds the option args[0], which may contain its value, as in --port=4000. Otherwise the
// value is args[1]. addOption returns the number of words after args[0] that it has used: 0 or 1.
func (l *line) addOption(app *cli.App, args []string) (used int, err error) {
	typed, value, hasValue := strings.Cut(args[0], "=")
	flag := findFlag(l.cmd, typed)
	if flag == nil {
		return 0, l.unknownOption(app, args)
	}
	o := option{flag, typed, value}
	switch {
	case !o.takesValue() && !hasValue:
		o.value = "true"
	case o.takesValue() && !hasValue:
		if len(args) == 1 || args[1] == "--" || isHelp(args[1]) || findFlag(l.cmd, args[1]) != nil {
			if len(args) == 1 {
				l.unfinished = flag
			}
			return 0, l.mistake("%s needs a value", typed)
		}
		o.value, used = args[1], 1
	}
	if _, many := flag.(*cli.StringSliceFlag); !many && o.takesValue() && l.given(o.name()) {
		return used, l.mistake("%s is given twice, and takes one value", typed)
	}
	if o.value, err = plainValue(o); err != nil {
		return used, l.mistake("%v", err)
	}
	l.options = append(l.options, o)
	return used, nil
}

// findFlag finds an option of a command by a word such as -t or --tracker. It returns nil if the
// command has no such option.
func findFlag(cmd *cli.Command, word string) cli.Flag {
	name, ok := strings.CutPrefix(word, "-")
	name = strings.TrimPrefix(name, "-")
	i := slices.IndexFunc(cmd.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if !ok || i < 0 {
		return nil
	}
	return cmd.Flags[i]
}

// find returns the first option in the line that has this name, or nil.
func (l *line) find(name string) *option {
	i := slices.IndexFunc(l.options, func(o option) bool { return o.name() == name })
	if i < 0 {
		return nil
	}
	return &l.options[i]
}

func (l *line) given(name string) bool { return l.find(name) != nil }

// mistake makes a usageError, like [usage], but before there is a [cli.Context].
func (l *line) mistake(format string, args ...any) error {
	return &usageError{command: l.cmd.Name, text: fmt.Sprintf(format, args...)}
}

// words is the line in the form that cli reads: options first, each in one word with its value.
func (l *line) words(program string) []string {
	words := []string{program, l.cmd.Name}
	for _, o := range l.options {
		words = append(words, "--"+o.name()+"="+o.value)
	}
	return append(append(words, "--"), l.arguments...)
}

var (
	decimal    = regexp.MustCompile(`^(-?)0*([0-9]+)$`)
	endsInPort = regexp.MustCompile(`^.*:0*([0-9]+)(/(tcp|udp))?$|^0*([0-9]+)/(tcp|udp)$`)
	looseTime  = regexp.MustCompile(`^([0-9]+) ?(|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)$`)
)

// plainValue checks the value of an option, and returns it in the form that package flag reads. A
// file without a name is refused, because it is most likely an unset variable of a shell: with an empty
// --token-file a tracker would serve everybody.
// Numbers are decimal here, but package flag also accepts 0x10 and 1_000, and reads 010 as 8.
func plainValue(o option) (string, error) {
	switch f := o.flag.(type) {
	case *cli.StringFlag:
		if f.TakesFile && o.value == "" {
			return "", fmt.Errorf("%s %q: the name of a file is wanted", o.typed, o.value)
		}
	case *cli.IntFlag:
		m := decimal.FindStringSubmatch(o.value)
		if m != nil {
			if _, err := strconv.Atoi(m[1] + m[2]); err != nil {
				return "", fmt.Errorf("%s %s: the number is too large", o.typed, shown(o.value))
			}
			return m[1] + m[2], nil
		}
		hint := ""
		if m := endsInPort.FindStringSubmatch(o.value); m != nil && o.name() == "port" {
			hint = "; give only the port: " + o.typed + " " + m[1] + m[4]
		}
		return "", fmt.Errorf("%s %q: a number is wanted%s", o.typed, shown(o.value), hint)
	case *cli.DurationFlag:
		if _, err := parseDuration(o.value); err != nil {
			return "", fmt.Errorf("%s %q: %w", o.typed, shown(o.value), err)
		}
	case *cli.BoolFlag:
		if _, err := strconv.ParseBool(o.value); err != nil && o.fromVariable() {
			return "", fmt.Errorf("%s %q: true or false is wanted", o.typed, shown(o.value))
		} else if err != nil {
			return "", fmt.Errorf("%s %q: true, false or no value is wanted", o.typed, shown(o.value))
		}
	}
	return o.value, nil
}

// parseDuration reads a duration. For 90 or 5min, its error shows how to write it: 90s or 5m.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && !strings.HasPrefix(s, "+") { // numbers have no plus sign either
		return d, nil
	}
	example := "10s or 5m"
	if m := looseTime.FindStringSubmatch(s); m != nil {
		if example = m[1] + cmp.Or(m[2], "s")[:1]; example == s {
			return 0, errors.New("the duration is too long")
		}
	}
	return 0, fmt.Errorf("a duration such as %s is wanted", example)
}
