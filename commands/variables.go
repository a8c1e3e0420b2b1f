package commands

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// Each option of serve can come from a variable of the environment, because containers are configured
// by variables. The name of the variable follows from that of the option.
const variablePrefix = "NTRACK_"

// variableOf is the variable of an option: NTRACK_MAX_RATE for max-rate.
func variableOf(name string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// optionOf is variableOf the other way round.
func optionOf(variable string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(variable, variablePrefix), "_", "-"))
}

// addVariables adds the options that the line does not have and that the environment has. An empty
// variable counts as unset. In messages, such an option has the name of its variable.
func (l *line) addVariables() error {
	for _, f := range l.cmd.Flags {
		name := f.Names()[0]
		o := option{flag: f, typed: "$" + variableOf(name), value: strings.TrimSpace(os.Getenv(variableOf(name)))}
		if _, many := f.(*cli.StringSliceFlag); many {
			o.value = strings.Join(listOf(o.value), ",")
		}
		if o.value == "" || l.given(name) {
			continue
		}
		var err error
		if o.value, err = plainValue(o); err != nil {
			return l.mistake("%v", err)
		}
		l.options = append(l.options, o)
	}
	return nil
}

// listOf has the parts of a text with commas, without those that are empty.
func listOf(text string) []string {
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// fromVariable reports whether an option comes from the environment.
func (o option) fromVariable() bool { return strings.HasPrefix(o.typed, "$") }

var longOption = regexp.MustCompile(`--[a-z][a-z-]*`)

// respell replaces each option in a message by the variable that it comes from, if it comes from one.
// l may be nil.
func (l *line) respell(text string) string {
	if l == nil || !slices.ContainsFunc(l.options, option.fromVariable) {
		return text
	}
	return longOption.ReplaceAllStringFunc(text, func(dashed string) string {
		if o := l.find(dashed[2:]); o != nil && o.fromVariable() {
			return o.typed
		}
		return dashed
	})
}

// noteMisspelt warns of variables that are probably meant to be options. It shows no values, because a
// value may be a secret.
func (l *line) noteMisspelt(s Streams) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if meant := l.variableMeant(name); meant != "" {
			s.warn("$%s is not a variable that serve reads; did you mean $%s?", name, meant)
		}
	}
}

// serviceLink matches the variables that Kubernetes sets in every container about a service of the
// name ntrack.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)`)

// variableMeant is the variable of an option of which name is probably a misspelling, or "".
func (l *line) variableMeant(name string) string {
	typed, ok := strings.CutPrefix(name, variablePrefix)
	isName := func(v variable) bool { return v.name == name }
	if !ok || serviceLink.MatchString(name) || slices.ContainsFunc(environment, isName) {
		return ""
	}
	if meant := meantBy(optionsMeant[l.cmd.Name], optionOf(name)); strings.HasPrefix(meant, "--max-memory ") {
		return variableOf("max-memory") // for the limits that it has replaced
	}
	best, least := "", min(3, 1+len(typed)/3) // as many other letters make another word
	for _, f := range l.cmd.Flags {
		variable := variableOf(f.Names()[0])
		switch d := smetrics.WagnerFischer(name, variable, 1, 1, 1); {
		case d == 0:
			return ""
		case d < least && len(typed) > 3:
			best, least = variable, d
		case best == "" && (strings.HasSuffix(variable, "_"+typed) || strings.HasPrefix(variable, name+"_")):
			best = variable
		}
	}
	return best
}
