package output

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode/utf8"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// A Row is one peer of a result, for a [Template].
type Row struct {
	Peer  netip.AddrPort
	Label string             // as in [wire.Reply]; "" without one
	Event announce.EventType // with FieldEvent: join or leave
	Rank  int                // with FieldRank: the place in the list, from 0
}

// Rows returns a row for each peer, in the same order. Their ranks are 0, 1, 2 and so on.
func Rows(peers []netip.AddrPort) []Row {
	rows := make([]Row, len(peers))
	for i, p := range peers {
		rows[i] = Row{Peer: p, Rank: i}
	}
	return rows
}

// The fields of templates that only some results have. FieldLabel is here because a label costs a
// request in some commands.
const (
	FieldLabel = "Label"
	FieldEvent = "Event"
	FieldRank  = "Rank"
)

// A Template writes the peers of a result as its user wants them: the value of --format. Each peer is
// one execution of a text/template, and ends with a newline.
type Template struct {
	t          *template.Template
	used       []string
	lines      int    // the lines of each peer; 0 if their number varies
	begin, end string // what the text of each peer begins and ends with
}

// fields is what a template reads of a Row. String is for {{.}}.
type fields struct {
	IP, Endpoint, Scope, Label, Event string
	Port, Rank                        int
}

func (f fields) String() string { return f.Endpoint }

// maxText bounds what a template may write for one peer, in bytes.
const maxText = 64 << 10

// A TemplateError is a mistake in a template.
type TemplateError struct {
	Action    string // the action with the mistake, such as {{.Prot}}, or a part of it
	Line, Col int    // where it begins, from 1; Col counts characters
	Text      string // what is wrong
}

func (e *TemplateError) Error() string {
	at := fmt.Sprintf("column %d", e.Col)
	if e.Line > 1 {
		at = fmt.Sprintf("line %d, %s", e.Line, at)
	}
	return fmt.Sprintf("%s at %s: %s", wire.Clean(e.Action), at, e.Text)
}

// ParseTemplate parses a template and tries it, so that it works for every peer, except if it is about
// the length or the form of a label. more are the fields that the result has besides .IP, .Port,
// .Endpoint, .Scope and .Label. The error is a [TemplateError], unless the text is empty.
func ParseTemplate(text string, more ...string) (*Template, error) {
	if text == "" {
		return nil, errors.New("the template is empty; name a field of a peer, such as {{.Endpoint}}")
	}
	root, err := template.New("").Parse(text)
	if err != nil {
		return nil, parseError(text, err)
	}
	t := &Template{t: root}
	c := checker{text: text, known: append([]string{"IP", "Port", "Endpoint", "Scope", FieldLabel}, more...)}
	c.visit(root.Root)
	if c.err != nil {
		return nil, c.err
	}
	if len(c.used) == 0 {
		return nil, &TemplateError{text, 1, 1, "it has no field of a peer, such as {{.Endpoint}}"}
	}
	t.used = c.used
	t.begin, t.end = literal(root.Root.Nodes[0]), literal(root.Root.Nodes[len(root.Root.Nodes)-1])
	var lines [2]int
	for i, sample := range [2]Row{
		{Peer: netip.MustParseAddrPort("192.0.2.1:4000"), Event: announce.EventJoin},
		{Peer: netip.MustParseAddrPort("[2001:db8::1]:65535"), Event: announce.EventLeave, Rank: 1, Label: "a label of 20 bytes."},
	} {
		one, err := t.text(sample)
		if err != nil {
			return nil, executionError(text, err)
		}
		lines[i] = strings.Count(one, "\n")
	}
	if lines[0] == lines[1] {
		t.lines = lines[0]
	}
	return t, nil
}

// Uses reports whether the template reads a field, such as FieldLabel.
func (t *Template) Uses(field string) bool { return slices.Contains(t.used, field) }

// Texts returns the text of each row, with its newline. The label of a peer may not fit the template:
// then this row is left out, and the error names the first of these peers.
func (t *Template) Texts(rows ...Row) (texts []string, failed error) {
	for _, r := range rows {
		text, err := t.text(r)
		if err == nil {
			texts = append(texts, text)
		} else if failed == nil {
			failed = fmt.Errorf("%s is left out: %w", r.Peer, executionError("", err))
		}
	}
	return texts, failed
}

// Write writes the texts of all rows at once. An error about a row does not keep it from writing the
// others.
func (t *Template) Write(w io.Writer, rows ...Row) error {
	texts, failed := t.Texts(rows...)
	if len(texts) == 0 {
		return failed
	}
	_, err := io.WriteString(w, strings.Join(texts, ""))
	return errors.Join(err, failed)
}

// Split splits a text that this template has written into the texts of its peers. It drops what
// another template has written, as far as it can see that. If the template does not always write the
// same number of lines, Split returns nothing.
func (t *Template) Split(text string) (texts []string) {
	lines := strings.SplitAfter(text, "\n") // the last one is "" if text is whole
	for n := t.lines; n > 0 && len(lines) > n; lines = lines[n:] {
		one := strings.Join(lines[:n], "")
		if len(one) > len(t.begin)+len(t.end) && strings.HasPrefix(one, t.begin) && strings.HasSuffix(one, t.end+"\n") {
			texts = append(texts, one)
		}
	}
	return texts
}

