package exporter

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"sync"
)

// This file writes values as PostgreSQL would. The server can send a value in two forms: as text, which it makes, and
// in binary, which is close to how it keeps it. Making text of every value, and looking through it for what CSV has to
// quote, is most of the work of a COPY, and the server's cores are the ones that the application needs. So what is
// simple is sent in binary and written here, byte for byte as PostgreSQL writes it (the tests compare millions of
// values); whatever else there is, the server makes text of as ever.

// kind is how the values of one type are written.
type kind struct {
	// size is how many bytes every value has; 0: any number.
	size int
	// valid tells, where size does not, whether bytes are such a value. Nil: all are.
	valid func(v []byte) bool
	// csv and json append a value to a row of CSV and to a JSON object.
	csv, json func(dst, v []byte) []byte
}

// kinds are the types that are sent in binary, by the function of the server's own that sends them: a domain has its
// base type's, and every enum the same.
//
// Not here: floating point numbers, whose shortest form the server finds as quickly, and finds in its own way.
var kinds = map[string]kind{
	"boolsend":         {size: 1, csv: csvBool, json: jsonBool},
	"int2send":         {size: 2, csv: appendInt2, json: appendInt2},
	"int4send":         {size: 4, csv: appendInt4, json: appendInt4},
	"int8send":         {size: 8, csv: appendInt8, json: appendInt8},
	"oidsend":          {size: 4, csv: appendOID, json: quoted(appendOID)},
	"numeric_send":     {valid: validNumeric, csv: appendNumeric, json: jsonNumeric},
	"textsend":         {csv: csvText, json: jsonText},
	"varcharsend":      {csv: csvText, json: jsonText},
	"bpcharsend":       {csv: csvText, json: jsonText},
	"namesend":         {csv: csvText, json: jsonText},
	"enum_send":        {csv: csvText, json: jsonText},
	"uuid_send":        {size: 16, csv: appendUUID, json: quoted(appendUUID)},
	"byteasend":        {csv: csvBytes, json: jsonBytes},
	"date_send":        {size: 4, csv: appendDate, json: quoted(appendDate)},
	"time_send":        {size: 8, csv: appendTime, json: quoted(appendTime)},
	"timestamp_send":   {size: 8, csv: csvTimestamp, json: jsonTimestamp},
	"timestamptz_send": {size: 8, csv: csvTimestamptz, json: jsonTimestamptz},
	"json_send":        {csv: csvJSON, json: jsonRaw},
	"jsonb_send":       {valid: validJSONB, csv: csvJSONB, json: jsonJSONB},
}

// asText is a value that the server has made text of, asJSON one that it has made JSON of, and textJSON one whose text
// is a string of JSON.
var (
	asText   = kind{csv: csvText}
	asJSON   = kind{json: jsonRaw}
	textJSON = kind{json: jsonText}
)

// quoted puts what f appends between quotation marks. It must need no escaping.
func quoted(f func(dst, v []byte) []byte) func(dst, v []byte) []byte {
	return func(dst, v []byte) []byte { return append(f(append(dst, '"'), v), '"') }
}

func csvBool(dst, v []byte) []byte {
	if v[0] != 0 {
		return append(dst, 't')
	}
	return append(dst, 'f')
}

func jsonBool(dst, v []byte) []byte { return strconv.AppendBool(dst, v[0] != 0) }

func appendInt2(dst, v []byte) []byte {
	return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(v))), 10)
}

func appendInt4(dst, v []byte) []byte {
	return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(v))), 10)
}

func appendInt8(dst, v []byte) []byte {
	return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(v)), 10)
}

func appendOID(dst, v []byte) []byte {
	return strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(v)), 10)
}

func appendUUID(dst, v []byte) []byte {
	for i, end := range [...]int{4, 6, 8, 10, 16} {
		start := [...]int{0, 4, 6, 8, 10}[i]
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, v[start:end])
	}
	return dst
}

func csvBytes(dst, v []byte) []byte { return hex.AppendEncode(append(dst, `\x`...), v) }

func jsonBytes(dst, v []byte) []byte {
	return append(hex.AppendEncode(append(dst, `"\\x`...), v), '"')
}

// A numeric is a header of four numbers of 16 bits, and then digits to the base of 10,000.
const (
	numericHeader = 8
	negative      = 0x4000
	notANumber    = 0xC000
	infinity      = 0xD000
	minusInfinity = 0xF000
)

func validNumeric(v []byte) bool {
	return len(v) >= numericHeader && len(v) == numericHeader+2*int(binary.BigEndian.Uint16(v))
}

