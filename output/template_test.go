package output_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ntrack/announce"
	"ntrack/output"
)

// Every mistake in a template is found before there are peers, and the error shows its place.
func TestTemplateMistakes(t *testing.T) {
	const here = "here; there are .IP, .Port, .Endpoint, .Scope, .Label"
	for text, want := range map[string]string{
		"{{.Prot}}":                                  ".Prot at column 3: there is no .Prot " + here,
		"{{.IP}}\n☕ {{.Rank}}":                       ".Rank at line 2, column 5: there is no .Rank " + here,
		"{{if false}}{{.Rank}}{{end}}":               ".Rank at column 15: there is no .Rank " + here,
		"{{if .IP}}{{else}}{{.Event}}{{end}}":        ".Event at column 21: there is no .Event " + here,
		"{{$p := .}}{{$p.Foo}}":                      "$p.Foo at column 16: there is no .Foo " + here,
		"{{(.).String}}":                             "(.).String at column 6: there is no .String " + here,
		"{{.IP.Port}}":                               ".IP.Port at column 6: .IP has no fields",
		"{{with .IP}}{{.Port}}{{end}}":               ".Port at column 15: can't evaluate field Port in type string",
		"{{with .Label}}{{.Port}}{{end}}":            ".Port at column 18: can't evaluate field Port in type string",
		"{{.IP}} {{.Port | nope}} {{.IP}}":           `{{.Port | nope}} at column 9: function "nope" not defined`,
		"☕{{.IP":                                     "{{.IP at column 2: unclosed action",
		"{{.IP}} }} {{.Foo":                          "{{.Foo at column 12: unclosed action",
		"{{if .IP}}x":                                "the end at column 12: {{end}} is missing",
		"{{.IP}}{{end}}":                             "{{end}} at column 8: unexpected {{end}}",
		"{{/* {{.IP}}":                               "{{/* {{.IP}} at column 1: unclosed comment",
		"{{.IP}}{{index .IP 99}}":                    "index .IP 99 at column 10: error calling index: index out of range: 99",
		"{{slice .Label 0 3}}":                       "slice .Label 0 3 at column 3: error calling slice: index out of range: 3",
		"{{.Foo}}{{.Bar}}":                           ".Foo at column 3: there is no .Foo " + here, // the first of two
		`{{$a := printf "%50000s" .IP}}{{$a}}{{$a}}`: "the template at column 1: the text of a peer exceeds 64 KiB",
		`{{printf "%99999s" .IP}}`:                   "the template at column 1: the text of a peer exceeds 64 KiB",
		"{{range 9999999999}}{{end}}{{.IP}}":         "{{range}} at column 9: there is nothing to range over: the template is for one peer",
		`{{.IP}}{{template "x"}}`:                    "{{template}} at column 19: a template that is used by name is not supported",
		`{{define "x"}}{{template "x"}}{{end}}{{block "y" .}}{{end}}`: "{{template}} at column 46: a template that is used by name is not supported",
		"json":            "json at column 1: it has no field of a peer, such as {{.Endpoint}}",
		"":                "the template is empty; name a field of a peer, such as {{.Endpoint}}",
		"{{\x1b[2J .IP}}": "{{?[2J .IP}} at column 1: unrecognized character in action: U+001B",
	} {
		if _, err := output.ParseTemplate(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
	for _, field := range []string{output.FieldEvent, output.FieldRank} {
		if _, err := output.ParseTemplate("{{."+field+"}}", field); err != nil {
			t.Errorf("a result that has %s: %v", field, err)
		}
	}
}

// Each peer is one line. What a peer has chosen is cleaned, and breaks the line of no other peer.
func TestTemplateWrite(t *testing.T) {
	rows := output.Rows([]netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("[2001:db8::1]:80"), netip.MustParseAddrPort("[fe80::1%eth0]:81"),
	})
	rows[0].Event, rows[0].Label = announce.EventJoin, "eu\n\x1b[2Jx"
	rows[1].Label = "-qB4520-"
	for text, want := range map[string]string{
		"{{.IP}} {{.Port}} {{.Endpoint}} {{.Scope}}": "192.0.2.1 4000 192.0.2.1:4000 public\n2001:db8::1 80 [2001:db8::1]:80 public\n" +
			"fe80::1%eth0 81 [fe80::1%eth0]:81 link-local\n",
		"{{.}}":                              "192.0.2.1:4000\n[2001:db8::1]:80\n[fe80::1%eth0]:81\n",
		"{{.Rank}} [{{.Event}}] {{.Label}}":  "0 [join] eu??[2Jx\n1 [] qBittorrent 4.5.2\n2 [] \n",
		"{{if lt .Port 81}}{{.Port}}{{end}}": "\n80\n\n",
		`{{printf "%5d" .Port}}{{"\t"}}\n`:   " 4000\t\\n\n   80\t\\n\n   81\t\\n\n",
	} {
		tpl, err := output.ParseTemplate(text, output.FieldEvent, output.FieldRank)
		var b bytes.Buffer
		if err == nil {
			err = tpl.Write(&b, rows...)
		}
		if err != nil || b.String() != want {
			t.Errorf("%q: %v\n%q, want\n%q", text, err, &b, want)
		}
	}

	tpl, err := output.ParseTemplate("{{if .Label}}{{slice .Label 0 10}}{{else}}{{.Port}}{{end}}")
	if err != nil || !tpl.Uses(output.FieldLabel) || tpl.Uses("IP") {
		t.Fatalf("%v, %+v", err, tpl)
	}
	var b bytes.Buffer
	rows[0].Label, rows[1].Label = "short", ""
	err = tpl.Write(&b, rows...)
	if b.String() != "80\n81\n" || err == nil || !strings.HasPrefix(err.Error(), "192.0.2.1:4000 is left out: slice .Label 0 10 at column 16: ") {
		t.Errorf("a label that does not fit: %q, %v", &b, err)
	}
}

// Split finds the texts that the same template has written, and drops the others.
func TestTemplateSplit(t *testing.T) {
	for _, tt := range []struct {
		template, text string
		want           []string
	}{
		{"server {{.Endpoint}};", "server a;\nserver b;\n", []string{"server a;\n", "server b;\n"}},
		{"server {{.Endpoint}};", "server a;\nSERVER b;\nserver c\nserver;\n\nserver d;", []string{"server a;\n"}},
		{"{{.IP}}", "a\nb", []string{"a\n"}},
		{"- a\n  {{.Port}}", "- a\n  1\n- a\n  2\n- a\n", []string{"- a\n  1\n", "- a\n  2\n"}},
		{"{{if .Label}}\n{{end}}{{.IP}}", "a\nb\n", nil}, // a peer has one line or two
		{"{{.IP}}", "", nil},
		{"aba{{.IP}}aba", "ababa\nabaxaba\n", []string{"abaxaba\n"}}, // begin and end do not overlap
	} {
		tpl, err := output.ParseTemplate(tt.template)
		if err != nil {
			t.Fatal(err)
		}
		if got := tpl.Split(tt.text); !slices.Equal(got, tt.want) {
			t.Errorf("%q splits %q into %q, want %q", tt.template, tt.text, got, tt.want)
		}
	}
}

// Any text is either a mistake, or a template that works.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"{{.IP}}", "{{if .Label}}{{.Port}}{{else}}x{{end}}", "{{range 3}}{{end}}", "{{.IP", `{{printf "%d" .Port}}`, "{{with $x := .IP}}{{$x}}{{end}}", "a\n{{(.IP).X}}", "", `{{define "x"}}{{.IP}}{{end}}`} {
		f.Add(text, "label")
	}
	peers := []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::2]:1"), netip.MustParseAddrPort("192.0.2.9:2")}
	f.Fuzz(func(t *testing.T, text, label string) {
		tpl, err := output.ParseTemplate(text)
		if err != nil {
			if text == "" {
				return // no place to name
			}
			if e := err.(*output.TemplateError); e.Line < 1 || e.Col < 1 || e.Action == "" || e.Text == "" {
				t.Errorf("%q: %#v", text, e)
			}
			return
		}
		rows := output.Rows(peers)
		rows[1].Label = label
		var b bytes.Buffer
		if err := tpl.Write(&b, rows...); err == nil && bytes.Count(b.Bytes(), []byte("\n")) < len(peers) {
			t.Errorf("%q writes %q", text, &b)
		}
	})
}
