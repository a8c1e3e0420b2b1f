//go:build linux

package docs_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The picture of an hour of load in docs/reliability.md has the numbers of docs/reliability/soak.tsv, which
// bench/soak has written.
func TestPictureOfSoak(t *testing.T) {
	text, err := os.ReadFile("docs/reliability/soak.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var rows [][]float64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if names == nil {
			names = fields
			continue
		}
		row := make([]float64, len(fields))
		for i, f := range fields {
			if row[i], err = strconv.ParseFloat(f, 64); err != nil || len(fields) != len(names) {
				t.Fatalf("docs/reliability/soak.tsv: %q, with %d columns: %v", line, len(names), err)
			}
		}
		rows = append(rows, row)
	}
	if len(rows) < 80 || strings.Join(names[:5], " ") != "second goroutines descriptors rss heap" {
		t.Fatalf("docs/reliability/soak.tsv has %d rows of %v", len(rows), names)
	}
	checkPicture(t, "soak", func(l look) string { return drawSoak(l, rows) })
}

// drawSoak draws a curve for each of the columns 1 to 4, over the time in column 0.
func drawSoak(l look, rows [][]float64) string {
	const left, right, height, gap = 160, 780, 70, 22
	const width = float64(right - left)
	seconds := rows[len(rows)-1][0]
	var body strings.Builder
	y := gap / 2
	for i, c := range []struct {
		name string
		unit float64
	}{{"goroutines", 1}, {"descriptors", 1}, {"resident, MiB", 1 << 20}, {"heap, MiB", 1 << 20}} {
		most := 0.0
		for _, row := range rows {
			most = max(most, row[i+1]/c.unit)
		}
		fmt.Fprintf(&body, `<text x="12" y="%d" class="h">%s</text><text x="%d" y="%d" class="e">%.0f</text><text x="%[3]d" y="%[6]d" class="e">0</text>`,
			y+height/2+4, c.name, left-8, y+12, most, y+height)
		fmt.Fprintf(&body, `<path d="M%d %dH%d" class="a"/><path d="M`, left, y+height, right)
		for _, row := range rows {
			fmt.Fprintf(&body, "%.0f %.0f ", left+row[0]/seconds*width, float64(y+height)-row[i+1]/c.unit/most*(height-4))
		}
		body.WriteString("\"/>\n")
		y += height + gap
	}
	fmt.Fprintf(&body, `<text x="%d" y="%d">0</text><text x="%d" y="%[2]d" class="e">%.0[4]f min</text>`+"\n", left, y, right, seconds/60)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 %d" width="800" height="%[1]d" role="img" aria-labelledby="title desc">
<title id="title">What ntrack serve takes in waves of load</title>
<desc id="desc">Goroutines, descriptors, resident memory and heap over the time. Each rises with a wave of load, and falls to the same value at rest.</desc>
<style>
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:%s}
.h{font-weight:600}.e{text-anchor:end;fill:%s}path{fill:none;stroke:%s;stroke-width:1.2}.a{stroke:%s}
</style>
<rect x="1" y="1" width="798" height="%d" rx="8" fill="%s" stroke="%s"/>
%s</svg>
`, y+12, l.text, l.dim, l.strong, l.border, y+10, l.window, l.border, &body)
}