// literal returns the text of a node, if it is the same for every peer.
func literal(n parse.Node) string {
	if text, ok := n.(*parse.TextNode); ok {
		return string(text.Text)
	}
	return ""
}

// text returns the text of one peer, with its newline.
func (t *Template) text(r Row) (string, error) {
	addr := r.Peer.Addr()
	var b bounded
	err := t.t.Execute(&b, fields{IP: addr.String(), Port: int(r.Peer.Port()), Endpoint: r.Peer.String(),
		Scope: wire.ScopeOf(addr).String(), Label: labelText(r.Label), Event: string(r.Event), Rank: r.Rank})
	return b.String() + "\n", err
}

// bounded is a buffer that takes at most maxText bytes.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxText {
		return 0, fmt.Errorf("the text of a peer exceeds %d KiB", maxText>>10)
	}
	return b.Buffer.Write(p)
}

// A checker looks for what a template must not have, and for the fields that it uses.
type checker struct {
	text  string
	known []string
	used  []string
	err   error // the first mistake
}

// visit visits a node and all nodes below it. A list of them may be nil.
func (c *checker) visit(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, n := range n.Nodes {
				c.visit(n)
			}
		}
	case *parse.ActionNode:
		c.visit(n.Pipe)
	case *parse.IfNode:
		c.branch(&n.BranchNode)
	case *parse.WithNode:
		c.branch(&n.BranchNode)
	case *parse.RangeNode: // it may be endless
		c.mistake(n, "{{range}}", "there is nothing to range over: the template is for one peer")
	case *parse.TemplateNode: // it may be endless, too
		c.mistake(n, "{{template}}", "a template that is used by name is not supported")
	case *parse.PipeNode:
		for _, cmd := range n.Cmds {
			for _, n := range cmd.Args {
				c.visit(n)
			}
		}
	case *parse.DotNode:
		c.use("Endpoint")
	case *parse.FieldNode:
		c.field(n, n.Ident)
	case *parse.VariableNode:
		c.field(n, n.Ident[1:])
	case *parse.ChainNode:
		c.visit(n.Node)
		c.field(n, n.Field)
	}
}

func (c *checker) branch(n *parse.BranchNode) {
	c.visit(n.Pipe)
	c.visit(n.List)
	c.visit(n.ElseList)
}

// field checks the names that follow each other in a node, such as .IP.
func (c *checker) field(n parse.Node, names []string) {
	for i, name := range names {
		switch {
		case !slices.Contains(c.known, name):
			c.mistake(n, n.String(), fmt.Sprintf("there is no .%s here; there are .%s", name, strings.Join(c.known, ", .")))
		case i > 0:
			c.mistake(n, n.String(), fmt.Sprintf(".%s has no fields", names[i-1]))
		}
		c.use(name)
	}
}

func (c *checker) use(field string) { c.used = append(c.used, field) }

func (c *checker) mistake(n parse.Node, action, text string) {
	if c.err == nil {
		c.err = errorAt(c.text, int(n.Position()), action, text)
	}
}

func errorAt(text string, offset int, action, what string) *TemplateError {
	before := text[:min(offset, len(text))]
	line := before[strings.LastIndexByte(before, '\n')+1:]
	return &TemplateError{action, 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(line), what}
}

// parseError turns an error of package template, which has only a line, into one that has the action.
// That is the last action of the shortest part of the text that has a mistake by itself.
func parseError(text string, err error) error {
	begin, end := 0, 0
	for end < len(text) {
		begin = end + max(0, strings.Index(text[end:], "{{"))
		length := strings.Index(text[begin:], "}}")
		if length < 0 {
			end = len(text)
			break
		}
		end = begin + length + len("}}")
		if _, e := template.New("").Parse(text[:end]); e != nil && !strings.HasSuffix(e.Error(), "unexpected EOF") {
			err = e
			break
		}
	}
	if strings.HasSuffix(err.Error(), "unexpected EOF") {
		return errorAt(text, len(text), "the end", "{{end}} is missing")
	}
	return errorAt(text, begin, text[begin:end], parseText.ReplaceAllString(err.Error(), ""))
}

var (
	parseText     = regexp.MustCompile(`^template: :\d+: `)
	executionText = regexp.MustCompile(`(?s)^template: :(\d+):(\d+): executing "" at <(.*?)>: (.*)$`)
)

// executionError turns an error of package template into a TemplateError. text may be "" if the column
// may be counted in bytes.
func executionError(text string, err error) error {
	m := executionText.FindStringSubmatch(err.Error())
	if m == nil { // of bounded
		return &TemplateError{"the template", 1, 1, err.Error()}
	}
	line, _ := strconv.Atoi(m[1])
	col, _ := strconv.Atoi(m[2])
	if lines := strings.Split(text, "\n"); line <= len(lines) && col <= len(lines[line-1]) {
		col = utf8.RuneCountInString(lines[line-1][:col])
	}
	return &TemplateError{m[3], line, col + 1, wire.Clean(m[4])}
}
