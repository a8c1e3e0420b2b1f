package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// A report has the results of a run.
type report struct {
	Machine string `json:"machine"`
	plan
	Answers []*answerResult `json:"answers,omitempty"`
	Beside  []*besideResult `json:"beside,omitempty"`
}

type answerResult struct {
	Name   string        `json:"name"`
	Bytes  int           `json:"bytes"` // of a reply; 0 is an announce
	Rounds []answerRound `json:"rounds"`
}

type answerRound struct {
	Constant round `json:"constant"`
	Tracker  round `json:"tracker"`
}

type besideResult struct {
	Rate   int     `json:"queries_per_second"` // -1 is none, 0 as many as are answered
	Rounds []round `json:"rounds"`
}

// A round is one measurement. The times are those of announces, if there are any.
type round struct {
	Each      float64 `json:"cpu_us"` // of the server, for each reply
	Answers   float64 `json:"answers_per_second"`
	Lost      int     `json:"lost"`
	Announces float64 `json:"announces_per_second"`
	Busy      float64 `json:"busy"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Most      float64 `json:"most_us"`
}

// A spread is the median, the least and the most of all rounds.
type spread struct{ median, least, most float64 }

func (s spread) text(format string) string {
	return fmt.Sprintf(format+" ("+format+"-"+format+")", s.median, s.least, s.most)
}

// of returns the spread of a number over the rounds.
func of[R any](rounds []R, number func(R) float64) spread {
	var all []float64
	for _, r := range rounds {
		all = append(all, number(r))
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]}
}

// print writes the tables.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%d keys of 5 peers, %d of 50 and of %d; %d in flight; %d rounds of %v in turns; median (least-most)\n",
		r.Machine, r.Small, r.Large, mostPeers, r.Flight, r.Rounds, r.Time)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Answers) > 0 {
		fmt.Fprint(t, "\nreply\tbytes\ttracker: CPU µs\tconstant: CPU µs\tx constant\treplies/s\tp50 µs\tp99 µs\ttracker busy\tlost\n")
	}
	for _, a := range r.Answers {
		size, constant, ratio := "-", "-", "-"
		if a.Bytes > 0 {
			size = fmt.Sprint(a.Bytes)
			constant = of(a.Rounds, func(r answerRound) float64 { return r.Constant.Each }).text("%.1f")
			ratio = fmt.Sprintf("%.2f", of(a.Rounds, func(r answerRound) float64 { return r.Tracker.Each / r.Constant.Each }).median)
		}
		number := func(n func(round) float64) spread {
			return of(a.Rounds, func(r answerRound) float64 { return n(r.Tracker) })
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f %%\t%.0f\n", a.Name, size, number(func(r round) float64 { return r.Each }).text("%.1f"), constant, ratio,
			number(func(r round) float64 { return r.Answers + r.Announces }).median, number(func(r round) float64 { return r.P50 }).median,
			number(func(r round) float64 { return r.P99 }).median, 100*number(func(r round) float64 { return r.Busy }).median, number(func(r round) float64 { return float64(r.Lost) }).most)
	}
	if len(r.Beside) > 0 {
		fmt.Fprintf(t, "\n%d announces/s beside\tannounce p50 µs\tp99 µs\tmost µs\tannounces/s\tqueries/s\ttracker busy\n", r.Announce)
	}
	for _, b := range r.Beside {
		name := map[int]string{-1: "no query", 0: "all queries that it answers"}[b.Rate]
		if b.Rate > 0 {
			name = fmt.Sprint(b.Rate, " queries/s")
		}
		number := func(n func(round) float64) spread { return of(b.Rounds, n) }
		fmt.Fprintf(t, "%s\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f %%\n", name, number(func(r round) float64 { return r.P50 }).text("%.0f"), number(func(r round) float64 { return r.P99 }).text("%.0f"),
			number(func(r round) float64 { return r.Most }).most, number(func(r round) float64 { return r.Announces }).median, number(func(r round) float64 { return r.Answers }).median,
			100*number(func(r round) float64 { return r.Busy }).median)
	}
	_ = t.Flush()
}
