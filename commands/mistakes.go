package commands

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// Some command lines have the right form but are probably mistakes: the KEY is missing, or two
// arguments are swapped. If that is almost certain, ntrack refuses the line before it sends a
// request. If it is only a guess, ntrack prints it when the tracker cannot be reached.

// takesKey reports whether the arguments of the command are [TRACKER] KEY.
func (l *line) takesKey() bool { return l.hasFlag("key-file") }

func (l *line) hasFlag(name string) bool { return findFlag(l.cmd, "--"+name) != nil }

// hasPort reports whether the line has an option with the port of the user's program.
func (l *line) hasPort() bool { return l.given("port") || l.given("from") }

// misplaced returns an error if the last argument, which should be the KEY, looks like something
// else.
func (l *line) misplaced() error {
	if l.literal || !l.takesKey() || l.given("key-file") || len(l.arguments) == 0 {
		return nil
	}
	key := l.arguments[len(l.arguments)-1]
	switch {
	case strings.HasPrefix(key, "\ufeff"):
		return l.mistake("the KEY begins with a byte order mark; --key-file FILE reads it without the mark")
	case strings.TrimRight(key, "\r\n") != key && strings.TrimRight(key, "\r\n") != "":
		return l.mistake("the KEY ends with a line break; --key-file FILE reads it without the break")
	case len(l.arguments) > 1 || l.given("tracker"):
		return nil
	}
	like := looksLike(key)
	what, meant := "", ""
	switch {
	case key == "help" && len(l.options) == 0 && l.command == nil:
		what, meant = "a question", "ntrack "+l.cmd.Name+" --help"
	case like == nil, like.tracker == "" && l.hasPort():
		return nil
	case like.tracker == "":
		what, meant = "a port", l.show([]string{"KEY"}, like.port)
	case like.ambiguous && l.hasFlag("port") && !l.hasPort():
		what, meant = "a KEY and a port", l.show([]string{like.key}, like.port)
	case like.key != "" && !like.ambiguous:
		what, meant = "the URL of a KEY", l.show([]string{like.tracker, like.key}, like.port)
	default:
		what, meant = "a tracker", l.showTracker(like.tracker)
	}
	text := fmt.Sprintf("one argument is the KEY, and %s looks like %s; try\n  %s\nor, if it is the KEY: %s",
		quote(key), what, meant, l.showLiteral())
	return &usageError{text: text, shows: true}
}

// A likeness is what an argument looks like if it probably is not a KEY: a tracker, the URL of a key
// at a tracker, or a port.
type likeness struct {
	tracker, key, port string
	ambiguous          bool // host:port, which may also be key:port
}

var (
	urlLike  = regexp.MustCompile(`(?i)^(https?|udp|wss?|tcp):/+(.*)$`)
	hostLike = regexp.MustCompile(`^([^@/\s]*:[^@\s]*@)?(\[[0-9A-Fa-f:.]+(?:%[^]\s]+)?\]|[A-Za-z0-9_.-]+)(?::([0-9]+))?([/?].*)?$`)
	domain   = regexp.MustCompile(`^([A-Za-z0-9-]+\.)+[A-Za-z]{2,}$`)
	keyPath  = regexp.MustCompile(`^(?:.*?/)?ntrk(?:/(.*))?$`)
)

// looksLike returns nil for an argument that looks only like a KEY.
func looksLike(arg string) *likeness {
	if port := strings.TrimPrefix(arg, ":"); parsePort(port) > 0 {
		return &likeness{port: port}
	}
	if a, err := netip.ParseAddr(arg); err == nil && (a.Is6() || a.Is4()) {
		return &likeness{tracker: arg}
	}
	if names := strings.Split(arg, ","); len(names) > 1 && !slices.ContainsFunc(names, func(n string) bool {
		like := looksLike(strings.TrimSpace(n))
		return like == nil || like.tracker == ""
	}) {
		return &likeness{tracker: arg}
	}
	scheme, rest := "", arg
	if m := urlLike.FindStringSubmatch(arg); m != nil {
		scheme, rest = strings.ToLower(m[1]), m[2]
	}
	m := hostLike.FindStringSubmatch(rest)
	switch {
	case scheme == "" && (m == nil || m[3] == "" && !isLocal(m[2]) || m[3] != "" && parsePort(m[3]) < 1):
		return nil
	case m == nil, scheme != "" && !strings.HasPrefix(scheme, "http"):
		return &likeness{tracker: arg}
	}
	tracker, port, path := strings.TrimSuffix(rest, m[4]), m[3], strings.TrimLeft(m[4], "/")
	if scheme == "https" || m[1] != "" { // m[1] is user:password@, which needs a scheme
		tracker = cmp.Or(scheme, "http") + "://" + tracker
	}
	if path == "" {
		oneWord := scheme == "" && m[1] == "" && !strings.ContainsAny(m[2], ".[") && !isLocal(m[2])
		if oneWord && port != "6969" {
			return &likeness{tracker: tracker, key: m[2], port: port, ambiguous: true}
		}
		return &likeness{tracker: tracker}
	}
	path, query, _ := strings.Cut(path, "?")
	last := path[strings.LastIndexByte(path, '/')+1:]
	found := keyPath.FindStringSubmatch(path)
	if found == nil && (path == "" || strings.HasPrefix(last, "announce") || strings.HasPrefix(last, "scrape")) {
		return &likeness{tracker: arg}
	}
	if found != nil {
		path = found[1]
	}
	key, err := url.PathUnescape(path)
	if err != nil {
		key = path
	}
	like := &likeness{tracker: tracker, key: key}
	if q, err := url.ParseQuery(query); err == nil && parsePort(q.Get("port")) > 0 {
		like.port = q.Get("port")
	}
	return like
}

