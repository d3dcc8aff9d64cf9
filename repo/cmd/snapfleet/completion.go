package main

import (
	"fmt"
	"os"
	"strings"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh" help:"bash or zsh."`
}

func (completionCmd) manual() page {
	return page{
		about: `Prints code that makes the shell complete snapfleet's commands and flags with the tabulator key.`,
		examples: []example{
			{
				"Bash: for this shell, and for all shells to come.",
				"source <(snapfleet completion bash)\necho 'source <(snapfleet completion bash)' >> ~/.bashrc",
			},
			{"Zsh.", "source <(snapfleet completion zsh)\necho 'source <(snapfleet completion zsh)' >> ~/.zshrc"},
		},
		exits: []int{exitOK, exitFailed, exitUsage},
	}
}

// Run prints the code. The binary itself answers the shell's questions, see kongcompletion.Register.
func (s *completionCmd) Run(c *console) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find out where this program is: %w", err)
	}
	if s.Shell == "zsh" {
		fmt.Fprintln(c.out, "autoload -U +X bashcompinit && bashcompinit")
	}
	fmt.Fprintf(c.out, "complete -o default -o bashdefault -C '%s' snapfleet\n", strings.ReplaceAll(binary, "'", `'\''`))
	return nil
}

type versionCmd struct{}

func (versionCmd) manual() page { return page{exits: []int{exitOK}} }

// Run prints the version.
func (versionCmd) Run(c *console) error {
	_, err := fmt.Fprintln(c.out, "snapfleet", buildVersion())
	return err
}