// appendNumeric writes as many digits after the point as the value's scale says.
func appendNumeric(dst, v []byte) []byte {
	weight := int(int16(binary.BigEndian.Uint16(v[2:]))) // of the first digit, as a power of 10,000
	scale := int(binary.BigEndian.Uint16(v[6:]))
	switch binary.BigEndian.Uint16(v[4:]) {
	case notANumber:
		return append(dst, "NaN"...)
	case infinity:
		return append(dst, "Infinity"...)
	case minusInfinity:
		return append(dst, "-Infinity"...)
	case negative:
		dst = append(dst, '-')
	}
	digits := v[numericHeader:]
	digit := func(i int) int {
		if i < 0 || 2*i >= len(digits) {
			return 0
		}
		return int(binary.BigEndian.Uint16(digits[2*i:]))
	}
	dst = strconv.AppendInt(dst, int64(digit(min(0, weight))), 10)
	for i := 1; i <= weight; i++ {
		dst = appendFour(dst, digit(i))
	}
	if scale == 0 {
		return dst
	}
	dst = append(dst, '.')
	end := len(dst) + scale
	for i := weight + 1; len(dst) < end; i++ {
		dst = appendFour(dst, digit(i))
	}
	return dst[:end]
}

func appendFour(dst []byte, n int) []byte {
	return append(dst, byte('0'+n/1000%10), byte('0'+n/100%10), byte('0'+n/10%10), byte('0'+n%10))
}

func appendTwo(dst []byte, n int) []byte { return append(dst, byte('0'+n/10), byte('0'+n%10)) }

func jsonNumeric(dst, v []byte) []byte {
	if sign := binary.BigEndian.Uint16(v[4:]); sign >= notANumber { // no number, says JSON
		return append(appendNumeric(append(dst, '"'), v), '"')
	}
	return appendNumeric(dst, v)
}

// Times are counted from the year 2000, in microseconds, and days likewise.
const (
	second     = 1_000_000
	dayMicros  = 24 * 60 * 60 * second
	epochIsDay = 730_425 // the first of January 2000, from the first of March of the year 0
)

// appendDate takes the number of days.
func appendDate(dst, v []byte) []byte {
	switch day := int32(binary.BigEndian.Uint32(v)); day {
	case math.MaxInt32:
		return append(dst, "infinity"...)
	case math.MinInt32:
		return append(dst, "-infinity"...)
	default:
		dst, bc := appendDay(dst, int64(day))
		return appendBC(dst, bc)
	}
}

// century holds the days of the hundred years that nearly all days are of, written out.
var century = sync.OnceValue(func() *[36_525][10]byte {
	days := new([36_525][10]byte)
	for i := range days {
		calendarDay(days[i][:0], int64(i-centuryEpoch))
	}
	return days
})

const centuryEpoch = 10_957 // it begins in 1970

// appendDay writes year, month and day, and says whether the year is one before Christ.
func appendDay(dst []byte, day int64) (_ []byte, bc bool) {
	if days := century(); uint64(day+centuryEpoch) < uint64(len(days)) {
		return append(dst, days[day+centuryEpoch][:]...), false
	}
	return calendarDay(dst, day)
}

// calendarDay is appendDay by the Gregorian calendar. The year begins in March here, so that the day that it may have
// more is its last, and eras of 400 years are all alike.
func calendarDay(dst []byte, day int64) (_ []byte, bc bool) {
	const era = 146_097
	day += epochIsDay
	eras := day / era
	if day < 0 {
		eras = (day - era + 1) / era
	}
	n := int(day - eras*era)
	year := (n - n/1460 + n/36_524 - n/146_096) / 365
	n -= 365*year + year/4 - year/100
	month := (5*n + 2) / 153
	n -= (153*month + 2) / 5
	year += int(eras) * 400
	if month += 3; month > 12 {
		month -= 12
		year++
	}
	if bc = year <= 0; bc {
		year = 1 - year // there is no year 0
	}
	if year > 9999 {
		dst = strconv.AppendInt(dst, int64(year), 10)
	} else {
		dst = appendFour(dst, year)
	}
	dst = appendTwo(append(dst, '-'), month)
	return appendTwo(append(dst, '-'), n+1), bc
}

func appendBC(dst []byte, bc bool) []byte {
	if bc {
		return append(dst, " BC"...)
	}
	return dst
}

// appendTime takes the microseconds since midnight.
func appendTime(dst, v []byte) []byte { return appendClock(dst, int64(binary.BigEndian.Uint64(v))) }

func appendClock(dst []byte, micros int64) []byte {
	s, fraction := uint32(micros/second), int(micros%second)
	m, h := s/60%60, s/3600
	s %= 60
	dst = append(dst, byte('0'+h/10), byte('0'+h%10), ':', byte('0'+m/10), byte('0'+m%10), ':', byte('0'+s/10), byte('0'+s%10))
	if fraction == 0 {
		return dst
	}
	dst = append(dst, '.')
	dst = appendTwo(appendFour(dst, fraction/100), fraction%100)
	return bytes.TrimRight(dst, "0")
}

func csvTimestamp(dst, v []byte) []byte   { return appendTimestamp(dst, v, ' ', "") }
func csvTimestamptz(dst, v []byte) []byte { return appendTimestamp(dst, v, ' ', "+00") }

func jsonTimestamp(dst, v []byte) []byte {
	return append(appendTimestamp(append(dst, '"'), v, 'T', ""), '"')
}

