package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackpal/bencode-go"
)

// maxDepth is how deep values may be nested. A list of peers has depth 3, and the deepest known reply
// has depth 5.
const maxDepth = 16

// maxValues is the most values that a reply may have. It limits the memory and the time to decode the
// reply: a small value needs a hundred times the memory of its bytes. A scrape has four values for
// each track.
const maxValues = 1 << 18

// decodeBencode decodes one dictionary. A scanner checks the input first, because bencode-go panics on
// some hostile input and accepts some input that is not bencode.
func decodeBencode(b []byte) (map[string]any, error) {
	b = bytes.TrimRight(b, " \t\r\n") // some trackers end their reply with a newline
	s := scanner{b: b}
	if err := s.value(0); err != nil {
		return nil, fmt.Errorf("bencode at byte %d: %w", s.i, err)
	}
	if s.i != len(b) {
		return nil, fmt.Errorf("bencode at byte %d: %d more bytes after the end", s.i, len(b)-s.i)
	}
	v, err := bencode.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("bencode: %w", err)
	}
	d, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("bencode: not a dictionary")
	}
	return d, nil
}

// A scanner checks bencode (BEP 3) strictly, with one exception: the keys of a dictionary may be in any
// order, because some trackers do not sort them.
type scanner struct {
	b      []byte
	i      int // the index of the next byte
	values int // how many values have begun
}

func (s *scanner) value(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if s.values++; s.values > maxValues {
		return fmt.Errorf("more than %d values", maxValues)
	}
	switch c := s.peek(); {
	case '0' <= c && c <= '9':
		_, err := s.string()
		return err
	case c == 'i':
		s.i++
		return s.int()
	case c == 'l':
		s.i++
		for s.peek() != 'e' {
			if err := s.value(depth + 1); err != nil {
				return err
			}
		}
		s.i++
		return nil
	case c == 'd':
		s.i++
		return s.dict(depth)
	case s.i >= len(s.b):
		return errors.New("ends too early")
	default:
		return fmt.Errorf("byte %q does not begin a value", c)
	}
}

func (s *scanner) dict(depth int) error {
	var keys [][]byte
	var seen map[string]bool // all keys, once one is out of order; sorted keys can only repeat the last one
	for s.peek() != 'e' {
		if c := s.peek(); c < '0' || c > '9' {
			return errors.New("dictionary key is not a string")
		}
		key, err := s.string()
		if err != nil {
			return err
		}
		if n := len(keys); seen == nil && n > 0 && bytes.Compare(key, keys[n-1]) <= 0 {
			seen = make(map[string]bool, n)
			for _, k := range keys {
				seen[string(k)] = true
			}
		}
		if seen == nil {
			keys = append(keys, key)
		} else if seen[string(key)] {
			return fmt.Errorf("dictionary key %s is repeated", Quote(key))
		} else {
			seen[string(key)] = true
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
	s.i++
	return nil
}

// peek returns the next byte, or 0 at the end. No value begins with 0.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// digits reads decimal digits without leading zeros, and the byte end after them. It returns the
// digits.
func (s *scanner) digits(end byte) (string, error) {
	n := bytes.IndexByte(s.b[s.i:min(len(s.b), s.i+20)], end)
	if n < 1 {
		return "", fmt.Errorf("a number without %q at its end", end)
	}
	d := s.b[s.i : s.i+n]
	for _, c := range d {
		if c < '0' || c > '9' {
			return "", fmt.Errorf("byte %q in a number", c)
		}
	}
	if d[0] == '0' && n > 1 {
		return "", errors.New("a number with a leading zero")
	}
	s.i += n + 1
	return string(d), nil
}

func (s *scanner) int() error {
	minus := ""
	if s.peek() == '-' {
		s.i++
		minus = "-"
	}
	d, err := s.digits('e')
	if err != nil {
		return err
	}
	if minus != "" && d == "0" {
		return errors.New("minus zero")
	}
	if _, err := strconv.ParseInt(minus+d, 10, 64); err != nil {
		return errors.New("a number of more than 64 bits")
	}
	return nil
}

func (s *scanner) string() ([]byte, error) {
	d, err := s.digits(':')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(d)
	if err != nil || n > len(s.b)-s.i {
		return nil, fmt.Errorf("a string of %s bytes, but only %d bytes are left", d, len(s.b)-s.i)
	}
	s.i += n
	return s.b[s.i-n : s.i], nil
}
