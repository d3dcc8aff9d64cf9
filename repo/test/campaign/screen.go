package main

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// screen shows how far a campaign has come: bars on a terminal, else a line now and then. What went wrong is printed
// in full at once.
type screen struct {
	mu   sync.Mutex
	bars *mpb.Progress // nil: no terminal
}

func newScreen() *screen {
	s := &screen{}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		s.bars = mpb.New(mpb.WithWidth(48))
	}
	return s
}

func (s *screen) close() {
	if s.bars != nil {
		s.bars.Wait()
	}
}

// begin shows a layer. done is told of every case, end that there are no more.
func (s *screen) begin(l layer) (done report, end func()) {
	var bar *mpb.Bar
	if s.bars != nil {
		bar = s.bars.AddBar(int64(l.cases),
			mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-8s", l.name)), decor.CountersNoUnit("%6d / %-6d")),
			mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	}
	n, bad := 0, 0
	done = func(name string, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		n++
		if err != nil {
			bad++
			s.println(fmt.Sprintf("%s: %s: %s\n%s", l.name, name, map[bool]string{true: "NOT CAUGHT", false: "VIOLATION"}[l.name == "bugs"], indent(err.Error())))
		}
		switch {
		case bar == nil && (l.name == "bugs" && err == nil):
			s.println(fmt.Sprintf("%s: %s: caught (%d of %d)", l.name, name, n, l.cases))
		case bar == nil && n%500 == 0:
			s.println(fmt.Sprintf("%s: %d cases, %d violations", l.name, n, bad))
		case bar != nil:
			if n > l.cases {
				bar.SetTotal(int64(n), false)
			}
			bar.Increment()
		}
	}
	return done, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if bar != nil {
			bar.SetTotal(int64(n), true)
			return
		}
		s.println(fmt.Sprintf("%s: %d cases, %d bad", l.name, n, bad))
	}
}

// println writes above the bars.
func (s *screen) println(text string) {
	if s.bars != nil {
		_, _ = fmt.Fprintln(s.bars, text)
		return
	}
	fmt.Println(text)
}

func indent(s string) string {
	return "\t" + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n\t")
}