// isLocal reports whether a host is an IP address, or a name of this machine such as localhost.
func isLocal(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	t, bad := announce.ParseTracker(host)
	return err == nil || bad == nil && t.Loopback()
}

// guessFor is what the user probably meant, if an error shows that the tracker may not be one. It is
// "" for other errors and without a guess.
func (l *line) guessFor(err error) string {
	f, refused := errors.AsType[*announce.RefusalError](err)
	switch {
	case isNoHost(err), isTimeout(err):
		return l.guess(false)
	case is[*announce.UnreachableError](err), is[*announce.ReplyError](err), refused && f.Status == 404:
		return l.guess(true)
	}
	return ""
}

// guess is what the user probably meant, if the first argument is not a tracker. It has two lines, or
// is "". resolved says that the first argument is a name with an address. Then it is more likely a
// tracker, and guess does not suggest that both arguments are one KEY with a space.
func (l *line) guess(resolved bool) string {
	if l == nil || !l.takesKey() {
		return ""
	}
	if l.literal {
		if show := l.showMissingKey(l.arguments); show != "" {
			return missingKey + show
		}
		return ""
	}
	if alone := l.guessAlone(); alone != "" {
		return alone
	}
	why, show := "of two arguments the first is the TRACKER; did you mean", ""
	switch args := l.arguments; {
	case len(args) == 1 && l.given("key-file") && !l.given("tracker"):
		if looksLike(args[0]) != nil {
			return ""
		}
		why, show = "with --key-file an argument is the TRACKER; did you mean", l.show(nil, "")
		if l.looksRunnable(args[0]) {
			show = l.showCommand(nil, args)
		}
	case len(args) == 2 && looksLike(args[0]) == nil:
		show = l.rearrange(args)
		if resolved && show == l.showOneKey(args) {
			return ""
		}
	}
	if show == "" {
		return ""
	}
	return why + "\n  " + show
}

// guessAlone is the guess for a single argument that could be the domain name of a tracker. A KEY may
// look the same, so ntrack does not refuse it.
func (l *line) guessAlone() string {
	if len(l.arguments) != 1 || l.given("key-file") || l.given("tracker") ||
		!domain.MatchString(l.arguments[0]) {
		return ""
	}
	return "one argument is the KEY; did you mean\n  " + l.showTracker(l.arguments[0])
}

// tooMany is the error for a line with more arguments than [TRACKER] KEY, or with a tracker both in
// an argument and in an option. why is the beginning of its text.
func (l *line) tooMany(why string) error {
	e := &usageError{command: l.cmd.Name, text: why}
	if !l.given("key-file") {
		if show := l.rearrange(l.arguments); show != "" {
			e.text, e.shows = why+"; did you mean\n  "+show, true
		}
	}
	return e
}

// showOptionsFirst shows the line with its options before the `--`. In the user's line they stand
// after it, from args[i] on.
func (l *line) showOptionsFirst(args []string, i int) string {
	words := slices.Concat([]string{"ntrack", l.cmd.Name}, l.showOptions(), quoted(args[i:]))
	if l.command == nil {
		words = append(words, "--")
	}
	return strings.Join(slices.Concat(words, quoted(args[:i]), commandWords(l.command)), " ")
}

const missingKey = "the KEY comes before the `--` of a COMMAND; did you mean\n  "

// showMissingKey shows the line with KEY before its `--`, if the words after it are probably a COMMAND.
// Otherwise it is "".
func (l *line) showMissingKey(args []string) string {
	twice := func(word string) bool {
		f := findFlag(l.cmd, word)
		return f != nil && l.given(f.Names()[0])
	}
	if !l.literal || len(args) < 2 || !l.mayRun() || !l.looksRunnable(args[0]) && !slices.ContainsFunc(args, twice) {
		return ""
	}
	return l.showCommand([]string{"KEY"}, args)
}

