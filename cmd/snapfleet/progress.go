package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressView shows how an attempt is doing: as bars on a terminal, as lines everywhere else.
// Its methods may be called from any goroutine.
type progressView interface {
	// show replaces what is on view. state is the job's, in words; empty for work without a queue.
	show(state string, p contracts.Progress)
	// end leaves the last picture standing. Nothing is shown after it.
	end(ok bool)
}

// progress opens a view on w, which is or is not a terminal.
func (c *console) progress(w io.Writer, terminal bool, title string) progressView {
	title = printable(title)
	if terminal {
		return newBars(raw(w), title, c.width)
	}
	return &lines{w: w, title: title, now: time.Now}
}

// stage is where a job stands, in words. The phase is of an attempt, and says something only while one runs.
func stage(state string, p contracts.Progress) string {
	switch {
	case p.Phase == "" || !moving(state):
		return state
	case state == "":
		return string(p.Phase)
	default:
		return state + ", " + string(p.Phase)
	}
}

// meter turns totals seen at instants into a rate and a time to go.
type meter struct {
	seen []sample
}

type sample struct {
	at    time.Time
	bytes int64
}

// meterWindow is how far back the rate looks: three heartbeats of a worker.
const meterWindow = 30 * time.Second

func (m *meter) see(at time.Time, bytes int64) {
	if n := len(m.seen); n > 0 && bytes < m.seen[n-1].bytes {
		m.seen = nil // another attempt started from nothing
	}
	m.seen = append(m.seen, sample{at, bytes})
	for len(m.seen) > 2 && at.Sub(m.seen[1].at) >= meterWindow {
		m.seen = m.seen[1:]
	}
}

// rate in bytes a second; 0 when two instants were not seen yet.
func (m *meter) rate() float64 {
	if len(m.seen) < 2 {
		return 0
	}
	first, last := m.seen[0], m.seen[len(m.seen)-1]
	if d := last.at.Sub(first.at).Seconds(); d > 0 {
		return float64(last.bytes-first.bytes) / d
	}
	return 0
}

// remaining is the time until total, or 0 when nobody can say: no rate, or the estimate is exceeded.
func (m *meter) remaining(total int64) time.Duration {
	rate := m.rate()
	if rate <= 0 || len(m.seen) == 0 {
		return 0
	}
	left := total - m.seen[len(m.seen)-1].bytes
	if left <= 0 {
		return 0
	}
	return min(time.Duration(float64(left)/rate*float64(time.Second)), 99*time.Hour)
}

// volume writes bytes, expected bytes, rate and time to go: "1.2 GiB of about 3.4 GiB, 85 MiB/s, 26s to go".
func (m *meter) volume(p contracts.Progress) string {
	s := size(p.Bytes)
	switch {
	case p.BytesTotal <= p.Bytes:
	case p.Phase == contracts.WritingTables:
		s += " of about " + size(p.BytesTotal)
	default:
		s += " of " + size(p.BytesTotal)
	}
	if r := m.rate(); r > 0 {
		s += ", " + size(int64(r)) + "/s"
	}
	if d := m.remaining(p.BytesTotal); d > 0 {
		s += ", " + took(max(d, time.Second).Round(time.Second)) + " to go"
	}
	return s
}

// amount is the volume of work that is under way, and of any other what there is: a rate would be of the past.
func (m *meter) amount(state string, p contracts.Progress) string {
	if moving(state) {
		return m.volume(p)
	}
	return size(p.Bytes)
}

// moving reports whether a job in that state uploads. Work without a queue has no state, and always does.
func moving(state string) bool { return state == "" || strings.HasPrefix(state, "running") }

// lines is the view for pipes, files and log collectors: one line a change, and no more than one a second
// unless the stage changed.
type lines struct {
	w     io.Writer
	title string
	now   func() time.Time

	mu      sync.Mutex
	meter   meter
	state   string
	last    contracts.Progress
	printed time.Time
	ended   bool
}

const lineGap = time.Second

func (l *lines) show(state string, p contracts.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.meter.see(now, p.Bytes)
	stage := state != l.state || p.Phase != l.last.Phase
	if l.ended || !stage && (p == l.last || now.Sub(l.printed) < lineGap) {
		return
	}
	l.state, l.last, l.printed = state, p, now
	fmt.Fprintf(l.w, "%s %s: %s\n", now.UTC().Format(time.TimeOnly), l.title, printable(strings.Join(l.words(state, p), ", ")))
}

