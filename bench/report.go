//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// A report has the results of a run.
type report struct {
	Date      string         `json:"date"`
	Machine   string         `json:"machine"`
	Rounds    int            `json:"rounds"`
	Seconds   float64        `json:"seconds_per_round"`
	Keys      int            `json:"keys"`
	Peers     int            `json:"peers_per_key"`
	Modes     []modeReport   `json:"modes"`
	Populated []populated    `json:"populated"`
	Memory    []memoryResult `json:"memory"`
	Growth    []memoryResult `json:"growth"`
	Streams   *streamsResult `json:"streams,omitempty"`
}

type modeReport struct {
	Mode    string          `json:"mode"`
	Servers []*serverReport `json:"servers"`
}

// A serverReport has the median, the least and the most of the rounds that were not dropped.
type serverReport struct {
	Name      string  `json:"name"`
	CPU       spread  `json:"cpu_us_per_announce"`
	PerSecond spread  `json:"announces_per_second"`
	P50       spread  `json:"p50_us"`
	P99       spread  `json:"p99_us"`
	Busy      spread  `json:"busy"`
	Kept      int     `json:"rounds_kept"`
	ToFloor   float64 `json:"cpu_to_floor,omitempty"`
	ToOpen    float64 `json:"cpu_to_opentracker,omitempty"`
	ToOne     float64 `json:"cpu_to_gomaxprocs_1,omitempty"`
	All       []round `json:"rounds"`
}

// A round is one measurement.
type round struct {
	CPU       float64 `json:"cpu_us_per_announce"` // of the server process, with its time in the kernel
	PerSecond float64 `json:"announces_per_second"`
	P50       float64 `json:"p50_us"` // from a client's first byte to the last byte of the reply
	P99       float64 `json:"p99_us"`
	Busy      float64 `json:"busy"`  // the share of the time in which the server ran
	Noise     float64 `json:"noise"` // the share of the time in which it and the load waited for other programs
	Dropped   string  `json:"dropped,omitempty"`
}

