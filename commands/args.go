package commands

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// A line is what a user has typed, taken apart.
type line struct {
	cmd       *cli.Command
	options   []option
	arguments []string
	command   []string // for announce to run: what follows a `--` after the KEY; nil without
	meant     bool     // a `--` before the arguments says that each is meant as it stands
	// Options stand between that many arguments and those that follow: 0 where there are none.
	gap      int
	switched bool // the last of those is a switch
	// wants is the option whose value would come next, where it is missing.
	wants cli.Flag
}

// An option is one that was typed, with its value.
type option struct {
	flag  cli.Flag
	typed string // with its dashes
	value string // as the flag is to get it
}

func (o option) name() string { return o.flag.Names()[0] }

// takesValue says that the option is no switch.
func (o option) takesValue() bool { _, is := o.flag.(*cli.BoolFlag); return !is }

// arrange makes of what was typed what cli reads, and the line that it is, which is nil where no
// command is to run.
func arrange(app *cli.App, args []string) ([]string, *line, error) {
	if len(args) > 1 && args[1] == "--" {
		args = slices.Delete(slices.Clone(args), 1, 2)
	}
	if len(args) < 2 {
		return args, nil, nil
	}
	program, first := args[0], args[1]
	switch { // what people type all the same
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
	return l.words(program), l, nil
}

// parse takes apart what follows the program's name and the command's. Options may stand anywhere:
// users write `ntrack announce host KEY --port 4000`. A "--" before the arguments ends them. One
// after the KEY starts the command for announce to run. A line that asks for help is nil.
func parse(app *cli.App, cmd *cli.Command, args []string) (*line, error) {
	l := &line{cmd: cmd}
	var mistake error // the first one; --help after it still is answered
	option := false   // the last word was one, or its value
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--" && (len(l.arguments) > 0 || l.given("key-file")):
			l.command = args[i+1:]
			i = len(args)
			switch {
			case cmd.Name != "announce":
				mistake = cmp.Or(mistake, l.mistake("`--` after KEY starts a command, and only announce runs one"))
			case len(l.command) == 0:
				mistake = cmp.Or(mistake, l.mistake("the command after `--` is missing"))
			}
		case a == "--" && !l.meant:
			l.meant = true
		case l.meant:
			l.arguments = append(l.arguments, a)
		case isHelp(a):
			return nil, nil
		case len(a) > 1 && a[0] == '-':
			option = true
			n, err := l.addOption(app, args[i:])
			mistake = cmp.Or(mistake, err)
			i += n
		default:
			if name := strings.TrimLeft(a, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212-"); name != a {
				if f := findFlag(cmd, "--"+name); f != nil {
					mistake = cmp.Or(mistake, l.mistake("%q begins with another dash than --%s", shown(a), name))
				}
			}
			if option && len(l.arguments) > 0 && l.gap == 0 {
				l.gap = len(l.arguments)
				l.switched = len(l.options) > 0 && !l.options[len(l.options)-1].takesValue()
			}
			l.arguments, option = append(l.arguments, a), false
		}
	}
	return l, mistake
}

func isHelp(word string) bool { return word == "--help" || word == "-h" }

// addOption takes the option that args begin with, and says how many words its value has.
func (l *line) addOption(app *cli.App, args []string) (words int, err error) {
	typed, value, inOne := strings.Cut(args[0], "=")
	flag := findFlag(l.cmd, typed)
	if flag == nil {
		return 0, l.unknownOption(app, args)
	}
	o := option{flag, typed, value}
	switch {
	case !o.takesValue() && !inOne:
		o.value = "true"
	case o.takesValue() && !inOne:
		if len(args) == 1 || args[1] == "--" || isHelp(args[1]) || findFlag(l.cmd, args[1]) != nil {
			if len(args) == 1 {
				l.wants = flag
			}
			return 0, l.mistake("%s needs a value", typed)
		}
		o.value, words = args[1], 1
	}
	if _, many := flag.(*cli.StringSliceFlag); !many && o.takesValue() {
		if before := l.option(o.name()); before != nil {
			return words, l.mistake("%s is given twice, and takes one value", typed)
		}
	}
	if o.value, err = plainValue(o); err != nil {
		return words, l.mistake("%v", err)
	}
	l.options = append(l.options, o)
	return words, nil
}

// findFlag is the option of a command that a word names, with its dashes.
func findFlag(cmd *cli.Command, word string) cli.Flag {
	name, ok := strings.CutPrefix(word, "-")
	name = strings.TrimPrefix(name, "-")
	i := slices.IndexFunc(cmd.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if !ok || i < 0 {
		return nil
	}
	return cmd.Flags[i]
}

// option is the first of that name, and nil where there is none.
func (l *line) option(name string) *option {
	i := slices.IndexFunc(l.options, func(o option) bool { return o.name() == name })
	if i < 0 {
		return nil
	}
	return &l.options[i]
}

func (l *line) given(name string) bool { return l.option(name) != nil }

func (l *line) mistake(format string, args ...any) error {
	return &usageError{command: l.cmd.Name, text: fmt.Sprintf(format, args...)}
}

// words are the command line as cli reads it: options first, each in one word.
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

// plainValue is the value of an option as package flag reads it. That takes 0x10, 1_000 and, for
// 8, 010, which nobody means who types a number: here numbers are decimal.
func plainValue(o option) (string, error) {
	switch o.flag.(type) {
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
			hint = "; it is the port alone: " + o.typed + " " + m[1] + m[4]
		}
		return "", fmt.Errorf("%s %q: a number is wanted%s", o.typed, shown(o.value), hint)
	case *cli.DurationFlag:
		if _, err := parseDuration(o.value); err != nil {
			return "", fmt.Errorf("%s %q: %w", o.typed, shown(o.value), err)
		}
	case *cli.BoolFlag:
		if _, err := strconv.ParseBool(o.value); err != nil {
			return "", fmt.Errorf("%s %q: no value is wanted, or true or false", o.typed, shown(o.value))
		}
	}
	return o.value, nil
}

// parseDuration reads a duration. Its error has the spelling that was probably meant.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && !strings.HasPrefix(s, "+") {
		return d, nil
	}
	example := "10s or 5m"
	if m := looseTime.FindStringSubmatch(s); m != nil {
		example = m[1] + cmp.Or(m[2], "s")[:1]
	}
	return 0, fmt.Errorf("a duration such as %s is wanted", example)
}
