//go:build !linux

package server_test

import "testing"

// There are no loops here to compare with.
func compareLoop(*testing.T, []byte, bool) {}
