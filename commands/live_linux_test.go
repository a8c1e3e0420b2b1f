package commands_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

// These tests run ntrack on a pseudo-terminal, and compute the text on the screen.

// A terminal is the user's end of a pseudo-terminal on which a program runs. It has a screen.
type terminal struct {
	t    *testing.T
	file *os.File
	cmd  *exec.Cmd

	mu       sync.Mutex
	columns  int
	lines    [][]byte // the screen
	row, col int      // the cursor
	escape   []byte   // an incomplete escape sequence
	unknown  string   // a character or escape sequence that this type does not implement
}

// onTerminal runs ntrack on a terminal of this size. kind is the value of $TERM.
func onTerminal(t *testing.T, kind string, columns, lines int, args ...string) *terminal {
	t.Helper()
	user, program := openPTY(t)
	defer program.Close()
	x := &terminal{t: t, file: user, cmd: exec.Command("ntrack", args...)}
	x.resize(columns, lines)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = program, program, program
	x.cmd.Env = append(os.Environ(), "TERM="+kind)
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		b := make([]byte, 4096)
		for {
			n, err := user.Read(b) // the error is EIO once the program has ended
			x.mu.Lock()
			x.show(b[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if x.cmd.ProcessState == nil {
			_ = x.cmd.Process.Kill()
			_ = x.cmd.Wait()
		}
		<-shown
		_ = user.Close()
	})
	return x
}

// resize changes the size of the screen. The cursor stays in its line.
func (x *terminal) resize(columns, lines int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.lines
	x.columns, x.lines = columns, make([][]byte, lines)
	if cut := max(0, min(len(old), x.row+1)-lines); len(old) > 0 { // the upper lines scroll away
		copy(x.lines, old[cut:])
		x.row -= cut
	}
	if err := unix.IoctlSetWinsize(int(x.file.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(lines), Col: uint16(columns)}); err != nil {
		x.t.Fatal(err)
	}
}

// show applies a program's output to the screen.
func (x *terminal) show(b []byte) {
	for _, c := range b {
		switch {
		case len(x.escape) > 0:
			if x.escape = append(x.escape, c); c >= '@' && c != '[' {
				x.control(string(x.escape))
				x.escape = nil
			}
		case c == '\x1b':
			x.escape = []byte{c}
		case c == '\r':
			x.col = 0
		case c == '\n':
			x.down()
		case c < ' ' || c > '~':
			x.unknown = fmt.Sprintf("%q", c)
		default:
			if x.col == x.columns {
				x.col = 0
				x.down()
			}
			line := x.lines[x.row]
			for len(line) <= x.col {
				line = append(line, ' ')
			}
			line[x.col] = c
			x.lines[x.row] = line
			x.col++
		}
	}
}

func (x *terminal) down() {
	if x.row++; x.row == len(x.lines) {
		x.lines = append(x.lines[1:], nil)
		x.row--
	}
}

// control applies an escape sequence to the screen.
func (x *terminal) control(escape string) {
	var n int
	switch _, err := fmt.Sscanf(escape, "\x1b[%dA", &n); {
	case err == nil && strings.HasSuffix(escape, "A"):
		x.row = max(0, x.row-n)
	case escape == "\x1b[K" || escape == "\x1b[J":
		x.lines[x.row] = x.lines[x.row][:min(x.col, len(x.lines[x.row]))]
		for i := x.row + 1; i < len(x.lines) && escape == "\x1b[J"; i++ {
			x.lines[i] = nil
		}
	default:
		x.unknown = fmt.Sprintf("%q", escape)
	}
}

// screen returns the text on the screen. The cursor is a _, and each time of day is 12:00:00.
func (x *terminal) screen() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.unknown != "" {
		x.t.Fatalf("the program has written %s, which this terminal does not implement", x.unknown)
	}
	text := string(bytes.Join(x.lines[:x.row], []byte("\n"))) + "\n" + string(x.lines[x.row]) + "_"
	for _, below := range x.lines[x.row+1:] {
		if len(below) > 0 {
			text += "\n" + string(below)
		}
	}
	return regexp.MustCompile(`\d\d:\d\d:\d\d`).ReplaceAllString(strings.TrimPrefix(text, "\n"), "12:00:00")
}

// waitFor waits until the screen shows want.
func (x *terminal) waitFor(want string) {
	x.t.Helper()
	for deadline := time.Now().Add(patience); x.screen() != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatalf("the screen shows\n%s\nwant\n%s", x.screen(), want)
		}
	}
}

func (x *terminal) typeKeys(keys string) {
	if _, err := x.file.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) ends(code int) {
	x.t.Helper()
	if err := x.cmd.Wait(); x.cmd.ProcessState.ExitCode() != code {
		x.t.Errorf("ended with %v, want exit code %d", err, code)
	}
}

