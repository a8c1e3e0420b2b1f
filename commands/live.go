package commands

import (
	"context"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/term"

	"ntrack/announce"
	"ntrack/output"
)

// isTerminal reports whether out is a terminal on which a table can change in place.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// frame is the shortest time between two drawings, even if a thousand peers join in that time.
const frame = 50 * time.Millisecond

// A liveTable draws the live table of a watch. A nil liveTable draws nothing.
type liveTable struct {
	output.Live
	changed chan struct{} // holds an element if the table differs from the screen
	ended   chan struct{} // closed when run has ended
	stop    context.CancelFunc
}

// startLiveTable draws on the terminal to which the results go. From then on s prints its notes above
// the table. want is the number of peers for which a barrier waits, or 0.
func startLiveTable(s *Streams, want int) *liveTable {
	f, _ := s.rawOut.(*os.File)
	ctx, stop := context.WithCancel(context.Background())
	t := &liveTable{changed: make(chan struct{}, 1), ended: make(chan struct{}), stop: stop}
	t.Out, t.Want = s.Out, want
	t.Size = func() (int, int) {
		columns, lines, err := term.GetSize(int(f.Fd()))
		if err != nil || columns < 1 || lines < 1 {
			return 80, 24
		}
		return columns, lines
	}
	s.Err = t.Above(s.Err)
	go t.run(ctx)
	return t
}

func (t *liveTable) run(ctx context.Context) {
	defer close(t.ended)
	signals := make(chan os.Signal, 4)
	notifyTerminal(signals)
	defer signal.Stop(signals)
	pause := time.NewTicker(frame)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.changed:
		case s := <-signals:
			if isContinued(s) {
				t.CursorLost()
			}
		}
		if err := t.Draw(); err != nil {
			return // waitReaderGone ends the watch if the terminal is gone
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

func (t *liveTable) show(ev announce.Event) error {
	t.Record(ev, time.Now())
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return nil
}

// end draws the table for the last time, or erases it. After the first call it does nothing.
func (t *liveTable) end(erase bool) {
	if t == nil {
		return
	}
	t.stop()
	<-t.ended
	_ = t.End(erase)
}
