// Package measure has what the benches share: the figures of a process, and tables in documents.
package measure

import (
	"errors"
	"fmt"
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

// Marks returns the lines before and after the tables in a document.
func Marks(name string) (begin, end string) {
	return "<!-- " + name + ": begin -->\n", "<!-- " + name + ": end -->\n"
}

// PutTables replaces the tables between the marks in a document, and puts the date before them.
func PutTables(file, name, tables string) error {
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