// lobby runs a tracker. At that tracker, join announces ports under the key lobby, and leave removes
// them.
func lobby(t *testing.T) (srv *trackertest.Server, join, leave func(ports ...uint16)) {
	t.Helper()
	srv = trackertest.New()
	t.Cleanup(srv.Close)
	key, err := announce.ParseKey("lobby")
	if err != nil {
		t.Fatal(err)
	}
	var c announce.Client
	t.Cleanup(c.Close)
	join = func(ports ...uint16) {
		t.Helper()
		for _, port := range ports {
			if _, err := c.Announce(t.Context(), srv.Tracker, announce.Request{Key: key, Port: port}); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave = func(ports ...uint16) {
		t.Helper()
		for _, port := range ports {
			if err := c.Leave(t.Context(), srv.Tracker, announce.Request{Key: key, Port: port}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return srv, join, leave
}

// On a terminal watch shows a table that changes in place.
func TestLiveTable(t *testing.T) {
	srv, join, leave := lobby(t)
	x := onTerminal(t, "xterm", 80, 24, "watch", srv.Tracker.HostPort(), "lobby", "--every", "100ms", "--port", "4000")
	x.waitFor("" +
		"PEER             SCOPE      NOTE\n" +
		"127.0.0.1:4000   loopback   you\n" +
		"1 peer\n_")
	join(4001)
	x.waitFor("" +
		"PEER             SCOPE      NOTE\n" +
		"127.0.0.1:4000   loopback   you\n" +
		"127.0.0.1:4001   loopback   joined 12:00:00\n" +
		"2 peers; 12:00:00 join 127.0.0.1:4001\n_")
	leave(4001)
	x.waitFor("" +
		"PEER             SCOPE      NOTE\n" +
		"127.0.0.1:4000   loopback   you\n" +
		"1 peer; 12:00:00 leave 127.0.0.1:4001\n_")

	// In a smaller window there is no room for all peers.
	x.resize(34, 8)
	join(4001, 4002, 4003, 4004, 4005, 4006)
	x.waitFor("" +
		"PEER             SCOPE      NOTE\n" +
		"127.0.0.1:4000   loopback   you\n" +
		"127.0.0.1:4001   loopback   joine\n" + // cut short
		"127.0.0.1:4002   loopback   joine\n" +
		"127.0.0.1:4003   loopback   joine\n" +
		"... and 3 more\n" +
		"7 peers; 12:00:00 join 127.0.0.1:\n_")
	x.resize(100, 30)
	table := "PEER             SCOPE      NOTE\n" +
		"127.0.0.1:4000   loopback   you\n" +
		"127.0.0.1:4001   loopback   joined 12:00:00\n" +
		"127.0.0.1:4002   loopback   joined 12:00:00\n" +
		"127.0.0.1:4003   loopback   joined 12:00:00\n" +
		"127.0.0.1:4004   loopback   joined 12:00:00\n" +
		"127.0.0.1:4005   loopback   joined 12:00:00\n" +
		"127.0.0.1:4006   loopback   joined 12:00:00\n" +
		"7 peers; 12:00:00 join 127.0.0.1:4006\n_"
	x.waitFor(table)

	// Notes appear above the table.
	srv.Close()
	away := "ntrack: tracker " + srv.Tracker.HostPort() + " is unreachable: connection refused; trying again until it is back"
	x.waitFor(away + "\n" + table)

	// After Ctrl-C, the last table remains on the screen. It hides the ^C that the terminal has
	// shown, and the cursor is below it.
	x.typeKeys("\x03")
	x.ends(130)
	x.waitFor(away + "\n" + table)
}

// After Ctrl-Z and fg, the table appears again below the text that the shell has written.
func TestLiveTableContinued(t *testing.T) {
	srv, join, _ := lobby(t)
	join(4000)
	x := onTerminal(t, "xterm", 80, 24, "watch", srv.Tracker.HostPort(), "lobby", "--every", "100ms")
	table := "PEER             SCOPE      NOTE\n127.0.0.1:4000   loopback\n1 peer\n"
	x.waitFor(table + "_")
	if err := x.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	x.mu.Lock()
	x.show([]byte("[1]+  Stopped\r\n$ fg\r\n"))
	x.mu.Unlock()
	if err := x.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	x.waitFor(table + "[1]+  Stopped\n$ fg\n" + table + "_")
	if err := x.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	x.ends(143)
	x.waitFor(table + "[1]+  Stopped\n$ fg\n" + table + "_")
}

// With -o text, and on a terminal that cannot move its cursor, watch prints lines.
func TestNoLiveTable(t *testing.T) {
	srv, join, _ := lobby(t)
	join(4000)
	x := onTerminal(t, "dumb", 80, 24, "watch", srv.Tracker.HostPort(), "lobby")
	x.waitFor("join 127.0.0.1:4000\n_")
	x = onTerminal(t, "xterm", 80, 24, "watch", srv.Tracker.HostPort(), "lobby", "-q")
	x.waitFor("join 127.0.0.1:4000\n_")
}

// While a barrier waits, the table shows the peers. The result then replaces it.
func TestLiveTableGather(t *testing.T) {
	srv, join, _ := lobby(t)
	x := onTerminal(t, "xterm", 80, 24, "watch", srv.Tracker.HostPort(), "lobby", "--port", "4001", "--min", "2")
	x.waitFor("" +
		"PEER             SCOPE      NOTE\n" +
		"127.0.0.1:4001   loopback   you\n" +
		"1 of 2 peers\n_")
	join(4000)
	x.ends(0)
	x.waitFor("" +
		"RANK   PEER             SCOPE      NOTE\n" +
		"0      127.0.0.1:4000   loopback\n" +
		"1      127.0.0.1:4001   loopback   you\n_")
}
