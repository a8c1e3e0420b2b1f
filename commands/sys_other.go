//go:build !unix || aix || solaris

package commands

import (
	"errors"
	"io"
	"os"
)

// Without these locks every member of a classic tracker leaves for all of them, and no process can
// see whether another one still uses a directory: so each directory stays.

func openOwn(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func shareByte(*os.File, int64) (others bool, err error) { return false, errors.ErrUnsupported }

func claimByte(*os.File, int64) (others bool) { return false }

func lockDir(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func removeIn(*os.File, string) error { return errors.ErrUnsupported }

// The next write finds out.
func waitReaderGone(io.Writer) bool { return false }

// The next change finds out.
func notifyTerminal(chan<- os.Signal) {}

func isContinued(os.Signal) bool { return false }