// A populated report is about a server after all peers have announced once.
type populated struct {
	Name     string  `json:"name"`
	Baseline int64   `json:"baseline_bytes"`
	Running  float64 `json:"running_bytes_per_peer"`
	AtRest   float64 `json:"busy_at_rest"`
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

const (
	noisy     = 0.10 // the share of waiting from which a round is noisy
	saturated = 0.90 // the share of its CPU from which a server is the limit
)

// enough says whether every server has n rounds that are not noisy.
func (m *modeReport) enough(n int) bool {
	for _, s := range m.Servers {
		quiet := 0
		for _, r := range s.All {
			if r.Noise <= noisy {
				quiet++
			}
		}
		if quiet < n {
			return false
		}
	}
	return true
}

// finish drops noisy rounds and outliers, which are more than 3 median deviations and more than 10
// % from the median. If fewer than 3 rounds would be left, none is dropped.
func (m *modeReport) finish() {
	for _, s := range m.Servers {
		for i := range s.All {
			if r := &s.All[i]; r.Noise > noisy {
				r.Dropped = "others ran"
			}
		}
		middle := s.of(func(r round) float64 { return r.CPU }).Median
		deviation := s.of(func(r round) float64 { return math.Abs(r.CPU - middle) }).Median
		for i := range s.All {
			if r := &s.All[i]; r.Dropped == "" && math.Abs(r.CPU-middle) > max(3*deviation, middle/10) {
				r.Dropped = "outlier"
			}
		}
		for _, r := range s.All {
			if r.Dropped == "" {
				s.Kept++
			}
		}
		if s.Kept < min(3, len(s.All)) {
			s.Kept = 0
			for i := range s.All {
				s.All[i].Dropped = ""
			}
		}
		s.CPU = s.of(func(r round) float64 { return r.CPU })
		s.PerSecond = s.of(func(r round) float64 { return r.PerSecond })
		s.P50 = s.of(func(r round) float64 { return r.P50 })
		s.P99 = s.of(func(r round) float64 { return r.P99 })
		s.Busy = s.of(func(r round) float64 { return r.Busy })
	}
	for _, s := range m.Servers {
		s.ToFloor, s.ToOpen = s.ratio(m.named("floor")), s.ratio(m.named("opentracker"))
		if s.Name == "ntrack-2" {
			s.ToOne = s.ratio(m.named("ntrack"))
		}
	}
}

func (m *modeReport) named(name string) *serverReport {
	for _, s := range m.Servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// of returns the spread of a number over the rounds that were not dropped.
func (s *serverReport) of(number func(round) float64) spread {
	var all []float64
	for _, r := range s.All {
		if r.Dropped == "" {
			all = append(all, number(r))
		}
	}
	return spreadOf(all)
}

func spreadOf(all []float64) spread {
	if len(all) == 0 {
		return spread{}
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]}
}

// ratio returns how many times the CPU time of another server s takes, or 0 if that is unknown. It
// is the median over the rounds in which neither was dropped. So it does not matter if the machine
// is slow for a while.
func (s *serverReport) ratio(to *serverReport) float64 {
	var all []float64
	for i := range s.All {
		if to != nil && s.All[i].Dropped == "" && to.All[i].Dropped == "" {
			all = append(all, s.All[i].CPU/to.All[i].CPU)
		}
	}
	if to != nil && len(all) == 0 && to.CPU.Median > 0 {
		return s.CPU.Median / to.CPU.Median
	}
	return spreadOf(all).Median
}

// kept says how many rounds were not dropped.
func (s *serverReport) kept() string {
	if s.Kept == 0 {
		return fmt.Sprintf("all %d noisy", len(s.All))
	}
	return fmt.Sprintf("%d of %d", s.Kept, len(s.All))
}

// print writes the tables of the report.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n", r.Machine)
	if len(r.Modes) > 0 {
		fmt.Fprintf(w, "%d keys of %d peers, 50 in a reply; %d rounds of %g s in turns; median (least-most)\n", r.Keys, r.Peers, r.Rounds, r.Seconds)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range r.Modes {
		fmt.Fprintf(t, "\n%s\tCPU µs/announce\tx floor\tx opentracker\tannounces/s\tp50 µs\tp99 µs\tserver busy\trounds\n", m.Mode)
		for _, s := range m.Servers {
			busy := fmt.Sprintf("%.0f %%", 100*s.Busy.Median)
			if s.Busy.Median < saturated && s.Name != "ntrack-2" {
				busy += " (the load is the limit)"
			}
			fmt.Fprintf(t, "%s\t%.1f (%.1f-%.1f)\t%s\t%s\t%.0f\t%.0f\t%.0f\t%s\t%s\n", s.Name, s.CPU.Median, s.CPU.Min, s.CPU.Max,
				times(s.ToFloor), times(s.ToOpen), s.PerSecond.Median, s.P50.Median, s.P99.Median, busy, s.kept())
		}
	}
	for _, m := range r.Modes {
		if s := m.named("ntrack-2"); s != nil && m.named("ntrack") != nil {
			fmt.Fprintf(t, "\n%s: CPU time with GOMAXPROCS=2, on both CPUs, is %s of that with 1\n", m.Mode, times(s.ToOne))
		}
	}
	if len(r.Populated) > 0 {
		fmt.Fprintf(t, "\nwith %d peers\tRSS bytes/peer, running\tempty MB\tCPU at rest\n", r.Keys*r.Peers)
		for _, p := range r.Populated {
			fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f %%\n", p.Name, p.Running, float64(p.Baseline)/1e6, 100*p.AtRest)
		}
	}
	printMemory(t, "memory", r.Memory)
	printMemory(t, "growth", r.Growth)
	r.Streams.print(t)
	_ = t.Flush()
}

func printMemory(w io.Writer, title string, all []memoryResult) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\tpeer ids\tRSS bytes/peer after GC\trunning\tempty MB\tjoin ns\trenew ns, 50 peers\tfull GC ms\n", title)
	for _, m := range all {
		ids := "none"
		if m.IDs {
			ids = "all"
		}
		fmt.Fprintf(w, "%d x %d\t%s\t%.1f\t%.1f\t%.1f\t%d\t%d\t%.1f\n", m.Keys, m.Peers, ids, m.AfterGC, m.Running,
			float64(m.Baseline)/1e6, m.Join.Nanoseconds(), m.Renew.Nanoseconds(), m.GC.Seconds()*1e3)
	}
}

