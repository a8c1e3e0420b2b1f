package output

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// Live is the table of a track on a terminal, drawn in place as the track changes. It changes no
// setting of the terminal. So however the program ends, the last table stays on the screen, and the
// cursor is on the line below it.
type Live struct {
	// Out is the terminal. Size returns how many columns and lines it has now.
	Out  io.Writer
	Size func() (columns, lines int)
	// Want is the number of peers that the user waits for, or 0.
	Want int

	mu     sync.Mutex
	peers  []netip.AddrPort
	you    []netip.AddrPort
	joined map[netip.AddrPort]time.Time // peers that joined since the table is there
	last   string                       // the last change
	drawn  []int                        // the lengths of the lines on the screen
	ended  bool
}

// Record adds an event that happened at the time now. It draws nothing.
func (l *Live) Record(ev announce.Event, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peers, l.you = ev.Peers, ev.You
	if l.joined == nil {
		l.joined = make(map[netip.AddrPort]time.Time)
	}
	switch ev.Type {
	case announce.EventPeers: // a whole list; it does not say what has happened since the last one
		maps.DeleteFunc(l.joined, func(p netip.AddrPort, _ time.Time) bool { return !slices.Contains(ev.Peers, p) })
		return
	case announce.EventJoin:
		l.joined[ev.Peer] = now
	case announce.EventLeave:
		delete(l.joined, ev.Peer)
	default:
		return
	}
	l.last = fmt.Sprintf("; %s %s %s", now.Format(time.TimeOnly), ev.Type, ev.Peer)
}

// Draw draws the table over the last one. It writes once, so nothing flickers.
func (l *Live) Draw() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draw()
}

// CursorLost says that the cursor is no longer where the last Draw left it, for example because a
// shell used the terminal. The next table begins at the cursor.
func (l *Live) CursorLost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn = nil
}

// End draws the table for the last time, or erases it.
func (l *Live) End(erase bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	l.ended = true
	if !erase {
		return l.draw()
	}
	_, err := l.Out.Write([]byte(l.home() + "\x1b[J"))
	return err
}

// Above returns a writer to w that puts whole lines above the table. w may be the same terminal.
func (l *Live) Above(w io.Writer) io.Writer { return above{l, w} }

type above struct {
	*Live
	w io.Writer
}

func (a above) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return a.w.Write(b)
	}
	if _, err := a.Out.Write([]byte(a.home() + "\x1b[J")); err != nil {
		return 0, err
	}
	a.drawn = nil
	n, err := a.w.Write(b)
	if err != nil {
		return n, err
	}
	return n, a.draw()
}

// home moves the cursor to the beginning of the table on the screen.
func (l *Live) home() string {
	columns, lines := l.size()
	up := 0
	for _, length := range l.drawn {
		up += max(1, (length+columns-1)/columns) // a terminal that is narrower now has wrapped the line
	}
	if up = min(up, lines-1); up > 0 {
		return fmt.Sprintf("\r\x1b[%dA", up)
	}
	return "\r"
}

func (l *Live) size() (columns, lines int) {
	columns, lines = l.Size()
	return max(columns, 2), max(lines, 2)
}

// draw draws over the last table.
func (l *Live) draw() error {
	columns, lines := l.size()
	var b bytes.Buffer
	b.WriteString(l.home())
	l.drawn = nil
	for line := range bytes.Lines(l.table(lines - 1)) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		line = line[:min(len(line), columns-1)] // all of it is ASCII; some terminals wrap a line that is full
		l.drawn = append(l.drawn, len(line))
		b.Write(line)
		b.WriteString("\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	_, err := l.Out.Write(b.Bytes())
	return err
}

// table is as much of the table as fits into that many lines.
func (l *Live) table(lines int) []byte {
	all := slices.Concat(l.you, l.peers)
	slices.SortFunc(all, netip.AddrPort.Compare)
	room := max(0, lines-2) // without the header and the footer
	if len(all) > room {
		room = max(0, room-1) // and without the line about the others
	}
	var rows [][]string
	for _, p := range all[:min(room, len(all))] {
		note := ""
		if at, ok := l.joined[p]; ok {
			note = "joined " + at.Format(time.TimeOnly)
		}
		if slices.Contains(l.you, p) {
			note = "you"
		}
		rows = append(rows, []string{p.String(), wire.ScopeOf(p.Addr()).String(), note})
	}
	var b bytes.Buffer
	_ = writeTable(&b, []string{"PEER", "SCOPE", "NOTE"}, rows) // a Buffer returns no error
	if n := len(all) - len(rows); n > 0 && len(rows) > 0 {
		fmt.Fprintf(&b, "... and %d more\n", n)
	}
	count := strconv.Itoa(len(all))
	if l.Want > 0 {
		count += " of " + strconv.Itoa(l.Want)
	}
	peers := map[bool]string{true: "peer", false: "peers"}[cmp.Or(l.Want, len(all)) == 1]
	fmt.Fprintf(&b, "%s %s%s\n", count, peers, l.last)
	return b.Bytes()
}