func jsonTimestamptz(dst, v []byte) []byte {
	return append(appendTimestamp(append(dst, '"'), v, 'T', "+00:00"), '"')
}

func appendTimestamp(dst, v []byte, between byte, zone string) []byte {
	micros := int64(binary.BigEndian.Uint64(v))
	switch micros {
	case math.MaxInt64:
		return append(dst, "infinity"...)
	case math.MinInt64:
		return append(dst, "-infinity"...)
	}
	day := micros / dayMicros
	if micros -= day * dayMicros; micros < 0 {
		day, micros = day-1, micros+dayMicros
	}
	dst, bc := appendDay(dst, day)
	dst = appendClock(append(dst, between), micros)
	return appendBC(append(dst, zone...), bc)
}

// Eight bytes at a time: each is looked at for all that is wanted at once.
const (
	each = 0x0101010101010101
	high = 0x8080808080808080
)

// zeros has a high bit set in it if, and only if, one of the eight bytes of x is 0.
func zeros(x uint64) uint64 { return (x - each) &^ x & high }

// below is the same for a byte that is less than n, which is at most 128.
func below(x uint64, n byte) uint64 { return (x - each*uint64(n)) &^ x & high }

// special has a bit set in it if, and only if, one of eight bytes makes a field of CSV stand between quotation marks.
func special(x uint64) uint64 {
	return zeros(x^each*'"') | zeros(x^each*',') | zeros(x^each*'\n') | zeros(x^each*'\r')
}

// csvText is a field of CSV as COPY writes it: in quotation marks only where it has to, and where it would be taken
// for NULL. It is copied and looked at in one go, as if it needed none.
func csvText(dst, v []byte) []byte {
	start := len(dst)
	dst = append(dst, v...)
	if n := len(v); n >= 8 {
		found := special(binary.LittleEndian.Uint64(v[n-8:])) // overlaps with what is before it
		for rest := v; len(rest) > 8; rest = rest[8:] {
			found |= special(binary.LittleEndian.Uint64(rest))
		}
		if found == 0 {
			return dst
		}
	} else if plainCSV(v) {
		return dst
	}
	return csvQuoted(dst[:start], v)
}

// plainCSV reports whether a short field needs no quotation marks.
func plainCSV(v []byte) bool {
	for _, c := range v {
		if c == '"' || c == ',' || c == '\n' || c == '\r' {
			return false
		}
	}
	return len(v) > 0
}

func csvQuoted(dst, v []byte) []byte {
	dst = append(dst, '"')
	for {
		i := bytes.IndexByte(v, '"')
		if i < 0 {
			break
		}
		dst = append(append(dst, v[:i+1]...), '"')
		v = v[i+1:]
	}
	return append(append(dst, v...), '"')
}

// The version of jsonb's binary form comes before its text.
func validJSONB(v []byte) bool { return len(v) > 0 && v[0] == 1 }

func csvJSONB(dst, v []byte) []byte  { return csvJSON(dst, v[1:]) }
func jsonJSONB(dst, v []byte) []byte { return append(dst, v[1:]...) } // PostgreSQL writes it on one line

// csvJSON knows that there are quotation marks, as a rule near the beginning.
func csvJSON(dst, v []byte) []byte {
	if bytes.IndexByte(v, '"') >= 0 {
		return csvQuoted(dst, v)
	}
	return csvText(dst, v)
}

// jsonRaw is JSON already, which somebody may have written over several lines. In its strings no line can end.
func jsonRaw(dst, v []byte) []byte {
	start := len(dst)
	dst = append(dst, v...)
	oneLine(dst[start:])
	return dst
}

func oneLine(v []byte) {
	for i, c := range v {
		if c == '\n' || c == '\r' {
			v[i] = ' '
		}
	}
}

// jsonText is a string of JSON as row_to_json writes it.
func jsonText(dst, v []byte) []byte {
	return append(jsonEscaped(append(dst, '"'), v), '"')
}

// jsonEscaped is what is between the quotation marks of a string of JSON, or some of it.
func jsonEscaped(dst, v []byte) []byte {
	for len(v) > 0 {
		n := plainPrefix(v)
		dst, v = append(dst, v[:n]...), v[n:]
		if len(v) > 0 {
			dst, v = appendEscape(dst, v[0]), v[1:]
		}
	}
	return dst
}

// plainPrefix is how many bytes of v stand in a string of JSON as they are.
func plainPrefix(v []byte) (n int) {
	for ; len(v)-n >= 8; n += 8 {
		x := binary.LittleEndian.Uint64(v[n:])
		if below(x, ' ')|zeros(x^each*'"')|zeros(x^each*'\\') != 0 {
			break
		}
	}
	for ; n < len(v); n++ {
		if c := v[n]; c < ' ' || c == '"' || c == '\\' {
			break
		}
	}
	return n
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	case '"', '\\':
		return append(dst, '\\', c)
	}
	const digits = "0123456789abcdef"
	return append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
}