// print writes the tables of the streams, if they were measured.
func (s *streamsResult) print(w io.Writer) {
	if s == nil {
		return
	}
	fmt.Fprintf(w, "\nidle streams\tserver\tRSS bytes/member\tbytes/looker\tkernel bytes/socket\topen files\n")
	for _, n := range s.Growth {
		for _, i := range s.Idle {
			if i.Streams == n {
				fmt.Fprintf(w, "%d\t%s\t%.0f\t%.0f\t%.0f\t%d\n", n, i.Server, i.Member, i.Looker, i.Kernel, i.Files)
			}
		}
	}
	fmt.Fprintf(w, "\n%d watchers\tCPU µs/event\tx floor\tjoin to event: p50 ms\tp99 ms\tleast p99 - 50, x floor\t%d at rest: CPU\tx floor\trounds\n", s.Watched, s.Resting)
	floor := s.fanOut("floor")
	for _, f := range s.FanOut {
		ratio := func(number func(fanOutRound) float64) string { return times(f.ratio(floor, number)) }
		fmt.Fprintf(w, "%s\t%.2f (%.2f-%.2f)\t%s\t%.0f (%.0f-%.0f)\t%.0f (%.0f-%.0f)\t%s\t%.2f %%\t%s\t%d\n", f.Server,
			f.CPU.Median, f.CPU.Min, f.CPU.Max, ratio(func(r fanOutRound) float64 { return r.CPU }),
			f.P50.Median, f.P50.Min, f.P50.Max, f.P99.Median, f.P99.Min, f.P99.Max, ratio(func(r fanOutRound) float64 { return slices.Min(r.P99) - 50 }),
			100*f.AtRest.Median, ratio(func(r fanOutRound) float64 { return r.AtRest }), len(f.Rounds))
	}
	if len(s.Beside) > 0 {
		fmt.Fprintf(w, "\nbeside %d streams\tCPU µs/announce\tx without\trounds\n", s.Resting)
	}
	for _, b := range s.Beside {
		fmt.Fprintf(w, "%s\t%.1f (%.1f-%.1f)\t%s\t%s\n", b.Server, b.Rounds.CPU.Median, b.Rounds.CPU.Min, b.Rounds.CPU.Max, times(b.Without), b.Rounds.kept())
	}
	if len(s.Bursts) > 0 {
		fmt.Fprintf(w, "\n%d join in 1 s\ts until all know all\tCPU s\tpeak RSS MB\tpeak socket buffers MB\tannounce p99 ms\tp99 before\tstreams ended\n", s.Burst)
	}
	for _, b := range s.Bursts {
		took := fmt.Sprintf("%.1f", b.Seconds)
		if b.Done < b.Members {
			took = fmt.Sprintf("%d do in %.0f s", b.Done, b.Seconds)
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.0f\t%.0f\t%.1f\t%.1f\t%d\n", b.Server, took, b.CPU, b.RSS/1e6, b.Sockets/1e6, b.P99, b.Quiet, b.Reopened)
	}
}

func (s *streamsResult) fanOut(server string) *fanOut {
	for _, f := range s.FanOut {
		if f.Server == server {
			return f
		}
	}
	return nil
}

func times(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x)
}

// mark is the name of the tables in a document.
const mark = "bench"
