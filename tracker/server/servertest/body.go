package servertest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A body is the expected body of a reply, or the value of a header: parts, one after the other.
type body []part

// A part has one kind: a literal, a pick, an "any", an "as", a "number" or an "either".
type part struct {
	Literal latin1 `json:"-"` // these bytes
	// Pick is how many different elements of Of must be there, in any order, with Sep between them.
	// Where several elements fit, the longest counts.
	Pick int      `json:"pick"`
	Of   elements `json:"of"`
	Sep  latin1   `json:"sep"`
	// Any stands for one or more bytes that are not control characters.
	Any bool `json:"any"`
	// As is a name. Where it first appears in a scenario, it stands for the same as Any. Wherever
	// it appears again, it stands for the bytes that matched the first time.
	As string `json:"as"`
	// Number is the least and the greatest value of a decimal number without leading zeros.
	Number *[2]int `json:"number"`
	// Either has bodies. One of them must be there.
	Either []body `json:"either"`
}

// elements are the bytes that a pick chooses from.
type elements struct {
	list    []latin1
	lengths []int // of the elements, longest first, each once
}

// UnmarshalJSON reads a list. An element is a string, or an object: a text with {n} in it and a
// range of numbers, which stands for one string per number.
func (e *elements) UnmarshalJSON(data []byte) error {
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	for _, element := range list {
		var s struct {
			Text   latin1 `json:"text"`
			Repeat repeat `json:"repeat"`
		}
		if element[0] == '{' {
			if err := strict(element, &s); err != nil {
				return err
			}
		} else if err := s.Text.UnmarshalJSON(element); err != nil {
			return err
		}
		texts, err := s.Repeat.texts(s.Text)
		if err != nil {
			return err
		}
		e.list = append(e.list, texts...)
	}
	for _, element := range e.list {
		e.lengths = append(e.lengths, len(element))
	}
	slices.SortFunc(e.lengths, func(a, b int) int { return cmp.Compare(b, a) })
	e.lengths = slices.Compact(e.lengths)
	return nil
}

// A repeat is the first and the last of the numbers that stand for {n}; the zero repeat is none.
type repeat [2]int

// texts returns text once for each number of r, with the number in the place of {n}. The zero
// repeat returns text as it is.
func (r repeat) texts(text latin1) ([]latin1, error) {
	if r == (repeat{}) {
		return []latin1{text}, nil
	}
	before, after, found := strings.Cut(string(text), "{n}")
	if !found || strings.Contains(after, "{n}") || r[0] < 1 || r[1] < r[0] {
		return nil, fmt.Errorf(`cannot repeat %q from %d to %d: it needs {n} once, and numbers from 1 on`, text, r[0], r[1])
	}
	var texts []latin1
	for n := r[0]; n <= r[1]; n++ {
		texts = append(texts, latin1(before+strconv.Itoa(n)+after))
	}
	return texts, nil
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
	kinds := 0
	for _, is := range []bool{p.Pick != 0 || p.Of.list != nil || p.Sep != "", p.Any, p.As != "", p.Number != nil, p.Either != nil} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New(`a part stands alone: it is one of "pick", "any", "as", "number" and "either"`)
	case (p.Of.list != nil || p.Sep != "") && p.Pick < 1, p.Pick > len(p.Of.list):
		return fmt.Errorf(`cannot pick %d of %d: "pick" is from 1 to the number of elements in "of"`, p.Pick, len(p.Of.list))
	}
	return nil
}

// match reports whether got matches b. If not, fits is how many bytes at the beginning of got could
// still be part of a match. texts has the text of each As that is known, and match adds the others.
func (b body) match(got string, texts map[string]string) (ok bool, fits int) {
	m := matcher{got: got, texts: texts}
	ok = m.parts(b, 0)
	return ok, m.fits
}

// A matcher tries all possibilities one after the other. That is fast enough, because bodies have
// few parts. Its methods compare got from the index at.
type matcher struct {
	got   string
	texts map[string]string
	fits  int
}

// parts reports whether got[at:] matches these parts, to its end.
func (m *matcher) parts(parts []part, at int) bool {
	m.fits = max(m.fits, at)
	if len(parts) == 0 {
		return at == len(m.got)
	}
	p, rest := parts[0], parts[1:]
	text, known := m.texts[p.As] // without As, it is not known
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
		delete(m.texts, p.As) // it was only tried here
		return false
	case p.Either != nil:
		return slices.ContainsFunc(p.Either, func(b body) bool {
			return m.parts(slices.Concat(b, rest), at)
		})
	case p.Number != nil:
		end := m.number(*p.Number, at)
		return end >= 0 && m.parts(rest, end)
	case p.Pick > 0:
		end := m.pick(p, at)
		return end >= 0 && m.parts(rest, end)
	default:
		return m.literal(string(p.Literal), at) && m.parts(rest, at+len(p.Literal))
	}
}

// number returns the end of the number at at, or -1 if it is not in its range.
func (m *matcher) number(within [2]int, at int) int {
	end := at
	for end < len(m.got) && m.got[end] >= '0' && m.got[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(m.got[at:end])
	if err != nil || n < within[0] || n > within[1] || strconv.Itoa(n) != m.got[at:end] {
		return -1
	}
	return end
}

// pick returns the end of p.Pick different elements of p.Of at at, or -1 if they are not there.
func (m *matcher) pick(p part, at int) int {
	left := make(map[latin1]int)
	for _, element := range p.Of.list {
		left[element]++
	}
	for n := range p.Pick {
		if n > 0 {
			if !m.literal(string(p.Sep), at) {
				return -1
			}
			at += len(p.Sep)
		}
		i := slices.IndexFunc(p.Of.lengths, func(l int) bool {
			return at+l <= len(m.got) && left[latin1(m.got[at:at+l])] > 0
		})
		if i < 0 {
			return -1
		}
		end := at + p.Of.lengths[i]
		left[latin1(m.got[at:end])]--
		at = end
		m.fits = max(m.fits, at)
	}
	return at
}

// literal reports whether got[at:] begins with l.
func (m *matcher) literal(l string, at int) bool {
	n := 0
	for n < len(l) && at+n < len(m.got) && m.got[at+n] == l[n] {
		n++
	}
	m.fits = max(m.fits, at+n)
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
		case p.Number != nil:
			s = append(s, fmt.Sprintf("(%d to %d)", p.Number[0], p.Number[1]))
		case p.Either != nil:
			s = append(s, fmt.Sprintf("(one of %v)", p.Either))
		case p.Pick > 0:
			s = append(s, fmt.Sprintf("(%d of %.1000q, separated by %q)", p.Pick, p.Of.list[:min(len(p.Of.list), 20)], p.Sep))
		default:
			s = append(s, fmt.Sprintf("%q", string(p.Literal)))
		}
	}
	return strings.Join(s, " ")
}
