// Package measure has what the benches share: processes that are measured, their figures, and tables in
// documents.
package measure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"runtime"
	"strings"
	"time"
)

// A Histogram counts durations, with an error of at most 3 %.
type Histogram [64 * 32]uint32

// Add counts one.
func (h *Histogram) Add(d time.Duration) {
	v := uint64(max(d, 0)) + 32
	e := bits.Len64(v) - 6
	h[e<<5+int(v>>e)-32]++
}

// Percentile returns the duration that a share of all durations do not exceed.
func (h *Histogram) Percentile(share float64) time.Duration {
	total := 0
	for _, n := range h {
		total += int(n)
	}
	left := int(share * float64(total))
	for i, n := range h {
		if left -= int(n); left < 0 {
			return time.Duration(uint64(i&31+32)<<(i>>5)) - 32
		}
	}
	return 0
}

// Machine describes this machine.
func Machine(cpus int) string {
	model, kernel := "unknown CPU", ""
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ = strings.Cut(strings.TrimSpace(string(b)), "-")
	}
	return fmt.Sprintf("%s, %d CPUs, Linux %s, %s", model, cpus, kernel, runtime.Version())
}

// Save writes a report as JSON into jsonFile, and what print writes between the marks with this name in
// mdFile. It leaves out a file without a name.
func Save(report any, print func(io.Writer), jsonFile, mdFile, name string) error {
	if jsonFile != "" {
		text, err := json.MarshalIndent(report, "", "\t")
		if err == nil {
			err = os.WriteFile(jsonFile, append(text, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if mdFile == "" {
		return nil
	}
	var tables bytes.Buffer
	print(&tables)
	return putTables(mdFile, name, tables.String())
}

// Marks returns the lines before and after the tables in a document.
func Marks(name string) (begin, end string) {
	return "<!-- " + name + ": begin -->\n", "<!-- " + name + ": end -->\n"
}

// putTables replaces the tables between the marks in a document, and puts the date before them.
func putTables(file, name, tables string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := Marks(name)
	before, rest, ok1 := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return errors.New(file + ": no lines " + strings.TrimSpace(begin) + " and " + strings.TrimSpace(end))
	}
	text := before + begin + "```\n" + time.Now().UTC().Format(time.DateOnly) + ", " + tables + "```\n" + end + after
	return os.WriteFile(file, []byte(text), 0o644)
}
