package commands

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/output"
)

//go:embed completion.bash
var bashCompletion string

//go:embed completion.zsh
var zshCompletion string

//go:embed completion.fish
var fishCompletion string

func completionCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "print the completion script of a shell: bash, zsh or fish",
		UsageText:   "ntrack completion bash|zsh|fish",
		Description: "The script completes commands, options and their values, and KEYs if the tracker\nshows its index.",
		Action: func(c *cli.Context) error {
			script := ""
			switch shell := c.Args().First(); {
			case c.NArg() != 1:
				return usage(c, "name one shell: bash, zsh or fish")
			case shell == "bash":
				script = bashCompletion
			case shell == "zsh":
				script = zshCompletion
			case shell == "fish":
				script = fishCompletion
			default:
				return usage(c, "shell %q: bash, zsh or fish", wire.Clean(shell))
			}
			_, err := fmt.Fprint(s.Out, script)
			return err
		},
	}
}

// completeCommand is a hidden command, which the completion scripts run. Its arguments are the words
// of a command line up to the cursor, without the program's name. The last word is incomplete and may
// be empty. The first line of the output says what the shell itself should complete: "files",
// "nothing", or "command N" for another program's command that begins with word N. Each other line is
// a word that fits. A tab and a description may follow the word.
const completeCommand = "__complete"

// wordsOf has the words that an option, or the argument of completion, accepts as its value.
var wordsOf = map[string][]string{
	"output":     {string(output.Table), string(output.JSON), string(output.Text)},
	"ready":      {"udp", "none"},
	"on-leave":   {"keep", "kill"},
	"on-lost":    {"keep", "kill"},
	"log-format": logFormats,
	"log-level":  logLevels,
	"completion": {"bash", "zsh", "fish"},
}

func complete(ctx context.Context, app *cli.App, words []string, out io.Writer) {
	before, current := words[:len(words)-1], words[len(words)-1]
	shellCompletes, fitting := fit(ctx, app, before, current)
	fmt.Fprintln(out, shellCompletes)
	for _, word := range fitting {
		if strings.HasPrefix(word, current) {
			fmt.Fprintln(out, word)
		}
	}
}

// fit returns the first line of the output of completeCommand, and the words that fit after before.
func fit(ctx context.Context, app *cli.App, before []string, current string) (string, []string) {
	const files, nothing = "files", "nothing"
	if len(before) == 0 || len(before) == 1 && before[0] == "help" {
		var names []string
		for _, c := range app.Commands {
			names = append(names, c.Name+"\t"+c.Usage)
		}
		if strings.HasPrefix(current, "-") {
			names = []string{"--help", "--version"}
		}
		return nothing, names
	}
	cmd := app.Command(before[0])
	if cmd == nil {
		return nothing, nil
	}
	l, _ := parse(app, cmd, before[1:])
	if l == nil {
		return nothing, nil
	}
	name, _, hasValue := strings.Cut(current, "=")
	prefix, flag := "", l.unfinished
	switch {
	case l.command != nil && takesCommand(cmd):
		return fmt.Sprint("command ", len(before)-len(l.command)), nil
	case l.command != nil:
		return nothing, nil
	case flag != nil:
	case !l.literal && hasValue && findFlag(cmd, name) != nil:
		flag, prefix = findFlag(cmd, name), name+"="
	case !l.literal && strings.HasPrefix(current, "-"):
		return nothing, l.fittingOptions(current)
	case cmd.Name == "completion" && len(l.arguments) == 0:
		return nothing, wordsOf["completion"]
	default:
		return nothing, l.keys(ctx, app, current)
	}
	if f, ok := flag.(*cli.StringFlag); ok && f.TakesFile {
		return files, nil
	}
	var values []string
	for _, value := range wordsOf[flag.Names()[0]] {
		values = append(values, prefix+value)
	}
	return nothing, values
}

// fittingOptions are the options that the line does not have yet, or that may be repeated.
func (l *line) fittingOptions(current string) []string {
	names := []string{"--help\tshow help"}
	for _, f := range l.cmd.Flags {
		if _, many := f.(*cli.StringSliceFlag); l.given(f.Names()[0]) && !many {
			continue
		}
		usage, _, _ := strings.Cut(strings.ReplaceAll(f.(cli.DocGenerationFlag).GetUsage(), "`", ""), ";")
		for _, name := range f.Names() {
			if len(name) > 1 {
				names = append(names, "--"+name+"\t"+usage)
			} else if current == "-"+name { // a short option fits only when it is complete
				names = append(names, current+"\t"+usage)
			}
		}
	}
	slices.Sort(names)
	return names
}

// keys returns keys of the tracker that begin with prefix, if a KEY fits here and the tracker shows
// its index. It does not wait longer than patience for a tracker, because the user has pressed Tab.
// Anybody can announce any key. So keys skips those with control characters, and the scripts quote
// the others.
func (l *line) keys(ctx context.Context, app *cli.App, prefix string) []string {
	const patience, most = 2 * time.Second, 1000
	switch n := len(l.arguments); {
	case !l.takesKey() || l.given("key-file") || n > 1:
		return nil
	case n == 1 && (l.given("tracker") || looksLike(l.arguments[0]) == nil && !domain.MatchString(l.arguments[0])):
		return nil // the argument is the KEY already
	}
	for _, name := range []string{"token-file", "ca"} {
		if o := l.find(name); o != nil {
			if info, err := os.Stat(o.value); err != nil || !info.Mode().IsRegular() {
				return nil // reading from a pipe would leave nothing for the command itself
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// with is the line with a KEY added.
	with := func(key string) *line {
		l := *l
		l.arguments = append(slices.Clone(l.arguments), key)
		return &l
	}
	var found []string
	l.cmd.Action = func(c *cli.Context) error {
		silent := Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
		var o client
		if err := o.build(c, silent); err != nil {
			return err
		}
		defer o.Close()
		o.trackers = slices.DeleteFunc(o.trackers, announce.Tracker.Classic) // a classic tracker would send all its keys
		if len(o.trackers) == 0 {
			return nil
		}
		_, indexes, err := askAll(ctx, &o, silent, o.Index)
		for _, t := range wire.MergeTracks(indexes...) {
			text := t.Key.String()
			k, err := announce.ParseKey(text)
			switch {
			case !strings.HasPrefix(text, prefix) || len(found) == most:
			case err != nil || !bytes.Equal(k.Bytes(), t.Key.Bytes()): // its text is read as another key
			case !l.literal && text[0] == '-' || with(text).misplaced() != nil:
			default:
				found = append(found, text)
			}
		}
		return err
	}
	asking := with("KEY")
	app.Metadata, app.Writer, app.ErrWriter = map[string]any{lineKey: asking}, io.Discard, io.Discard
	_ = app.RunContext(ctx, asking.words(app.Name))
	return found
}
