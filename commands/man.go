package commands

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

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
