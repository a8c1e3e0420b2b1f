package main

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// A report has the results of a run.
type report struct {
	Machine string `json:"machine"`
	Engine  string `json:"engine"`
	plan
	Announces []*announceResult `json:"announces,omitempty"`
	Memory    []memoryResult    `json:"memory,omitempty"`
	Joins     *joinsResult      `json:"joins,omitempty"`
	Holds     []holdsResult     `json:"holds,omitempty"`
}

type announceResult struct {
	Name   string          `json:"name"`
	Rounds []announceRound `json:"rounds"`
}

// An announceRound is one measurement. All but PerSecond, P50, P99 and the two shares is for one
// announce.
type announceRound struct {
	Engine     float64            `json:"engine_us"`  // CPU time of the database
	Process    float64            `json:"process_us"` // CPU time of the tracker, or of the callers and the Store
	PerSecond  float64            `json:"announces_per_second"`
	P50        float64            `json:"p50_us"`
	P99        float64            `json:"p99_us"`
	Busy       float64            `json:"busy"` // the share of a CPU that the process used
	EngineBusy float64            `json:"engine_busy"`
	In         float64            `json:"bytes_in"` // of the database
	Out        float64            `json:"bytes_out"`
	Reads      float64            `json:"reads"` // of the database, from its connections
	Writes     float64            `json:"writes"`
	Calls      map[string]float64 `json:"calls"` // by command
	Usec       map[string]float64 `json:"us_per_call"`
}

type memoryResult struct {
	table
	Bytes float64 `json:"bytes_per_peer"`
	Join  float64 `json:"engine_us_per_join"`
	Renew float64 `json:"engine_us_per_announce"`
}

type joinsResult struct {
	Joins    int          `json:"joins"`
	Seconds  float64      `json:"seconds"`
	Expected int          `json:"events_at_each_tracker"`
	Sides    [2]joinsSide `json:"trackers"`
	Trackers float64      `json:"busy_trackers"`
	Engine   float64      `json:"busy_engine"`
}

