package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// stages tells what happens and how long it took. It belongs to one goroutine.
type stages struct {
	w        io.Writer
	terminal bool
	colour   bool
	began    time.Time
	done     []stage
}

type stage struct {
	name string
	took time.Duration
}

func newStages(f *os.File) *stages {
	terminal := term.IsTerminal(int(f.Fd()))
	return &stages{w: f, terminal: terminal, colour: terminal && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

// do runs one stage. What it says of itself stands behind its name.
func (s *stages) do(name string, f func() (string, error)) error {
	began := time.Now()
	if s.terminal {
		fmt.Fprintf(s.w, "  … %s", name)
	}
	said, err := f()
	took := time.Since(began)
	if s.terminal {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
	if err != nil {
		fmt.Fprintf(s.w, "  %s %s\n", s.paint("✗", text.FgRed), name)
		return fmt.Errorf("%s: %w", name, err)
	}
	s.done = append(s.done, stage{name, took})
	fmt.Fprintf(s.w, "  %s %-22s %6s  %s\n", s.paint("✓", text.FgGreen), name, seconds(took), s.paint(said, text.Faint))
	return nil
}

// act is a stage that prints for itself: what a person would type stands above it.
func (s *stages) act(name string, command []string, f func() error) error {
	fmt.Fprintf(s.w, "\n%s\n", s.paint("$ "+strings.Join(command, " "), text.Bold))
	began := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.done = append(s.done, stage{name, time.Since(began)})
	return nil
}

func (s *stages) title(words string) { fmt.Fprintf(s.w, "\n%s\n", s.paint(words, text.Bold)) }

func (s *stages) paint(words string, colour text.Color) string {
	if !s.colour || words == "" {
		return words
	}
	return colour.Sprint(words)
}

// sum prints how long each stage took.
func (s *stages) sum() {
	t := s.newTable()
	t.AppendHeader(table.Row{"stage", "took"})
	for _, d := range s.done {
		t.AppendRow(table.Row{d.name, seconds(d.took)})
	}
	t.AppendFooter(table.Row{s.paint("all of it", text.Bold), seconds(time.Since(s.began))})
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight, AlignHeader: text.AlignRight, AlignFooter: text.AlignRight}})
	t.Render()
}

// newTable looks like snapfleet's own.
func (s *stages) newTable() table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(s.w)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "   "
	style.Format.Header, style.Format.Footer = text.FormatUpper, text.FormatDefault
	if s.colour {
		style.Color.Header = text.Colors{text.Faint}
	}
	t.SetStyle(style)
	return t
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }
