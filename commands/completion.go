package commands

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

//go:embed completion.bash
var bashCompletion string

//go:embed completion.zsh
var zshCompletion string

func completionCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "print the completion script of a shell: bash, zsh or fish",
		UsageText:   "ntrack completion bash|zsh|fish",
		Description: "To load it:\n  bash  source <(ntrack completion bash)\n  zsh   source <(ntrack completion zsh)\n  fish  ntrack completion fish | source",
		Action: func(c *cli.Context) error {
			script := ""
			switch shell := c.Args().First(); {
			case c.NArg() != 1:
				return usage(c, "name one shell: bash, zsh or fish")
			case shell == "bash":
				script = bashCompletion
			case shell == "zsh":
				script = zshCompletion
			case shell == "fish":
				fish, err := c.App.ToFishCompletion()
				if err != nil {
					return err
				}
				script = strings.ReplaceAll(fish, "`", "") // which mark the names of values in help
			default:
				return usage(c, "shell %q: bash, zsh or fish", shell)
			}
			_, err := fmt.Fprint(s.Out, script)
			return err
		},
	}
}

func manCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		UsageText:   "ntrack man",
		Description: "To read it:     ntrack man | man -l -\nTo install it:  ntrack man > /usr/local/share/man/man1/ntrack.1",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage(c, "man takes no arguments")
			}
			for _, cmd := range c.App.Commands { // descriptions have no place in cli's page
				cmd.UsageText += "\n\n" + cmd.Description
			}
			page, err := c.App.ToManWithSection(1)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(s.Out, page)
			return err
		},
	}
}
