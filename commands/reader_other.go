//go:build !unix

package commands

import "io"

// waitReaderGone is for Unix; elsewhere the next write finds out.
func waitReaderGone(io.Writer) bool { return false }