func (l *lines) words(state string, p contracts.Progress) []string {
	var words []string
	if s := stage(state, p); s != "" {
		words = append(words, s)
	}
	if p.TablesTotal > 0 {
		words = append(words, fmt.Sprintf("%d/%d tables", p.Tables, p.TablesTotal))
	}
	if p.FilesTotal > 0 {
		words = append(words, fmt.Sprintf("%d/%d files", p.Files, p.FilesTotal))
	}
	if p.Rows > 0 {
		words = append(words, count(p.Rows)+" rows")
	}
	if p.Bytes > 0 {
		words = append(words, l.meter.amount(state, p))
	}
	return words
}

func (l *lines) end(bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// bars is the view for people.
type bars struct {
	container *mpb.Progress
	head      *mpb.Bar
	width     int
	shown     map[string]*mpb.Bar // by name, from when there is something to show

	mu    sync.Mutex // guards what the decorators read
	meter meter
	title string
	state string
	now   contracts.Progress
	ended bool
	ok    bool
}

func newBars(w io.Writer, title string, width int) *bars {
	b := &bars{title: title, width: width, shown: map[string]*mpb.Bar{}}
	b.container = mpb.New(mpb.WithOutput(w), mpb.WithWidth(min(40, width/3)), mpb.WithRefreshRate(120*time.Millisecond), mpb.WithAutoRefresh())
	b.head = b.container.New(1, mpb.NopStyle(), mpb.BarFillerTrim(), mpb.PrependDecorators(b.reads(b.headline)))
	return b
}

func (b *bars) show(state string, p contracts.Progress) {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return
	}
	state, p.Phase, p.Current = printable(state), contracts.Phase(printable(string(p.Phase))), printable(p.Current)
	b.state, b.now = state, p
	b.meter.see(time.Now(), p.Bytes)
	b.mu.Unlock()
	b.fill("tables", int64(p.Tables), int64(p.TablesTotal), func() string {
		return fmt.Sprintf("%d/%d  %s", b.now.Tables, b.now.TablesTotal, text.Trim(b.now.Current, max(10, b.width-70)))
	})
	b.fill("attachments", int64(p.Files), int64(p.FilesTotal), func() string {
		return fmt.Sprintf("%d/%d", b.now.Files, b.now.FilesTotal)
	})
	b.fill("data", p.Bytes, p.BytesTotal, func() string {
		if b.ended {
			return size(b.now.Bytes)
		}
		return b.meter.amount(b.state, b.now)
	})
}

// fill moves a bar, which appears when it has something to say; words is its right side. A bar never
// completes by itself: a total may be an estimate, and an attempt may start again.
func (b *bars) fill(name string, current, total int64, words func() string) {
	bar := b.shown[name]
	if bar == nil {
		if total == 0 && current == 0 {
			return
		}
		style := mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding("━").
			FillerMeta(func(s string) string { return text.FgCyan.Sprint(s) }).
			TipMeta(func(s string) string { return text.FgCyan.Sprint(s) }).
			PaddingMeta(func(s string) string { return text.Faint.Sprint(s) })
		bar = b.container.New(0, style, mpb.BarFillerTrim(),
			mpb.PrependDecorators(decor.Name("  "+name, decor.WC{W: 15, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.Name("  "), b.reads(words)))
		b.shown[name] = bar
	}
	bar.SetTotal(max(total, current), false)
	bar.SetCurrent(current)
}

// reads is a decorator over the view's own state.
func (b *bars) reads(words func() string) decor.Decorator {
	return decor.Any(func(decor.Statistics) string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return words()
	})
}

func (b *bars) headline() string {
	mark := text.FgCyan.Sprint("●")
	switch {
	case b.ended && b.ok:
		mark = text.FgGreen.Sprint("✓")
	case b.ended:
		mark = text.FgRed.Sprint("✗")
	}
	words := stage(b.state, b.now)
	if b.ended {
		words = b.state
	}
	return mark + " " + text.Bold.Sprint(b.title) + "  " + text.Faint.Sprint(words)
}

func (b *bars) end(ok bool) {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return
	}
	b.ended, b.ok = true, ok
	b.now.Current = ""
	b.mu.Unlock()
	b.head.Abort(false)
	for _, bar := range b.shown {
		if ok { // the total was an estimate
			bar.SetTotal(bar.Current(), false)
		}
		bar.Abort(false)
	}
	b.container.Wait()
}
