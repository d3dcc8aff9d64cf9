package world

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Load runs a script as psql would: statement by statement, each on its own, with the data of COPY ... FROM
// stdin in the lines that follow. It understands what pg_dump writes, but no other psql command than
// \restrict. It stops at the first error, which names the line.
func Load(ctx context.Context, url string, script io.Reader) error {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) // every statement has been answered
	return LoadConn(ctx, conn, script)
}

// LoadConn is [Load] on a connection of the caller's.
func LoadConn(ctx context.Context, conn *pgconn.PgConn, script io.Reader) error {
	s := &splitter{in: bufio.NewReaderSize(script, 64<<10), line: 1}
	for {
		s.backslash = conn.ParameterStatus("standard_conforming_strings") == "off"
		statement, line, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("load: line %d: %w", line, err)
		}
		if copyIn.MatchString(statement) {
			_, err = conn.CopyFrom(ctx, &copyData{s: s}, statement)
		} else {
			_, err = conn.Exec(ctx, statement).ReadAll()
		}
		if err != nil {
			return fmt.Errorf("load: line %d: %w", line, err)
		}
	}
}

var copyIn = regexp.MustCompile(`(?is)^COPY\s.*\sFROM\s+STDIN\b[^']*$`)

// splitter cuts a script into statements.
type splitter struct {
	in        *bufio.Reader
	line      int
	backslash bool // a backslash escapes in a plain '...', too
}

// next returns a statement without its semicolon, and the line where it begins.
func (s *splitter) next() (string, int, error) {
	var b strings.Builder
	begin := s.line
	for {
		c, err := s.read()
		if err != nil {
			if rest := strings.TrimSpace(b.String()); errors.Is(err, io.EOF) && rest != "" {
				return rest, begin, nil
			}
			return "", begin, err
		}
		blank := strings.TrimSpace(b.String()) == "" && b.Len() < 8
		switch {
		case blank && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			begin = s.line
			b.Reset()
		case c == '-' && s.peek() == '-':
			if _, err := s.restOfLine(); err != nil && !errors.Is(err, io.EOF) {
				return "", begin, err
			}
			b.WriteByte('\n')
		case c == '/' && s.peek() == '*':
			if err := s.comment(); err != nil {
				return "", begin, err
			}
			b.WriteByte(' ')
		case blank && c == '\\':
			command, err := s.restOfLine()
			if err != nil && !errors.Is(err, io.EOF) {
				return "", begin, err
			}
			if !bytes.HasPrefix(command, []byte("restrict")) && !bytes.HasPrefix(command, []byte("unrestrict")) {
				return "", begin, fmt.Errorf("psql command \\%.40s is not understood", command)
			}
			begin = s.line
		case c == ';':
			if statement := strings.TrimSpace(b.String()); statement != "" {
				return statement, begin, nil
			}
		case c == '\'':
			escapes := s.backslash || endsInE(b.String())
			b.WriteByte(c)
			err = s.quoted(&b, c, escapes)
		case c == '"':
			b.WriteByte(c)
			err = s.quoted(&b, c, false)
		case c == '$' && !inName(b.String()):
			b.WriteByte(c)
			err = s.dollar(&b)
		default:
			b.WriteByte(c)
		}
		if err != nil {
			return "", begin, err
		}
	}
}

func (s *splitter) read() (byte, error) {
	c, err := s.in.ReadByte()
	if c == '\n' {
		s.line++
	}
	return c, err
}

func (s *splitter) peek() byte {
	if p, err := s.in.Peek(1); err == nil {
		return p[0]
	}
	return 0
}

func (s *splitter) restOfLine() ([]byte, error) {
	l, err := s.in.ReadBytes('\n')
	if err == nil {
		s.line++
	}
	return bytes.TrimRight(l, "\r\n"), err
}

// comment reads a /* ... */, which may hold others.
func (s *splitter) comment() error {
	for depth, last := 0, byte('/'); ; {
		c, err := s.read()
		if err != nil {
			return unexpected(err, "a comment")
		}
		switch {
		case last == '/' && c == '*':
			depth++
			c = 0
		case last == '*' && c == '/':
			if depth--; depth == 0 {
				return nil
			}
			c = 0
		}
		last = c
	}
}

// quoted reads up to the closing quote; a doubled one is two strings side by side, which is the same here.
func (s *splitter) quoted(b *strings.Builder, quote byte, escapes bool) error {
	for {
		c, err := s.read()
		if err != nil {
			return unexpected(err, "a string")
		}
		b.WriteByte(c)
		switch {
		case c == '\\' && escapes:
			if c, err = s.read(); err != nil {
				return unexpected(err, "a string")
			}
			b.WriteByte(c)
		case c == quote:
			return nil
		}
	}
}

// dollar reads a $tag$ ... $tag$, if it is one.
func (s *splitter) dollar(b *strings.Builder) error {
	tag := []byte{'$'}
	for {
		c := s.peek()
		if c != '$' && c != '_' && (c < '0' || c > '9' || len(tag) == 1) && (c|0x20 < 'a' || c|0x20 > 'z') && c < 0x80 {
			return nil // a parameter, or part of a name
		}
		if _, err := s.read(); err != nil {
			return err
		}
		b.WriteByte(c)
		tag = append(tag, c)
		if c == '$' {
			break
		}
	}
	var end []byte
	for !bytes.Equal(end, tag) {
		c, err := s.read()
		if err != nil {
			return unexpected(err, "a string")
		}
		b.WriteByte(c)
		if end = append(end, c); len(end) > len(tag) {
			end = end[1:]
		}
	}
	return nil
}

func unexpected(err error, in string) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the script ends within %s", in)
	}
	return err
}

// endsInE: the string that follows is an E'...'.
func endsInE(s string) bool {
	if s == "" || s[len(s)-1]|0x20 != 'e' {
		return false
	}
	return !inName(s[:len(s)-1])
}

// inName: what s ends with goes on in the next character, if that may be in a name.
func inName(s string) bool {
	if s == "" {
		return false
	}
	c := s[len(s)-1]
	return c == '_' || c == '$' || c >= 0x80 || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// copyData is the lines after a COPY, up to \. on a line of its own.
type copyData struct {
	s       *splitter
	started bool
	rest    []byte
	done    bool
}

// Read implements io.Reader.
func (d *copyData) Read(p []byte) (int, error) {
	if !d.started { // what stands behind the semicolon
		d.started = true
		if _, err := d.s.restOfLine(); err != nil {
			return 0, unexpected(err, "the data of a COPY")
		}
	}
	for len(d.rest) == 0 {
		if d.done {
			return 0, io.EOF
		}
		line, err := d.s.in.ReadBytes('\n')
		if err != nil && len(line) == 0 {
			return 0, unexpected(err, "the data of a COPY")
		}
		d.s.line++
		if d.done = string(bytes.TrimRight(line, "\r\n")) == `\.`; !d.done {
			d.rest = line
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}
