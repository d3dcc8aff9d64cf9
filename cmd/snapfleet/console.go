package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// console is where a verb talks to the person, or the program, that called it. Results go to out,
// everything that only accompanies them (progress, hints, errors) to err.
type console struct {
	in       io.Reader
	out, err io.Writer
	inTTY    bool // a person can be asked
	outTTY   bool
	errTTY   bool
	colors   bool
	width    int      // columns to write in
	warnings []string // of the environment; the verb that logs says them

	mu      sync.Mutex
	painted map[string]bool // what paint has made
}

const (
	plainWidth  = 100 // of a file or a pipe
	widestWidth = 110 // longer lines are hard to read, however wide the screen is
)

func newConsole(in, out, err *os.File) *console {
	c := &console{
		in: in, out: out, err: err, width: plainWidth,
		inTTY: isTerminal(in), outTTY: isTerminal(out), errTTY: isTerminal(err),
	}
	for _, f := range []*os.File{out, err} {
		if w, _, e := term.GetSize(int(f.Fd())); e == nil && w > 20 {
			c.width = min(w, widestWidth)
			break
		}
	}
	c.colors = c.outTTY && colorsWanted()
	c.out, c.err = screen{out, c.colors}, screen{err, c.colors}
	if !colorsWanted() {
		text.DisableColors()
	}
	return c
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// bold, faint and the colours are for out only, and nothing at all when it is no terminal.
func (c *console) bold(s string) string  { return c.paint(s, text.Bold) }
func (c *console) faint(s string) string { return c.paint(s, text.Faint) }

func (c *console) paint(s string, colors ...text.Color) string {
	if !c.colors || s == "" {
		return s
	}
	s = text.Colors(colors).Sprint(printable(s))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.painted == nil {
		c.painted = map[string]bool{}
	}
	c.painted[s] = true
	return s
}

// clean escapes what a terminal might obey, but for what [console.paint] has made.
func (c *console) clean(s string) string { return printableBut(s, c.paintedPrefix) }

// printableBut is [printable], but keeps the sequences that own finds at the beginning of a text that begins with ESC.
func printableBut(s string, own func(string) string) string {
	var b strings.Builder
	for {
		esc := strings.IndexByte(s, '\x1b')
		if esc < 0 {
			return b.String() + printable(s)
		}
		b.WriteString(printable(s[:esc]))
		kept := own(s[esc:])
		if kept == "" {
			b.WriteString(printable(s[esc : esc+1]))
			esc++
		}
		b.WriteString(kept)
		s = s[esc+len(kept):]
	}
}

func (c *console) paintedPrefix(s string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for own := range c.painted {
		if strings.HasPrefix(s, own) {
			return own
		}
	}
	return ""
}

// screen is the last gate before a terminal, or a file that is shown on one: whatever a verb prints, control characters,
// invisible formatting and invalid UTF-8 are shown as what they are. Line feeds and tabulators stay, and colours where
// they are wanted. A Write is of whole characters.
type screen struct {
	w      io.Writer
	colors bool
}

// ownColors are the sequences that this program and its tables use: bold, faint and colours of letters.
var ownColors = regexp.MustCompile(`^\x1b\[(0|1|2|22|39|3[0-7]|9[0-7])(;(1|2|3[0-7]|9[0-7]))*m`)

// Write implements io.Writer.
func (s screen) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.w, s.shown(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s screen) shown(text string) string {
	if !s.colors {
		return printable(text)
	}
	return printableBut(text, ownColors.FindString)
}

// raw is the writer behind a screen, for what moves the cursor or escapes by itself.
func raw(w io.Writer) io.Writer {
	if s, ok := w.(screen); ok {
		return s.w
	}
	return w
}

// table prints rows below a header. A pipe gets the same columns without a colour.
func (c *console) table(header table.Row, rows []table.Row, columns ...table.ColumnConfig) {
	t := table.NewWriter()
	t.SetOutputMirror(c.out)
	t.SetStyle(c.style())
	t.SetColumnConfigs(columns)
	t.AppendHeader(header)
	for _, row := range rows {
		for i, cell := range row {
			if v := reflect.ValueOf(cell); v.Kind() == reflect.String { // of whatever type
				row[i] = strings.ReplaceAll(c.clean(v.String()), "\n", `\n`) // no cell begins a line of its own
			}
		}
	}
	t.AppendRows(rows)
	t.Render()
}

// facts prints pairs of a name and a value, one a line; a pair without a value is left out.
func (c *console) facts(pairs ...[2]string) {
	widest := 0
	for _, p := range pairs {
		if p[1] != "" {
			widest = max(widest, len(p[0]))
		}
	}
	for _, p := range pairs {
		if p[1] == "" {
			continue
		}
		lead := p[0] + strings.Repeat(" ", widest-len(p[0])+2)
		body := strings.ReplaceAll(wrap(c.clean(p[1]), c.width-len(lead)), "\n", "\n"+strings.Repeat(" ", len(lead)))
		io.WriteString(c.out, c.faint(lead)+body+"\n")
	}
}

// style is a table of columns without boxes: it reads well, and `cut` and `awk` can take it apart.
func (c *console) style() table.Style {
	s := table.StyleDefault
	s.Options = table.OptionsNoBordersAndSeparators
	s.Box.PaddingLeft, s.Box.PaddingRight = "", "   "
	s.Format.Header = text.FormatUpper
	if c.colors {
		s.Color.Header = text.Colors{text.Faint}
	}
	return s
}

// json prints v as one line, or indented for a person.
func (c *console) json(v any, indent bool) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if indent {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := c.out.Write(unobeyed(text.Bytes()))
	return err
}

// unobeyed escapes in a JSON text what a terminal might obey beyond what JSON escapes anyway: it can only be within a
// string.
func unobeyed(text []byte) []byte {
	if !bytes.ContainsFunc(text, obeyed) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if !obeyed(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}

func obeyed(r rune) bool { return r > '~' && !strconv.IsPrint(r) }

// wrap breaks s between words so that no line is longer than width, where words allow.
func wrap(s string, width int) string {
	if width < 20 {
		width = 20
	}
	var b strings.Builder
	for n, paragraph := range strings.Split(s, "\n") {
		if n > 0 {
			b.WriteByte('\n')
		}
		column := 0
		for _, word := range strings.Fields(paragraph) {
			w := text.StringWidthWithoutEscSequences(word)
			switch {
			case column == 0:
			case column+1+w > width:
				b.WriteByte('\n')
				column = 0
			default:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += w
		}
	}
	return b.String()
}

// size writes bytes for people: 1.2 GiB.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// count writes a number for people: 1,234,567.
func count[T ~int | ~int64](n T) string { return humanize.Comma(int64(n)) }

// plural writes a number of things: 1 table, 2 tables.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// when writes an instant as everybody in the fleet's time zones can compare it.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// took writes a duration to the second, or finer when it is short.
func took(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}

// printable writes what a terminal might obey as what it is: \x1b, \u202e. Line feeds and tabulators stay.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n', r == '\t', strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		i += n
	}
	return b.String()
}
