//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// mark is the name of the tables in a document.
const mark = "attack"

// A report is what a run has measured.
type report struct {
	Machine   string  `json:"machine"`
	Files     int     `json:"files"` // that each process may have open
	Rate      int     `json:"announces_per_second"`
	Streams   int     `json:"streams"`
	Interval  float64 `json:"interval_seconds"`
	Seconds   float64 `json:"attack_seconds"`
	Attackers int     `json:"attackers"`
	Shrink    int     `json:"shrink"`
	Memory    string  `json:"max_memory"`
	Ceiling   int64   `json:"max_memory_bytes"`
	Rows      []row   `json:"rows"`
}

func (r *report) row(server, attack string) *row {
	for i := range r.Rows {
		if r.Rows[i].Server == server && r.Rows[i].Attack == attack {
			return &r.Rows[i]
		}
	}
	return nil
}

// The goal of each row.
const (
	goalAnswered = 0.999
	goalP99      = 50.0 // milliseconds, or
	goalTimes    = 3    // times what the CPU hog does
)

// verdict says whether a row reaches the goal, or what it misses.
func (r *report) verdict(w row) string {
	var misses []string
	miss := func(format string, args ...any) { misses = append(misses, fmt.Sprintf(format, args...)) }
	if w.Died != "" {
		miss("the server ended: %s", w.Died)
	}
	renewals := w.Honest.Renewals
	if share := renewals.share(); share < goalAnswered {
		miss("%s answered", percent(share))
	}
	allowed := goalP99
	if hog := r.row(w.Server, hogAttack); hog != nil {
		allowed = max(allowed, goalTimes*hog.Honest.Renewals.P99)
	}
	if renewals.P99 > allowed {
		miss("p99 %s ms", short(renewals.P99))
	}
	if w.Honest.FalseLeaves > 0 {
		miss("%d false leaves", w.Honest.FalseLeaves)
	}
	if w.Peak.Memory > r.Ceiling {
		miss("%d MB", w.Peak.Memory>>20)
	}
	if len(misses) == 0 {
		return "holds"
	}
	return "misses: " + strings.Join(misses, ", ")
}

func (a answers) share() float64 {
	if a.Asked == 0 {
		return 0
	}
	return float64(a.Answered) / float64(a.Asked)
}

// percent shows a share. It never rounds up to all of them.
func percent(share float64) string {
	if share >= 1 {
		return "100%"
	}
	return fmt.Sprintf("%.2f%%", min(99.99, float64(int(share*1e4))/1e2))
}

// short shows a number with two digits or more.
func short(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// count shows a large number.
func count(n int) string {
	switch {
	case n >= 10_000_000:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1_000_000:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	case n >= 10_000:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}

func megabytes(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint((n + 1<<19) >> 20)
}

// print writes a table for each server.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d open files at most in each process\n", r.Machine, r.Files)
	fmt.Fprintf(w, "honest load: %d announces/s, %d streams, interval %g s; %d attackers for %g s; ceiling %s\n", r.Rate, r.Streams, r.Interval, r.Attackers, r.Seconds, r.Memory)
	if r.Shrink > 1 {
		fmt.Fprintf(w, "a small run: attacks with a thousand connections or requests, or more, have 1/%d of them\n", r.Shrink)
	}
	for _, server := range servers {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		first := true
		for _, x := range r.Rows {
			if x.Server != server {
				continue
			}
			if first {
				first = false
				fmt.Fprintf(t, "\n%s\trenew ok\tp50\tp99 ms\tjoin ok\tp50\tp99 ms\tleaves\tRSS\tkern MB\tCPUs\tlate\tgot: conns\t200\tother\tcut\tMB\tback s\tgoal\n", server)
			}
			h := x.Honest
			back := fmt.Sprintf("%.0f", x.Back)
			if x.Back < 0 {
				back = "no: " + x.Not
			}
			leaves := fmt.Sprint(h.FalseLeaves)
			if server == openServer {
				leaves = "-"
			}
			got := fmt.Sprintf("%s\t%s\t%s\t%s\t%d", count(x.Gain.Opened), count(x.Gain.Answered), count(x.Gain.Refused), count(x.Gain.Cut), x.Gain.Bytes>>20)
			if x.Attack == noAttack || x.Attack == hogAttack {
				got = "-\t-\t-\t-\t-"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%s\n", x.Title,
				percent(h.Renewals.share()), short(h.Renewals.P50), short(h.Renewals.P99),
				percent(h.Joins.share()), short(h.Joins.P50), short(h.Joins.P99), leaves,
				megabytes(x.Peak.RSS), megabytes(x.Peak.Kernel), x.CPU, short(h.Late), got, back, r.verdict(x))
		}
		_ = t.Flush()
	}
	for i, note := range r.notes() {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, note)
	}
}

// notes says where a row is not what its title says, and if the machine was busy.
func (r *report) notes() (notes []string) {
	note := func(x row, format string, args ...any) {
		notes = append(notes, fmt.Sprintf("%s, %s: ", x.Server, x.Title)+fmt.Sprintf(format, args...))
	}
	for _, x := range r.Rows {
		a := attackNamed(x.Attack)
		if a == nil {
			continue
		}
		if x.Attack == noAttack && x.Honest.Renewals.P99 > goalP99 {
			note(x, "the machine has other work, so the rows of this server say little")
		}
		if wanted := a.conns / r.Shrink; a.conns >= 1000 && x.Conns < wanted {
			note(x, "%d connections and not %d, because of the limit on open files", x.Conns, wanted)
		}
		if x.Conns >= 1000 && x.Gain.Peak < x.Conns*9/10 {
			note(x, "%d connections at a time at most, not %d", x.Gain.Peak, x.Conns)
		}
		if wanted := a.total / r.Shrink; x.Gain.Requests < wanted*99/100 {
			note(x, "%s requests of %s, because the time was over", count(x.Gain.Requests), count(wanted))
		}
	}
	return notes
}
