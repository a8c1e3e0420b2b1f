//go:build linux

package docs_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// update makes the tests of the pictures draw them anew:
//
//	go test ./docs -run Picture -update
var update = flag.Bool("update", false, "draw the pictures of the documents again")

// A look has the colors of a picture on a light or on a dark page.
type look struct{ window, border, text, dim, strong string }

var looks = map[string]look{
	"light": {"#f6f8fa", "#d1d9e0", "#1f2328", "#59636e", "#0550ae"},
	"dark":  {"#0d1117", "#3d444d", "#e6edf3", "#9198a1", "#79c0ff"},
}

const fonts = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"

// checkPicture compares docs/NAME-light.svg and docs/NAME-dark.svg with what draw returns.
func checkPicture(t *testing.T, name string, draw func(look) string) {
	t.Helper()
	for scheme, l := range looks {
		file := filepath.Join("docs", name+"-"+scheme+".svg")
		want := draw(l)
		for d := xml.NewDecoder(strings.NewReader(want)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is no XML: %v", file, err)
			}
		}
		if len(want) > 15<<10 {
			t.Errorf("%s has %d bytes, want 15 KiB at most", file, len(want))
		}
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s is out of date; run go test ./docs -run Picture -update (%v)", file, err)
		}
	}
}

// The picture in the README shows a session that this test plays, in two panes of tmux. The text is what
// the programs print, except for the time of day, and the port of the tracker, which is free instead
// of 6969.
func TestPictureOfSession(t *testing.T) {
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("NTRACK_INTEROP") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	frames := record(t)
	checkPicture(t, "picture", func(l look) string { return drawSession(l, frames) })
}

// A frame is the text of both panes at one moment, by lines.
type frame [2][]string

func record(t *testing.T) []frame {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "ntrack"), ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("tmux", append([]string{"-S", filepath.Join(dir, "tmux"), "-f", "/dev/null"}, args...)...)
		cmd.Env = append(os.Environ(), "NTRACK_TRACKER=localhost:"+port, "PATH="+dir+":"+os.Getenv("PATH"), "ENV=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		return string(out)
	}
	// In a left pane of 51 columns, the note of watch breaks between two words.
	tmux("new-session", "-d", "-x", "94", "-y", "9", "exec sh")
	defer tmux("kill-server")
	tmux("split-window", "-h", "-l", "42", "exec sh")

	var frames []frame
	// until waits until the last line of the left pane begins with left, that of the right pane is right,
	// and nothing changes.
	until := func(left, right string) {
		t.Helper()
		var before frame
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			var f frame
			for pane := range f {
				f[pane] = mask(tmux("capture-pane", "-e", "-p", "-t", fmt.Sprint("0.", pane)), port)
			}
			last := func(lines []string) string { return lines[len(lines)-1] }
			if strings.HasPrefix(last(f[0]), left) && last(f[1]) == right && slices.Equal(f[0], before[0]) {
				frames = append(frames, f)
				return
			}
			before = f
			if time.Now().After(deadline) {
				t.Fatalf("the panes do not end with %q and %q:\n%q", left, right, f)
			}
		}
	}
	keys := func(pane int, keys ...string) {
		t.Helper()
		tmux(append([]string{"send-keys", "-t", fmt.Sprint("0.", pane)}, keys...)...)
	}
	for pane := range 2 {
		keys(pane, "PS1='$ '; clear", "Enter")
	}
	until("$", "$")
	frames = nil
	watch := "ntrack watch --serve lobby"
	keys(0, watch)
	until("$ "+watch, "$")
	keys(0, "Enter")
	until("0 peers", "$")
	for i, total := range []string{"1 peer; ", "2 peers; "} {
		announce := fmt.Sprintf("ntrack announce lobby --port %d", 4000+i)
		keys(1, announce)
		until(fmt.Sprint(i, " peer"), "$ "+announce)
		keys(1, "Enter")
		until(total, "$")
	}
	return frames
}

