//go:build unix

package commands_test

import (
	"testing"
	"time"

	"ntrack/commands/commandstest"
)

func TestMain(m *testing.M) { commandstest.Main(m, nil) }

// patience bounds every wait of the tests that run ntrack as a program.
const patience = 30 * time.Second
