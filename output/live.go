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

// Live is the live table: the peers of a track on a terminal, drawn in place whenever they change. It
// does not change the settings of the terminal. So the last table stays on the screen even if the
// program is killed, and the cursor is on the line below the table.
type Live struct {
	// Out is the terminal. Size returns how many columns and lines it has now.
	Out  io.Writer
	Size func() (columns, lines int)
	// Want is the number of peers that a barrier waits for, or 0.
	Want int

	mu     sync.Mutex
	peers  []netip.AddrPort
	you    []netip.AddrPort
	joined map[netip.AddrPort]time.Time // when a peer joined, if it joined after the first list
	last   string                       // the last join or leave, as text
	drawn  []int                        // the lengths of the lines that are on the screen
	ended  bool                         // End was called
}

// Record stores an event that happened at the time now. [Live.Draw] shows it.
func (l *Live) Record(ev announce.Event, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peers, l.you = ev.Peers, ev.You
	if l.joined == nil {
		l.joined = make(map[netip.AddrPort]time.Time)
	}
	switch ev.Type {
	case announce.EventPeers: // a whole list, which does not show when its peers joined
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

// Draw replaces the table on the screen. It writes once, so the table does not flicker.
func (l *Live) Draw() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draw()
}

// CursorLost makes the next table begin at the cursor. Call it when the cursor may no longer be where
// Draw left it, for example after a shell has used the terminal.
func (l *Live) CursorLost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn = nil
}

// End draws the table for the last time, or erases it. Only the first call has an effect.
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
	_, err := l.Out.Write([]byte(l.eraseSequence()))
	return err
}

// Above returns a writer that writes to w and keeps the table below the text. Each write has to be
// one or more whole lines. w may be the terminal of the table.
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
	if _, err := a.Out.Write([]byte(a.eraseSequence())); err != nil {
		return 0, err
	}
	a.drawn = nil
	n, err := a.w.Write(b)
	if err != nil {
		return n, err
	}
	return n, a.draw()
}

// eraseSequence returns the control sequence that erases the table and all below it.
func (l *Live) eraseSequence() string { return l.topSequence() + "\x1b[J" }

// topSequence returns the control sequence that moves the cursor to the first line of the table.
func (l *Live) topSequence() string {
	columns, lines := l.size()
	up := 0
	for _, length := range l.drawn {
		up += max(1, (length+columns-1)/columns) // a terminal that became narrower has wrapped the line
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

func (l *Live) draw() error {
	columns, lines := l.size()
	var b bytes.Buffer
	b.WriteString(l.topSequence())
	l.drawn = nil
	for line := range bytes.Lines(l.table(lines - 1)) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		line = line[:min(len(line), columns-1)] // ASCII only; some terminals wrap a line that has all columns
		l.drawn = append(l.drawn, len(line))
		b.Write(line)
		b.WriteString("\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	_, err := l.Out.Write(b.Bytes())
	return err
}

// table returns as much of the table as fits into lines.
func (l *Live) table(lines int) []byte {
	all := slices.Concat(l.you, l.peers)
	slices.SortFunc(all, netip.AddrPort.Compare)
	room := max(0, lines-2) // one line for the header and one for the footer
	if len(all) > room {
		room = max(0, room-1) // one more for "... and N more"
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
	_ = writeTable(&b, []string{"PEER", "SCOPE", "NOTE"}, rows) // a Buffer never returns an error
	if n := len(all) - len(rows); n > 0 && len(rows) > 0 {
		fmt.Fprintf(&b, "... and %d more\n", n)
	}
	count := strconv.Itoa(len(all))
	if l.Want > 0 {
		count += " of " + strconv.Itoa(l.Want)
	}
	noun := "peers"
	if cmp.Or(l.Want, len(all)) == 1 {
		noun = "peer"
	}
	fmt.Fprintf(&b, "%s %s%s\n", count, noun, l.last)
	return b.Bytes()
}
