package wire

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// scan decodes text. The memory of the slice ends with the text, so a read beyond it panics.
func scan(text string) (map[string]any, error) { return decodeBencode(slices.Clip([]byte(text))) }

// nested returns a dictionary with a list, which has a list, and so on: depth lists.
func nested(depth int) string {
	return "d1:a" + strings.Repeat("l", depth) + strings.Repeat("e", depth) + "e"
}

// many returns a dictionary with lists. Together with the dictionary they are that many values.
func many(values int) string { return "d1:al" + strings.Repeat("le", values-2) + "ee" }

// The scanner accepts bencode up to its limits.
func TestScannerAccepts(t *testing.T) {
	for text, want := range map[string]string{
		"de":                          "map[]",
		"d0:0:e":                      "map[:]",
		"d1:a3:abce":                  "map[a:abc]",
		"d1:a0:e\r\n":                 "map[a:]",
		"d1:ai0ee":                    "map[a:0]",
		"d1:ai-1ee":                   "map[a:-1]",
		"d1:ai10ee":                   "map[a:10]",
		"d1:ai9223372036854775807ee":  "map[a:9223372036854775807]",
		"d1:ai-9223372036854775808ee": "map[a:-9223372036854775808]",
		"d1:ai1e1:bi2ee":              "map[a:1 b:2]",
		"d1:bi1e1:ai2e1:ci3ee":        "map[a:2 b:1 c:3]",
		"d1:ad1:ai1ee1:bli1e1:xee":    "map[a:map[a:1] b:[1 x]]",
		"d1:a10:0123456789e":          "map[a:0123456789]",
		nested(maxDepth):              "map[a:" + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + "]",
		strings.Repeat("d0:", maxDepth) + "de" + strings.Repeat("e", maxDepth): strings.Repeat("map[:", maxDepth) + "map[]" + strings.Repeat("]", maxDepth),
	} {
		got, err := scan(text)
		if s := fmt.Sprint(got); err != nil || s != want {
			t.Errorf("%q: %s, %v, want %s", text, s, err, want)
		}
	}
	if d, err := scan(many(maxValues)); err != nil || len(d["a"].([]any)) != maxValues-2 {
		t.Errorf("%d values: %v", maxValues, err)
	}
}

// The scanner refuses input that would make bencode-go panic, and input that bencode-go would accept
// although it is not bencode.
func TestScannerRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "byte 0: ends too early",
		"d":                             "byte 1: dictionary key is not a string",
		"d1:a":                          "byte 4: ends too early",
		"d1:al":                         "byte 5: ends too early",
		"i5e":                           "not a dictionary",
		"le":                            "not a dictionary",
		"3:abc":                         "not a dictionary",
		"x":                             `byte 0: byte 'x' does not begin a value`,
		"d1:ai1eex":                     "byte 8: 1 more bytes after the end",
		"d1:ai1e":                       "byte 7: dictionary key is not a string",
		"d5:peers9223372036854775807:":  "byte 28: a string of 9223372036854775807 bytes, but only 0 bytes are left",
		"d5:peers9223372036854775808:":  "byte 28: a string of 9223372036854775808 bytes, but only 0 bytes are left",
		"d5:peers99999999999999999999:": "byte 8: a number without ':' at its end",
		"d5:peers12:abcdefe":            "byte 11: a string of 12 bytes, but only 7 bytes are left", // the whole input has more than 12
		"d8:intervali60e5:peers5:abcd":  "byte 24: a string of 5 bytes, but only 4 bytes are left",
		"d8:intervali60e6:peers":        "byte 17: a string of 6 bytes, but only 5 bytes are left",
		"d5:peers-1:e":                  "byte 8: byte '-' does not begin a value",
		"d01:ai1ee":                     "byte 1: a number with a leading zero",
		"d1x:ai1ee":                     "byte 1: byte 'x' in a number",
		"d1":                            "byte 1: a number without ':' at its end",
		"d1:ai01ee":                     "a number with a leading zero",
		"d1:ai-01ee":                    "a number with a leading zero",
		"d1:ai00ee":                     "a number with a leading zero",
		"d1:ai-0ee":                     "minus zero",
		"d1:aiee":                       "a number without 'e' at its end",
		"d1:ai-ee":                      "a number without 'e' at its end",
		"d1:ai--1ee":                    "byte '-' in a number",
		"d1:ai+1ee":                     "byte '+' in a number",
		"d1:ai1.5ee":                    "byte '.' in a number",
		"d1:ai 1ee":                     "byte ' ' in a number",
		"d1:ai1":                        "a number without 'e' at its end",
		"d1:ai9223372036854775808ee":    "a number of more than 64 bits",
		"d1:ai-9223372036854775809ee":   "a number of more than 64 bits",
		"d1:ai1e1:ai2ee":                "dictionary key \"a\" is repeated",
		"d1:bi1e1:ai1e1:bi2ee":          "dictionary key \"b\" is repeated",
		"d1:bi1e1:ai1e1:ai2ee":          "dictionary key \"a\" is repeated",
		"di1ei2ee":                      "dictionary key is not a string",
		"d1:ai1eli2ee":                  "dictionary key is not a string",
		nested(maxDepth + 1):            fmt.Sprintf("nested deeper than %d", maxDepth),
		strings.Repeat("l", 1<<20):      fmt.Sprintf("nested deeper than %d", maxDepth),
		strings.Repeat("d1:a", 1<<20):   fmt.Sprintf("nested deeper than %d", maxDepth),
		many(maxValues + 1):             fmt.Sprintf("more than %d values", maxValues),
	} {
		got, err := scan(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d values, %v, want an error with %q", Quote(text), len(got), err, want)
		}
	}
}

// A reply that is cut off anywhere is an error.
func TestScannerTruncated(t *testing.T) {
	for _, whole := range []string{
		string((&Request{Compact: true}).AppendReply(nil, FormatBencode, &someReply, somePeers)),
		string((&Request{}).AppendReply(nil, FormatBencode, &someReply, somePeers)),
		string((&RefusalError{Reason: "no"}).Append(nil, FormatBencode, 1)),
	} {
		for n := range len(whole) {
			for _, b := range [][]byte{slices.Clip([]byte(whole[:n])), []byte(whole)[:n]} {
				if got, err := decodeBencode(b); err == nil {
					t.Errorf("%q: %v, want an error", b, got)
				}
			}
		}
		if _, err := scan(whole); err != nil {
			t.Errorf("%q: %v", whole, err)
		}
	}
}
