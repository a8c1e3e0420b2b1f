package commands

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange puts the options of a command in front of its arguments, where cli wants them: users
// write `ntrack announce host KEY --port 4000`. A "--" before the arguments ends the options. One
// after the KEY starts the command for announce to run, which is the second result.
func arrange(app *cli.App, args []string) ([]string, []string, error) {
	if len(args) < 2 {
		return args, nil, nil
	}
	if args[len(args)-1] == "--generate-bash-completion" {
		// With a "--" in front of the cursor cli would take this for an argument, and a Tab would
		// run the command.
		return slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "--" }), nil, nil
	}
	switch first := args[1]; { // what people type all the same
	case first == "version" && len(args) == 2, first == "help" && len(args) == 2:
		return []string{args[0], "--" + first}, nil, nil
	case first == "help" && len(args) == 3:
		return []string{args[0], args[2], "--help"}, nil, nil
	}
	cmd := app.Command(args[1])
	if cmd == nil {
		return args, nil, nil
	}
	takesValue := make(map[string]bool)
	for _, f := range cmd.Flags {
		_, isBool := f.(*cli.BoolFlag)
		for _, name := range f.Names() {
			takesValue[name] = !isBool
		}
	}
	var options, arguments, command []string
	keyInFile, ended := false, false
	rest := args[2:]
	for len(rest) > 0 {
		a := rest[0]
		rest = rest[1:]
		switch {
		case a == "--" && (len(arguments) > 0 || keyInFile):
			switch {
			case cmd.Name != "announce":
				return nil, nil, &usageError{cmd.Name, "`--` after KEY starts a command, and only announce runs one"}
			case len(rest) == 0:
				return nil, nil, &usageError{cmd.Name, "the command after `--` is missing"}
			}
			command, rest = rest, nil
		case a == "--" && !ended:
			ended = true
		case ended:
			arguments = append(arguments, a)
		case a == "--help" || a == "-h":
			return []string{args[0], args[1], a}, nil, nil
		case len(a) > 1 && a[0] == '-':
			options = append(options, a)
			name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
			keyInFile = keyInFile || name == "key-file"
			if takesValue[strings.TrimLeft(a, "-")] {
				if len(rest) == 0 {
					return nil, nil, &usageError{cmd.Name, a + " needs a value"}
				}
				options = append(options, rest[0])
				rest = rest[1:]
			}
		default:
			arguments = append(arguments, a)
		}
	}
	out := append(slices.Clone(args[:2]), options...)
	return append(append(out, "--"), arguments...), command, nil
}
