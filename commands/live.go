package commands

import (
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/term"

	"ntrack/announce"
	"ntrack/output"
)

// isTerminal says that out is a terminal on which a table can be drawn again.
func isTerminal(out io.Writer) bool {
	f, ok := file(out)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// file is the file behind the results, if it is one.
func file(out io.Writer) (*os.File, bool) {
	r, _ := out.(results)
	f, ok := r.Writer.(*os.File)
	return f, ok
}

// frame is the shortest time between two drawings: a thousand joins are one.
const frame = 50 * time.Millisecond

// A view draws the live table of a watch.
type view struct {
	output.Live
	changed, ending, ended chan struct{}
}

// startView draws on the terminal that the results go to, and what s notes above that. A view that
// is nil has no terminal.
func startView(s *Streams, want int) *view {
	f, _ := file(s.Out)
	v := &view{changed: make(chan struct{}, 1), ending: make(chan struct{}), ended: make(chan struct{})}
	v.Out, v.Want = s.Out, want
	v.Size = func() (int, int) {
		columns, lines, err := term.GetSize(int(f.Fd()))
		if err != nil || columns < 1 || lines < 1 {
			return 80, 24
		}
		return columns, lines
	}
	s.Err = v.Above(s.Err)
	go v.run()
	return v
}

func (v *view) run() {
	defer close(v.ended)
	signals := make(chan os.Signal, 4)
	notifyTerminal(signals)
	defer signal.Stop(signals)
	pause := time.NewTicker(frame)
	defer pause.Stop()
	for {
		select {
		case <-v.ending:
			return
		case <-v.changed:
		case s := <-signals:
			if isContinued(s) {
				v.Lost()
			}
		}
		if err := v.Draw(); err != nil {
			return // the watch learns it elsewhere
		}
		select {
		case <-v.ending:
			return
		case <-pause.C:
		}
	}
}

func (v *view) tell(ev announce.Event) error {
	v.Tell(ev, time.Now())
	select {
	case v.changed <- struct{}{}:
	default:
	}
	return nil
}

// end leaves the last table where it is, or erases it.
func (v *view) end(erase bool) {
	if v == nil {
		return
	}
	select {
	case <-v.ending:
		return
	default:
	}
	close(v.ending)
	<-v.ended
	_ = v.End(erase)
}
