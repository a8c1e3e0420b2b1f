package commands

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// optionsOf returns the values of all options of serve for a command line, or the message about it.
func optionsOf(t *testing.T, args ...string) (values map[string]any, message string) {
	t.Helper()
	app := newApp(Streams{})
	words, l, err := arrangeArgs(app, append([]string{"ntrack", "serve"}, args...))
	if err != nil {
		return nil, l.respell(err.Error())
	}
	values = make(map[string]any)
	serve := app.Command("serve")
	serve.Action = func(c *cli.Context) error {
		for _, f := range serve.Flags {
			name := f.Names()[0]
			values[name] = c.Value(name)
			if many, ok := values[name].(cli.StringSlice); ok {
				values[name] = strings.Join(many.Value(), "|")
			}
			if !c.IsSet(name) {
				delete(values, name)
			}
		}
		return nil
	}
	if err := app.RunContext(context.Background(), words); err != nil {
		t.Fatal(err)
	}
	return values, ""
}

// Every option of serve can come from its variable, which means the same as the option.
func TestVariables(t *testing.T) {
	for _, f := range serveCommand(Streams{}).Flags {
		name := f.Names()[0]
		t.Run(name, func(t *testing.T) {
			value, list := "a", ""
			switch f.(type) {
			case *cli.IntFlag:
				value = "7"
			case *cli.DurationFlag:
				value = "7s"
			case *cli.BoolFlag:
				value = "true"
			case *cli.StringSliceFlag:
				value, list = "a,b", " a , b, "
			}
			want, _ := optionsOf(t, "--"+name+"="+value)
			for _, text := range []string{value, list, " " + value + "\n"} {
				t.Setenv(variableOf(name), text)
				got, message := optionsOf(t)
				if text == "" {
					want = map[string]any{}
				}
				if len(got) != len(want) || got[name] != want[name] || message != "" {
					t.Errorf("%s=%q: %v %s, want %v", variableOf(name), text, got, message, want)
				}
				want, _ = optionsOf(t, "--"+name+"="+value)
			}
		})
	}
}

// The command line takes precedence, other commands do not read the variables, and a message has the
// name that the user has to change.
func TestVariablePrecedence(t *testing.T) {
	t.Setenv("NTRACK_MAX_CONNS", "x")
	t.Setenv("NTRACK_LISTEN", ":1,:2")
	got, message := optionsOf(t, "--max-conns", "3", "--listen", ":3")
	if message != "" || got["max-conns"] != 3 || got["listen"] != ":3" {
		t.Errorf("%v %s", got, message)
	}
	if _, message := optionsOf(t); !strings.HasPrefix(message, `$NTRACK_MAX_CONNS "x": a number is wanted`) {
		t.Error(message)
	}
	if _, _, err := arrangeArgs(newApp(Streams{}), []string{"ntrack", "list", "lobby"}); err != nil {
		t.Error(err)
	}
	if _, l, err := arrangeArgs(newApp(Streams{}), []string{"ntrack", "serve", "--help"}); l != nil || err != nil {
		t.Error(err)
	}
	t.Setenv("NTRACK_MAX_CONNS", "")
	t.Setenv("NTRACK_INDEX", "maybe")
	if _, message := optionsOf(t); !strings.HasPrefix(message, `$NTRACK_INDEX "maybe": true or false is wanted`) {
		t.Error(message)
	}
	t.Setenv("NTRACK_INDEX", "0")
	t.Setenv("NTRACK_MAX_RATE", "4")
	_, l, err := arrangeArgs(newApp(Streams{}), []string{"ntrack", "serve", "--interval", "1s"})
	if err != nil {
		t.Fatal(err)
	}
	const text = "--interval and --max-rate, --max-rates, --listen"
	if got, want := l.respell(text), "--interval and $NTRACK_MAX_RATE, --max-rates, $NTRACK_LISTEN"; got != want {
		t.Errorf("%s\nbecomes\n%s, want\n%s", text, got, want)
	}
}

// A variable that is almost one of serve gets a warning without its value. Others get none: some
// belong to other commands, and Kubernetes sets some about a service of the same name.
func TestMisspeltVariables(t *testing.T) {
	l := &line{cmd: serveCommand(Streams{})}
	for name, want := range map[string]string{
		"NTRACK_MAXRATE":               "NTRACK_MAX_RATE",
		"NTRACK_LISTNE":                "NTRACK_LISTEN",
		"NTRACK_TOKEN":                 "NTRACK_TOKEN_FILE",
		"NTRACK_RATE":                  "NTRACK_MAX_RATE",
		"NTRACK_MAX_KEYS":              "NTRACK_MAX_MEMORY",
		"NTRACK_MAX_PEERS":             "NTRACK_MAX_MEMORY",
		"NTRACK_MAX_PEERS_PER_KEY":     "NTRACK_MAX_MEMORY",
		"NTRACK_KEYS":                  "",
		"NTRACK_MAX_RATE":              "",
		"NTRACK_INTEROP":               "",
		"NTRACK_TRACKER":               "",
		"NTRACK_PEERS":                 "",
		"NTRACK_PORT":                  "",
		"NTRACK_PORT_6969_TCP_ADDR":    "",
		"NTRACK_SERVICE_HOST":          "",
		"NTRACK_ADMIN_SERVICE_PORT":    "",
		"NTRACK_SERVICE_PORT_ANNOUNCE": "",
		"MAX_RATE":                     "",
		"NTRACK_":                      "",
		"NTRACK_X":                     "",
	} {
		if got := l.variableMeant(name); got != want {
			t.Errorf("$%s: did you mean %q? want %q", name, got, want)
		}
	}
	var out bytes.Buffer
	t.Setenv("NTRACK_TOKEN", "swordfish")
	l.noteMisspelt(Streams{Err: &out})
	if got := out.String(); got != "ntrack: $NTRACK_TOKEN is not a variable that serve reads; did you mean $NTRACK_TOKEN_FILE?\n" {
		t.Error(got)
	}
	if !slices.ContainsFunc(environment, func(v variable) bool { return v.name == "NTRACK_<OPTION>" }) {
		t.Error("the help does not have NTRACK_<OPTION>")
	}
}
