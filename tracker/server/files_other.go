//go:build !unix

package server

import "math"

// maxFiles is how many files this process may have open: no limit that is known.
func maxFiles() int { return math.MaxInt32 }