type joinsSide struct {
	Events int     `json:"events"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Most   float64 `json:"most_ms"`
}

type holdsResult struct {
	Name     string             `json:"name"`
	Held     int                `json:"held"`
	Live     int                `json:"live"`    // at the end
	Seconds  float64            `json:"seconds"` // until all were held
	Trackers float64            `json:"busy_trackers"`
	Engine   float64            `json:"busy_engine"`
	RSS      float64            `json:"rss_bytes_per_peer"` // of the trackers
	Bytes    float64            `json:"engine_bytes_per_peer"`
	Conns    float64            `json:"connections"`         // of the database
	In       float64            `json:"bytes_in_per_second"` // of the database
	Out      float64            `json:"bytes_out_per_second"`
	Calls    map[string]float64 `json:"calls_per_second"`
}

// markOf is the name of the tables in a document.
func markOf(engine string) string { return "bench/shared " + filepath.Base(engine) }

// A spread is the median, the least and the most of all rounds.
type spread struct{ median, least, most float64 }

func (s spread) String() string { return fmt.Sprintf("%.1f (%.1f-%.1f)", s.median, s.least, s.most) }

func spreadOf(all []float64) spread {
	if len(all) == 0 {
		return spread{}
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]}
}

func (a *announceResult) of(number func(announceRound) float64) spread {
	var all []float64
	for _, r := range a.Rounds {
		all = append(all, number(r))
	}
	return spreadOf(all)
}

func (r *report) named(name string) *announceResult {
	for _, a := range r.Announces {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// allowed is how much CPU time a contender's process may take, in each round: as much as with a store
// in memory, and 1.3 times what the commands alone take.
func (r *report) allowed(name string) func(round int) float64 {
	base := map[string]string{serverName: memoryName, storeName: memoryStoreName}[name]
	if base == "" {
		return nil
	}
	alone, inMemory := r.named(rawName), r.named(base)
	return func(i int) float64 { return inMemory.Rounds[i].Process + 1.3*alone.Rounds[i].Process }
}

// print writes the tables.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s, which saves nothing on disk\n", r.Machine, r.Engine)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	r.printAnnounces(t)
	if len(r.Memory) > 0 {
		fmt.Fprint(t, "\nkeys x peers\tbytes/peer in the database\tits CPU µs/join\tµs/announce\n")
	}
	for _, m := range r.Memory {
		fmt.Fprintf(t, "%d x %d\t%.1f\t%.1f\t%.1f\n", m.Keys, m.Peers, m.Bytes, m.Join, m.Renew)
	}
	if j := r.Joins; j != nil {
		fmt.Fprintf(t, "\n%d watchers, ten a key, %d joins/s at A\tjoin to event: p50 ms\tp99 ms\tmost ms\tevents\tCPU of both trackers\tof the database\n", r.Watchers, r.Rate)
		for i, s := range j.Sides {
			fmt.Fprintf(t, "at %c\t%.0f\t%.0f\t%.0f\t%d of %d\t%.1f %%\t%.1f %%\n", 'A'+i, s.P50, s.P99, s.Most, s.Events, j.Expected, 100*j.Trackers, 100*j.Engine)
		}
	}
	if len(r.Holds) > 0 {
		fmt.Fprint(t, "\nheld by\tpeers\tlive at the end\ts to begin\tCPU of the trackers\tof the database\tRSS bytes/peer\tbytes/peer in the database\tconnections\tcommands/s\tits KB/s in\tout\n")
	}
	for _, h := range r.Holds {
		commands := 0.0
		for _, n := range h.Calls {
			commands += n
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%.1f %%\t%.1f %%\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\n", h.Name, h.Held, h.Live, h.Seconds, 100*h.Trackers, 100*h.Engine, h.RSS, h.Bytes, h.Conns, commands, h.In/1e3, h.Out/1e3)
	}
	_ = t.Flush()
}

func (r *report) printAnnounces(t io.Writer) {
	if len(r.Announces) == 0 {
		return
	}
	alone := r.named(rawName)
	fmt.Fprintf(t, "\n%d keys of %d, %d in flight\tdatabase: CPU µs/announce\tx alone\tprocess: CPU µs/announce\tx allowed\tannounces/s\tp50 ms\tp99 ms\tprocess busy\tdatabase busy\n", r.Keys, r.Peers, r.Callers)
	for _, a := range r.Announces {
		engine, ratio, share, busy := "-", "-", "-", "-"
		if e := a.of(func(r announceRound) float64 { return r.Engine }); e.median > 0 {
			engine = e.String()
			busy = fmt.Sprintf("%.0f %%", 100*a.of(func(r announceRound) float64 { return r.EngineBusy }).median)
			var all []float64
			for i, round := range a.Rounds {
				all = append(all, round.Engine/alone.Rounds[i].Engine)
			}
			ratio = fmt.Sprintf("%.2f", spreadOf(all).median)
		}
		if allowed := r.allowed(a.Name); allowed != nil {
			var all []float64
			for i, round := range a.Rounds {
				all = append(all, round.Process/allowed(i))
			}
			share = fmt.Sprintf("%.2f", spreadOf(all).median)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%v\t%s\t%.0f\t%.1f\t%.1f\t%.0f %%\t%s\n", a.Name, engine, ratio, a.of(func(r announceRound) float64 { return r.Process }), share,
			a.of(func(r announceRound) float64 { return r.PerSecond }).median, a.of(func(r announceRound) float64 { return r.P50 }).median/1e3,
			a.of(func(r announceRound) float64 { return r.P99 }).median/1e3, 100*a.of(func(r announceRound) float64 { return r.Busy }).median, busy)
	}
	fmt.Fprint(t, "\nan announce at the database\tbytes in\tout\treads\twrites\tcommands: µs each x how many\n")
	for _, a := range r.Announces {
		last := a.Rounds[len(a.Rounds)-1]
		if last.Engine == 0 {
			continue
		}
		commands := ""
		for _, name := range slices.Sorted(maps.Keys(last.Calls)) {
			commands += fmt.Sprintf("%s %.1f x %.2f, ", name, last.Usec[name], last.Calls[name])
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.2f\t%.2f\t%s\n", a.Name, last.In, last.Out, last.Reads, last.Writes, commands[:max(len(commands)-2, 0)])
	}
}
