package servertest

import (
	"errors"
	"fmt"
	"strings"
)

// A body is the expected body of a reply: parts, one after the other.
type body []part

// A part is one of four kinds: a literal, a pick, an "any" or an "as".
type part struct {
	Literal latin1 `json:"-"` // these bytes
	// Pick is how many different elements of Of must be there, in any order, with Sep between them.
	Pick int      `json:"pick"`
	Of   []latin1 `json:"of"`
	Sep  latin1   `json:"sep"`
	// Any stands for one or more bytes that are not control characters.
	Any bool `json:"any"`
	// As is a name. Where it first appears in a scenario, it stands for the same as Any. Wherever
	// it appears again, it stands for the bytes that matched the first time.
	As string `json:"as"`
}

// UnmarshalJSON reads a list of parts, or a string, which is a body with one literal.
func (b *body) UnmarshalJSON(data []byte) error {
	if data[0] != '[' {
		var l latin1
		if err := l.UnmarshalJSON(data); err != nil {
			return err
		}
		*b = body{{Literal: l}}
		return nil
	}
	var parts []part
	if err := strict(data, &parts); err != nil {
		return err
	}
	*b = parts
	return nil
}

// UnmarshalJSON reads a string, which is a literal, or an object, which is any other part.
func (p *part) UnmarshalJSON(data []byte) error {
	if data[0] != '{' {
		return p.Literal.UnmarshalJSON(data)
	}
	type fields part // has no UnmarshalJSON, so strict does not call this method again
	if err := strict(data, (*fields)(p)); err != nil {
		return err
	}
	wild := p.Any || p.As != ""
	switch {
	case wild && (p.Any && p.As != "" || p.Pick != 0 || p.Of != nil || p.Sep != ""):
		return errors.New(`"any" or "as" stands alone: no other field may be next to it`)
	case !wild && (p.Pick < 1 || p.Pick > len(p.Of)):
		return fmt.Errorf("cannot pick %d of %d", p.Pick, len(p.Of))
	}
	return nil
}

// match says whether got matches b. right is the length of the longest beginning of got that a
// match could have. texts has the text of each As that is known, and match adds the others.
func (b body) match(got string, texts map[string]string) (ok bool, right int) {
	m := matcher{got: got, texts: texts}
	ok = m.parts(b, 0)
	return ok, m.right
}

// A matcher tries all possibilities one after the other. That is fast enough, because bodies are
// small. Its methods look at got from the byte at on.
type matcher struct {
	got   string
	texts map[string]string
	right int
}

// parts says whether the rest of got is parts.
func (m *matcher) parts(parts []part, at int) bool {
	m.right = max(m.right, at)
	if len(parts) == 0 {
		return at == len(m.got)
	}
	p, rest := parts[0], parts[1:]
	text, known := m.texts[p.As]
	switch {
	case known:
		return m.literal(text, at) && m.parts(rest, at+len(text))
	case p.Any || p.As != "":
		for end := at; end < len(m.got) && m.got[end] >= ' ' && m.got[end] != 0x7f; end++ {
			if p.As != "" {
				m.texts[p.As] = m.got[at : end+1]
			}
			if m.parts(rest, end+1) {
				return true
			}
		}
		delete(m.texts, p.As)
		return false
	case p.Pick > 0:
		return m.pick(p, make([]bool, len(p.Of)), p.Pick, rest, at)
	default:
		return m.literal(string(p.Literal), at) && m.parts(rest, at+len(p.Literal))
	}
}

// pick says whether the rest of got is n elements of p.Of that are not used, and then rest.
func (m *matcher) pick(p part, used []bool, n int, rest []part, at int) bool {
	m.right = max(m.right, at)
	if n == 0 {
		return m.parts(rest, at)
	}
	if n < p.Pick {
		if !m.literal(string(p.Sep), at) {
			return false
		}
		at += len(p.Sep)
	}
	for i, element := range p.Of {
		if used[i] || !m.literal(string(element), at) {
			continue
		}
		used[i] = true
		if m.pick(p, used, n-1, rest, at+len(element)) {
			return true
		}
		used[i] = false
	}
	return false
}

// literal says whether got goes on with l.
func (m *matcher) literal(l string, at int) bool {
	n := 0
	for n < len(l) && at+n < len(m.got) && m.got[at+n] == l[n] {
		n++
	}
	m.right = max(m.right, at+n)
	return n == len(l)
}

func (b body) String() string {
	var s []string
	for _, p := range b {
		switch {
		case p.Any:
			s = append(s, "(any text)")
		case p.As != "":
			s = append(s, "("+p.As+")")
		case p.Pick > 0:
			s = append(s, fmt.Sprintf("(%d of %q, separated by %q)", p.Pick, p.Of, p.Sep))
		default:
			s = append(s, fmt.Sprintf("%q", string(p.Literal)))
		}
	}
	return strings.Join(s, " ")
}