// mask returns the lines of a screen, with the usual port of a tracker, and with times that do not
// change from run to run.
func mask(screen, port string) []string {
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(screen, ":"+port, ":6969"), " \n"), "\n")
	for i, line := range lines {
		at := "12:00:04"
		if strings.Contains(line, ":4001") {
			at = "12:00:07"
		}
		lines[i] = regexp.MustCompile(`\d\d:\d\d:\d\d`).ReplaceAllString(strings.TrimRight(line, " "), at)
	}
	return lines
}

const (
	charWidth, lineHeight, baseline = 8.1, 20, 15 // of a font of 13.5 pixels
	frameTime                       = 0.9         // seconds
)

// drawSession shows the frames one after the other, once, and then stays at the last one. That is
// also the picture where nothing moves.
func drawSession(l look, frames []frame) string {
	var style, body strings.Builder
	styled := make(map[string]bool)
	rows := 0
	for _, f := range frames {
		rows = max(rows, len(f[0]), len(f[1]))
	}
	x := 1.0
	height := 52 + rows*lineHeight
	for pane, columns := range []int{50, 41} {
		width := float64(columns)*charWidth + 24
		fmt.Fprintf(&body, `<rect x="%.1f" y="1" width="%.1f" height="%d" rx="8" class="w"/>`+"\n", x, width, height-2)
		fmt.Fprintf(&body, `<text x="%.1f" y="22" class="d">terminal %d</text>`+"\n", x+12, pane+1)
		fmt.Fprintf(&body, `<path d="M%.1f 32h%.1f" class="w"/>`+"\n", x, width)
		for row := range rows {
			at := func(i int) string {
				if row < len(frames[i][pane]) {
					return frames[i][pane][row]
				}
				return ""
			}
			for from := 0; from < len(frames); {
				to := from + 1 // the first frame without this text
				for to < len(frames) && at(to) == at(from) {
					to++
				}
				if at(from) != "" {
					class := fmt.Sprintf("f%d-%d", from, to)
					if always := to-from == len(frames); !always && !styled[class] {
						styled[class] = true
						style.WriteString(appearance(class, from, to, len(frames)))
					}
					fmt.Fprintf(&body, `<text x="%.1f" y="%d" class="%s">%s</text>`+"\n",
						x+12, 42+row*lineHeight+baseline, class, markUp(at(from)))
				}
				from = to
			}
		}
		x += width + 10
	}
	width := int(x) - 9
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%d" role="img" aria-labelledby="title desc" xml:space="preserve">
<title id="title">ntrack in two terminals</title>
<desc id="desc">In the first terminal, ntrack watch --serve lobby runs a tracker and shows a table of peers. In the second one, two peers announce ports 4000 and 4001. Both appear in the table at once.</desc>
<style>
text{font:13.5px %s;fill:%s;white-space:pre}
.w{fill:%s;stroke:%s}.d{fill:%s}.c{fill:%s;font-weight:600}
%s</style>
%s</svg>
`, width, height, fonts, l.text, l.window, l.border, l.dim, l.strong, &style, &body)
}

// appearance is the style of text that is there from one frame until before another.
func appearance(class string, from, to, frames int) string {
	percent := func(i int) float64 { return 100 * float64(i) / float64(frames) }
	var steps, rest strings.Builder
	if from > 0 {
		steps.WriteString("0%{opacity:0}")
	}
	fmt.Fprintf(&steps, "%.4g%%{opacity:1}", percent(from))
	if to < frames {
		fmt.Fprintf(&steps, "%.4g%%{opacity:0}", percent(to))
		fmt.Fprintf(&rest, ".%s{opacity:0}", class)
	}
	return fmt.Sprintf("%s@media(prefers-reduced-motion:no-preference){.%s{animation:%[2]s %gs step-end}}@keyframes %[2]s{%[4]s}\n",
		&rest, class, frameTime*float64(frames), &steps)
}

// markUp escapes a line of a terminal, and makes a command stand out.
func markUp(line string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(line)); err != nil {
		panic(err)
	}
	switch command, ok := strings.CutPrefix(b.String(), "$"); {
	case ok && command == "":
		return `<tspan class="d">$</tspan>`
	case ok:
		return `<tspan class="d">$</tspan><tspan class="c">` + command + `</tspan>`
	}
	return b.String()
}
