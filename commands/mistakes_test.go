package commands

import (
	"strings"
	"testing"
)

// Each line gets the guess that it should, first if its tracker is unreachable, and then if it has
// too many arguments.
func TestGuess(t *testing.T) {
	const two, inFile, alone = "of two arguments the first is the TRACKER; did you mean\n  ntrack ",
		"with --key-file an argument is the TRACKER; did you mean\n  ntrack ", "one argument is the KEY; did you mean\n  ntrack "
	for _, tt := range []struct{ line, why, meant string }{
		{"announce lobby 4000", two, "announce lobby --port 4000"},
		{"announce lobby 4000 --stay", two, "announce lobby --stay --port 4000"},
		{"watch lobby 04000 --min 2", two, "watch lobby --min 2 --port 04000"},
		{"list lobby 4000", two, "list lobby"},
		{"announce lobby localhost:6969 --port 4000", two, "announce localhost:6969 lobby --port 4000"},
		{"watch chat.v2 http://T/announce", two, "watch http://T/announce chat.v2"},
		{"list lobby 127.0.0.1", two, "list 127.0.0.1 lobby"},
		{"announce my room", two, "announce 'my room'"},
		{"list my rööm -q", two, "list 'my rööm' -q"},
		{"announce lobby --port 4000 no-such-program", two, "announce lobby --port 4000 -- no-such-program"},
		{"announce lobby --port 4000 sh", two, "announce lobby --port 4000 -- sh"},
		{"announce lobby sh --from :4000", two, "announce lobby --from :4000 -- sh"},
		{"announce lobby no-such-program --port 4000", two, "announce 'lobby no-such-program' --port 4000"},
		{"announce lobby sh", two, "announce 'lobby sh'"},
		{"watch lobby --port 4000 sh", two, "watch 'lobby sh' --port 4000"},
		{"announce lobby --port 4000 sh -- true", two, "announce 'lobby sh' --port 4000 -- true"},
		{"announce lobby --stay true", two, "announce lobby --stay"},
		{"announce lobby --stay --port 4000 true", two, "announce lobby --stay --port 4000 -- true"},
		{"announce lobby --key-file F --port 1", inFile, "announce --key-file F --port 1"},
		{"watch --key-file F lobby", inFile, "watch --key-file F"},
		{"announce --key-file F --port 1 sh", inFile, "announce --key-file F --port 1 -- sh"},
		{"announce tracker.example --port 1", alone, "announce tracker.example KEY --port 1"},
		{"list tracker.example", alone, "list tracker.example KEY, or ntrack list -t tracker.example"},

		{"announce --port 1 -- sh lobby", missingKey, "ntrack announce KEY --port 1 -- sh ..."},
		{"watch --min 2 --port 0 -- sh lobby", missingKey, "ntrack watch KEY --min 2 --port 0 -- sh ..."},

		// These have no guess: the line is probably right, and its tracker is away.
		{"announce lobby --port 1", "", ""},
		{"announce --stay -- sh lobby", "", ""},
		{"announce tracker.example lobby", "", ""},
		{"announce localhost 4000", "", ""},
		{"announce localhost:1 my-room --port 1", "", ""},
		{"announce localhost:1 localhost:2", "", ""},
		{"announce --key-file F localhost:1", "", ""},
		{"announce -t lobby 4000", "", ""},
		{"announce --port 1 -- lobby localhost:6969", "", ""},
		{"list -- tracker.example", "", ""},
		{"list -t lobby tracker.example", "", ""},
		{"serve", "", ""},
	} {
		want := tt.why + tt.meant
		if got := parsed(t, tt.line).guess(false); got != want {
			t.Errorf("ntrack %s: guess\n%s\nwant\n%s", tt.line, got, want)
		}
		if _, rest, quoted := strings.Cut(tt.meant, "'"); quoted && strings.Contains(rest, " ") {
			want = "" // the guess of one KEY with a space is not for a first argument with an address
		}
		if got := parsed(t, tt.line).guess(true); got != want {
			t.Errorf("ntrack %s: guess if the first argument has an address\n%s\nwant\n%s", tt.line, got, want)
		}
	}
	for line, meant := range map[string]string{
		"announce --port 1 -- sh -c id":               "announce KEY --port 1 -- sh ...",
		"watch --min 2 --port 1 -- sh -c id":          "watch KEY --min 2 --port 1 -- sh ...",
		"announce --port 1 -- my-service --port 1":    "announce KEY --port 1 -- my-service ...",
		"announce --port 1 -- lobby --numwant 3":      "announce --port 1 --numwant 3 -- lobby",
		"watch --port 1 -- sh -c id":                  "watch --port 1 -c id -- sh",
		"announce localhost:6969 lobby 4000":          "announce localhost:6969 lobby --port 4000",
		"announce lobby --port 4000 sh file":          "announce lobby --port 4000 -- sh ...",
		"announce T:1 lobby --port 4000 sh file":      "announce T:1 lobby --port 4000 -- sh ...",
		"announce my nice room":                       "announce 'my nice room'",
		"announce T:1 my nice room":                   "announce T:1 'my nice room'",
		"watch localhost 6969 lobby":                  "watch localhost:6969 lobby",
		"list http://u:secret@T/ my room":             "list http://...@T/ 'my room'",
		"list tracker.example my room":                "",
		"announce -t T lobby 4000":                    "announce lobby -t T --port 4000",
		"announce -t T my room":                       "announce 'my room' -t T",
		"announce -t T lobby --port 1 sh":             "announce lobby -t T --port 1 -- sh",
		"announce -t T localhost:1 lobby":             "",
		"announce -t T lobby --key-file F --port 1 x": "",
	} {
		got := parsed(t, line).tooMany("why").Error()
		if want := "why; did you mean\n  ntrack " + meant; meant != "" && got != want || meant == "" && !strings.HasPrefix(got, "why; see `ntrack ") {
			t.Errorf("ntrack %s: too many arguments\n%s\nwant\n%s", line, got, want)
		}
	}
}

func parsed(t *testing.T, text string) *line {
	t.Helper()
	_, l, err := arrangeArgs(newApp(Streams{}), append([]string{"ntrack"}, strings.Fields(text)...))
	if err != nil {
		t.Fatalf("ntrack %s: %v", text, err)
	}
	return l
}
