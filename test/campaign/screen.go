package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

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

// tally counts the cases of a layer as they end.
type tally struct {
	screen     *screen
	layer      layer
	bar        *mpb.Bar  // nil: no terminal
	told       time.Time // when the last line was printed
	cases, bad int
}

// begin shows a layer.
func (s *screen) begin(l layer) *tally {
	t := &tally{screen: s, layer: l, told: time.Now()}
	if s.bars != nil {
		t.bar = s.bars.AddBar(int64(l.cases),
			mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-8s", l.name)), decor.CountersNoUnit("%6d / %-6d")),
			mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	}
	return t
}

// expect says how many cases there will be, where that was not known before.
func (t *tally) expect(n int) {
	t.screen.mu.Lock()
	defer t.screen.mu.Unlock()
	t.layer.cases = n
	if t.bar != nil {
		t.bar.SetTotal(int64(n), false)
	}
}

// done is told of every case. err is nil when it is as it should be.
func (t *tally) done(name string, err error) {
	t.screen.mu.Lock()
	defer t.screen.mu.Unlock()
	t.cases++
	wrong := "VIOLATION"
	if t.layer.name == "bugs" {
		wrong = "NOT CAUGHT"
	}
	if err != nil {
		t.bad++
		t.screen.println(fmt.Sprintf("%s: %s: %s\n%s", t.layer.name, name, wrong, indent(err.Error())))
	}
	switch {
	case t.bar != nil:
		if t.cases > t.layer.cases {
			t.bar.SetTotal(int64(t.cases), false)
		}
		t.bar.Increment()
	case time.Since(t.told) > interval:
		t.told = time.Now()
		t.screen.println(t.String())
	}
}

// interval is how often a line tells how far a layer has come, where there is no terminal.
const interval = 10 * time.Second

// end says that there are no more.
func (t *tally) end() {
	t.screen.mu.Lock()
	defer t.screen.mu.Unlock()
	if t.bar != nil {
		t.bar.SetTotal(int64(t.cases), true)
		return
	}
	t.screen.println(t.String())
}

// String is how far the layer has come.
func (t *tally) String() string {
	return fmt.Sprintf("%s: %d of %d cases, %d bad", t.layer.name, t.cases, max(t.cases, t.layer.cases), t.bad)
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
