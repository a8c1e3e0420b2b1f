package docs_test

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
)

// specification returns the code blocks of docs/PROTOCOL.md.
func specification(t *testing.T) (blocks []string) {
	b, err := os.ReadFile("docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(string(b), "```") {
		if i%2 == 1 {
			blocks = append(blocks, strings.TrimPrefix(part, "\n"))
		}
	}
	return blocks
}

// The specification stays short: its sections 1 to 14, with the page in front of them, as wc -w counts.
func TestSpecificationIsShort(t *testing.T) {
	text, err := os.ReadFile("docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	core, _, found := strings.Cut(string(text), "\n## 15. ")
	if n := len(strings.Fields(core)); n > 5500 || !found {
		t.Errorf("sections 1 to 14 have %d words, want at most 5500 (section 15 found: %v)", n, found)
	}
}

// Every rule of the grammars is defined once, and every string says which case it is in.
func TestGrammar(t *testing.T) {
	defined := strings.Fields("alpha digit hexdig vchar octet sp wsp lf dquote ipv4address ipv6address") // RFC 5234 and 3986
	core := len(defined)
	var used []string
	rule := regexp.MustCompile(`(?m)^([A-Za-z][A-Za-z0-9-]*) +=`)
	blocks := specification(t)
	for _, block := range blocks {
		if !rule.MatchString(block) {
			continue
		}
		for _, m := range rule.FindAllStringSubmatch(block, -1) {
			if name := strings.ToLower(m[1]); slices.Contains(defined, name) {
				t.Errorf("the rule %s is defined twice", name)
			} else {
				defined = append(defined, name)
			}
		}
		anyCase := strings.Contains(block, "in any case of letters")
		block = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(block, "") // prose
		for _, m := range regexp.MustCompile(`(%s)?"([^"]*)"`).FindAllStringSubmatch(block, -1) {
			if m[1] == "" && strings.ContainsFunc(m[2], isLetter) && !anyCase {
				t.Errorf("the string %q stands for itself in any case of letters: write %%s before it", m[2])
			}
		}
		block = regexp.MustCompile(`(%s)?"[^"]*"|;.*|%x[0-9A-F-]+`).ReplaceAllString(block, " ")
		for _, name := range regexp.MustCompile(`[A-Za-z][A-Za-z0-9-]*`).FindAllString(block, -1) {
			used = append(used, strings.ToLower(name))
		}
	}
	if len(defined) < core+30 {
		t.Errorf("found only %d rules", len(defined)-core)
	}
	for _, name := range used {
		if !slices.Contains(defined, name) {
			t.Errorf("the rule %s is used, and not defined", name)
		}
	}
}

func isLetter(r rune) bool { return 'a' <= r|0x20 && r|0x20 <= 'z' }

// The examples are what a tracker sends. A dot in one that is bencode stands for any byte.
func TestSpecificationExamples(t *testing.T) {
	tr := &tracker.Tracker{Interval: time.Minute}
	ask := func(from, target string) string {
		_, body := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte(target), Remote: netip.MustParseAddrPort(from)}, nil)
		return string(body)
	}
	ask("192.0.2.2:2", "/ntrk/chat")
	ask("198.51.100.2:2002", "/announce?info_hash=12345678901234567890")
	ask("[2001:db8::4]:4004", "/announce?info_hash=12345678901234567890")
	ask("192.0.2.1:4000", "/announce?info_hash=12345678901234567890")
	you := wire.AppendYou(nil, "5f3a9c", netip.MustParseAddrPort("192.0.2.1:4000"), 150*time.Second, 1500*time.Millisecond, -1)
	you = wire.AppendEvent(you, "peers", wire.Peer{Endpoint: netip.MustParseAddrPort("198.51.100.2:2002")}, wire.Peer{Endpoint: netip.MustParseAddrPort("[2001:db8::4]:4004")})
	blocks := specification(t)
	for _, want := range []string{
		strings.TrimSuffix(string(you), "\n"),
		ask("192.0.2.1:4000", "/ntrk/chat?port=4000&format=json"),
		ask("192.0.2.1:4000", "/announce?info_hash=chat&compact=1") + "\n",
		ask("192.0.2.1:4000", "/announce?port=1") + "\n",
		ask("192.0.2.1:4000", "/scrape?info_hash=12345678901234567890") + "\n",
	} {
		if !slices.ContainsFunc(blocks, func(b string) bool {
			pattern := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(b), `\.`, ".") + "$"
			return regexp.MustCompile(pattern).MatchString(latin1(want))
		}) {
			t.Errorf("no example is like this reply: %q", want)
		}
	}
}

// latin1 returns one character for each byte of s.
func latin1(s string) string {
	var text strings.Builder
	for i := range len(s) {
		text.WriteRune(rune(s[i]))
	}
	return text.String()
}
