package commands

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"ntrack/tracker/store/memory"
)

const (
	mib = 1 << 20
	// leastMemory is the least --max-memory: with less, hardly anything is left beside the program.
	leastMemory = 32 * mib
	// programMemory is what the program takes by itself, before it keeps anything for clients.
	programMemory = 16 * mib
	// unknownMemory is assumed if the machine does not say how much memory it has.
	unknownMemory = 1 << 30
)

// A memorySplit says how many bytes of --max-memory are for what. The rest is for the program, for Go's
// runtime, and for garbage that Go has not collected yet.
type memorySplit struct {
	all         int64 // --max-memory
	table       int64 // keys and peers
	connections int64 // in the process and in the system
}

// splitMemory divides all bytes of --max-memory.
func splitMemory(all int64) memorySplit {
	rest := all - programMemory
	return memorySplit{all: all, table: rest / 2, connections: rest / 4}
}

// index is how many bytes the index of all keys may have. Some clients may take long to read it, and
// the memory for connections has to suffice for them.
func (m memorySplit) index() int64 { return m.connections / 4 }

func (m memorySplit) String() string {
	return fmt.Sprintf("at most %s of memory: %s for keys and peers, %s for connections", size(m.all), size(m.table), size(m.connections))
}

// buildMemory reads --max-memory. Its default is half of what the machine, or a cgroup, lets the process
// have, but at least leastMemory. A limit of a cgroup that is set later does not change it. root is the
// root of the file system.
func (o *serveOptions) buildMemory(c *cli.Context, s Streams, root fs.FS) error {
	available, known := availableMemory(root)
	if !known {
		available = unknownMemory
	}
	if strconv.IntSize == 32 {
		available = min(available, 2<<30) // of the addresses that a process has
	}
	all := max(leastMemory, available/2)
	if !c.IsSet("max-memory") && known && all > available {
		s.warn("this machine, or a cgroup, has %s of memory, and the system may kill a tracker that takes more: it needs up to %s", size(available), size(all))
	}
	if c.IsSet("max-memory") {
		text := c.String("max-memory")
		var err error
		if all, err = parseSize(text); err != nil {
			return usage(c, "--max-memory %q: %v", shown(text), err)
		}
		if all < leastMemory {
			return usage(c, "--max-memory %s: %s or more", shown(text), size(leastMemory))
		}
		if known && all > available {
			s.warn("--max-memory %s: this machine, or a cgroup, has %s, and the system may kill a process that takes more", shown(text), size(available))
		}
	}
	o.memory = splitMemory(all)
	return nil
}

var sizeForm = regexp.MustCompile(`^0*([0-9]+)(?:([KMGT])(?:iB)?)?$`)

// parseSize reads a number of bytes such as 1000, 512M or 2GiB. The letters are powers of 1024.
func parseSize(text string) (int64, error) {
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("a size such as 512M or 2G is wanted")
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := 0
	if m[2] != "" {
		shift = 10 * (1 + strings.Index("KMGT", m[2]))
	}
	if err != nil || n > 1<<62>>shift {
		return 0, fmt.Errorf("the size is too large")
	}
	return n << shift, nil
}

// size is a number of bytes as --max-memory reads it, such as 512M. Less than a tenth may be cut off.
func size(n int64) string {
	shift, unit := 0, ""
	for i, u := range []string{"K", "M", "G", "T"} {
		if n>>(10*(i+1)) >= 10 || n > 0 && n&(1<<(10*(i+1))-1) == 0 {
			shift, unit = 10*(i+1), u
		}
	}
	return strconv.FormatInt(n>>shift, 10) + unit
}

// limitGarbage makes Go collect garbage so often that the process takes little more memory than it
// needs, and no more than --max-memory if that is possible. Settings in the environment come first. If
// the table is in a shared database, the heap is small, and most of it is garbage of requests: then a
// tenth of the CPU time would go into collecting it that often.
func (m memorySplit) limitGarbage(shared bool) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetMemoryLimit(m.all)
	if os.Getenv("GOGC") == "" && !shared {
		debug.SetGCPercent(memory.GCPercent)
	}
}
