package contracts

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// Pattern is one pattern of a [Filter], ready to be matched: * is any number of characters, ? is one, [a-z] is one of
// them, [^a-z] one of the others, and a backslash takes the next character as it is. Every character of a table's name
// counts as one, "/" too. It is safe for concurrent use.
type Pattern struct {
	text  string
	parts []patternPart
}

// patternPart matches one character, or any number of them.
type patternPart struct {
	any    bool // any number of characters
	ranges []runeRange
	except bool // one character that is in none of the ranges
}

type runeRange struct{ lo, hi rune }

var errBadPattern = errors.New("it is no pattern")

// ParsePattern reads a pattern. The error does not name it.
func ParsePattern(text string) (Pattern, error) {
	p := Pattern{text: text}
	if text == "" || !utf8.ValidString(text) {
		return p, errBadPattern
	}
	for rest := text; rest != ""; {
		var part patternPart
		var err error
		switch rest[0] {
		case '*':
			part, rest = patternPart{any: true}, rest[1:]
		case '?':
			part, rest = patternPart{except: true}, rest[1:]
		case '[':
			part, rest, err = patternClass(rest[1:])
		default:
			var r rune
			r, rest, err = patternRune(rest)
			part.ranges = []runeRange{{r, r}}
		}
		if err != nil {
			return p, err
		}
		p.parts = append(p.parts, part)
	}
	return p, nil
}

// patternClass reads what is between brackets.
func patternClass(rest string) (part patternPart, _ string, err error) {
	rest, part.except = strings.CutPrefix(rest, "^")
	for first := true; first || !strings.HasPrefix(rest, "]"); first = false {
		if rest == "" || rest[0] == '-' || rest[0] == ']' {
			return part, rest, errBadPattern
		}
		var r runeRange
		if r.lo, rest, err = patternRune(rest); err != nil {
			return part, rest, err
		}
		r.hi = r.lo
		if after, ok := strings.CutPrefix(rest, "-"); ok {
			if after == "" || after[0] == '-' || after[0] == ']' {
				return part, rest, errBadPattern
			}
			if r.hi, rest, err = patternRune(after); err != nil {
				return part, rest, err
			}
		}
		part.ranges = append(part.ranges, r)
	}
	return part, rest[1:], nil
}

// patternRune reads one character, after a backslash as it is.
func patternRune(rest string) (rune, string, error) {
	rest = strings.TrimPrefix(rest, `\`)
	r, size := utf8.DecodeRuneInString(rest)
	if size == 0 {
		return 0, "", errBadPattern
	}
	return r, rest[size:], nil
}

// String is the pattern as it was given.
func (p Pattern) String() string { return p.text }

// Match reports whether the pattern is of the whole name. It takes time in proportion to the product of both lengths at the most.
func (p Pattern) Match(name string) bool {
	at, part := 0, 0
	star, resume := -1, 0 // the last *, and where the name goes on should it take one character more
	for at < len(name) {
		if part < len(p.parts) && p.parts[part].any {
			star, resume = part, at
			part++
			continue
		}
		r, size := utf8.DecodeRuneInString(name[at:])
		if part < len(p.parts) && p.parts[part].matches(r) {
			at, part = at+size, part+1
			continue
		}
		if star < 0 {
			return false
		}
		_, size = utf8.DecodeRuneInString(name[resume:])
		resume += size
		at, part = resume, star+1
	}
	return !slices.ContainsFunc(p.parts[part:], func(p patternPart) bool { return !p.any })
}

func (p patternPart) matches(r rune) bool {
	return p.except != slices.ContainsFunc(p.ranges, func(in runeRange) bool { return in.lo <= r && r <= in.hi })
}