// rearrange shows the line that the user of these two or more arguments probably meant, or is "".
func (l *line) rearrange(args []string) string {
	if show := l.showMissingKey(args); show != "" {
		return show
	}
	if i := slices.IndexFunc(args, func(a string) bool { return len(a) > 1 && a[0] == '-' }); i > 0 {
		return l.showOptionsFirst(args, i)
	}
	n := len(args)
	first, last := looksLike(args[0]), looksLike(args[n-1])
	isPort := last != nil && last.tracker == ""
	room := 2 // the number of arguments that fit
	if l.given("tracker") {
		room = 1
	}
	switch {
	case n == 2 && room == 2 && last != nil && last.tracker != "":
		return l.show([]string{args[1], args[0]}, "")
	case n == room+1 && isPort && !l.hasPort(), n == 2 && isPort && !l.hasPort() && first == nil:
		return l.show(args[:n-1], last.port)
	case n == 2 && (args[1] == "true" || args[1] == "false") && l.gapEndsInBool: // as in KEY --stay true
		return l.show(args[:1], "")
	case l.gap > 0 && l.gap <= room && l.looksRunnable(args[l.gap]):
		return l.showCommand(args[:l.gap], args[l.gap:])
	case n == 2 && l.looksRunnable(args[1]):
		return l.showCommand(args[:1], args[1:])
	case n == 3 && room == 2 && isLocal(args[0]) && parsePort(args[1]) > 0:
		return l.show([]string{args[0] + ":" + args[1], args[2]}, "")
	case first != nil && first.tracker != "" && room == 2:
		return l.show([]string{args[0], strings.Join(args[1:], " ")}, "")
	case slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, ".") || looksLike(a) != nil }):
		return ""
	}
	return l.showOneKey(args)
}

// showOneKey shows the arguments as a KEY with spaces.
func (l *line) showOneKey(args []string) string { return l.show([]string{strings.Join(args, " ")}, "") }

// looksRunnable reports whether a word is probably a COMMAND.
func (l *line) looksRunnable(word string) bool {
	if !l.mayRun() {
		return false
	}
	_, err := exec.LookPath(word)
	return err == nil || l.gap > 0
}

// mayRun reports whether a COMMAND fits the line, which has none.
func (l *line) mayRun() bool {
	return takesCommand(l.cmd) && (l.cmd.Name != "watch" || l.given("min")) && l.command == nil && l.hasPort()
}

// show is the line with other arguments. If port is not "", show adds it as an option, unless the
// command has no such option or the line already has a port.
func (l *line) show(arguments []string, port string) string {
	words := slices.Concat([]string{"ntrack", l.cmd.Name}, quoted(arguments), l.showOptions())
	if port != "" && l.hasFlag("port") && !l.hasPort() {
		words = append(words, "--port", port)
	}
	return strings.Join(append(words, commandWords(l.command)...), " ")
}

// showTracker is the line with a tracker as its first argument, followed by KEY. For list, which
// works without a KEY, it also shows the line without one.
func (l *line) showTracker(name string) string {
	show := l.show([]string{name, "KEY"}, "")
	if l.cmd.Name == "list" {
		show += ", or ntrack list -t " + quote(name)
	}
	return show
}

// showCommand is the line with other arguments and with a COMMAND.
func (l *line) showCommand(arguments, command []string) string {
	changed := *l
	changed.command = command
	return changed.show(arguments, "")
}

// showLiteral is the line with a `--` before its arguments, so that ntrack takes them literally.
func (l *line) showLiteral() string {
	words := slices.Concat([]string{"ntrack", l.cmd.Name}, l.showOptions(), []string{"--"}, quoted(l.arguments))
	return strings.Join(append(words, commandWords(l.command)...), " ")
}

func (l *line) showOptions() []string {
	var words []string
	for _, o := range l.options {
		switch {
		case o.takesValue():
			words = append(words, o.typed, quote(o.value))
		case o.value == "true":
			words = append(words, o.typed)
		default:
			words = append(words, o.typed+"="+quote(o.value))
		}
	}
	return words
}

// commandWords is a COMMAND with "..." in place of its arguments, which may be secret or long.
func commandWords(command []string) []string {
	switch len(command) {
	case 0:
		return nil
	case 1:
		return []string{"--", quote(command[0])}
	}
	return []string{"--", quote(command[0]), "..."}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote is a word in quotes of the shell, if it needs any. It has no control characters, and no
// password of a tracker.
func quote(word string) string {
	word = wire.Redact(word)
	if len(word) > 300 || strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsPrint(r) }) {
		word = wire.Clean(word)
	}
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quote(w)
	}
	return out
}
