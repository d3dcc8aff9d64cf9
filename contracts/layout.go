package contracts

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file makes every name that a customer sees. The tree is a public contract:
//
//	<tenant>/<job>/snapshot_tables_<job>.tar              or, when split, snapshot_tables_part1_<job>.tar ...
//	<tenant>/<job>/snapshot_attachments_<job>.tar         or, when split, snapshot_attachments_part1_<job>.tar ...
//	<tenant>/<job>/manifest.json                          written last: present means whole

// ManifestName is the object that makes a delivery whole.
const ManifestName = "manifest.json"

// ProbeName is the object that preflight starts to upload, and aborts. It never becomes visible.
const ProbeName = ".snapfleet-probe"

// CheckFolder begins the name of the folder <tenant>/.snapfleet-check-<random>/ in which a check of the destination writes
// and removes its test objects. No job's id begins with a dot, so it is no delivery's. What a check must not be able to
// write is <tenant>.snapfleet-check-<random>, which is in no tenant's folder.
const CheckFolder = ".snapfleet-check-"

// JobLayout is how schedules and `submit` make job ids from an instant, which must be in UTC.
const JobLayout = "2006-01-02-150405"

// TenantPrefix is the folder of all deliveries to a tenant. It ends in a slash.
func TenantPrefix(tenant string) string { return tenant + "/" }

// JobPrefix is the folder of one delivery. It ends in a slash.
func JobPrefix(tenant, job string) string { return TenantPrefix(tenant) + job + "/" }

// VolumeName is the name of the n-th .tar of a kind, counted from 1, or of the only one when n is 0.
func VolumeName(kind Kind, job string, n int) string {
	if n == 0 {
		return fmt.Sprintf("snapshot_%s_%s.tar", kind, job)
	}
	return fmt.Sprintf("snapshot_%s_part%d_%s.tar", kind, n, job)
}

// maxFileName keeps a member's header within one 512-byte block of GNU tar, whose name field has 100
// bytes, with room for "_part10000" and a suffix.
const maxFileName = 76

// TableFiles names the files of a set of tables, in order: "<table>.<format>" wherever that is safe.
// The names are unique even where a file system folds case or normalises Unicode, also once [PartFile] has numbered
// them. Bytes that some extractor would take amiss are written %XX. A name that would be too long, that would be equal
// to another's, or that has another form in Unicode, ends in "~" and eight hex digits of its SHA-256.
func TableFiles(tables []string, format Format) []string {
	taken := make(map[string]bool, len(tables))
	for _, t := range tables {
		taken[fold(fileName(t))] = true
	}
	names := make([]string, len(tables))
	used := make(map[string]bool, len(tables))
	for i, t := range tables {
		plain := fileName(t)
		name := plain
		if used[fold(name)] || looksLikePart(name, taken) || len(name) > maxFileName || strings.ContainsFunc(plain, composed) {
			name = hashed(plain, t)
		}
		for n := 2; used[fold(name)]; n++ { // 32 bits of a digest are no proof
			name = hashed(plain, t+"\x00"+strconv.Itoa(n))
		}
		used[fold(name)] = true
		names[i] = name + "." + string(format)
	}
	return names
}

// PartFile is the name of the n-th file of a table that was split over volumes, counted from 1.
func PartFile(name string, n int) string {
	for _, f := range formats {
		if stem, ok := strings.CutSuffix(name, "."+string(f)); ok {
			return stem + "_part" + strconv.Itoa(n) + "." + string(f)
		}
	}
	return name + "_part" + strconv.Itoa(n)
}

// AttachmentFile is the path of an attachment inside its .tar: "<id>/<filename>". It depends on nothing but the two, so
// an attachment has the same path in every snapshot. What looks like another folder in a file name is written %XX.
//
// Ids are unique, so paths are, also on a file system that ignores case, Unicode normalisation or width: an id of
// anything but lower-case ASCII ends in "~" and eight hex digits of its SHA-256.
func AttachmentFile(id, filename string) string {
	// No other id becomes "no~id": a tilde is written %7E.
	return idFolder(id) + "/" + attachmentName(filename)
}

// The longest folder and the longest file name of an attachment's path, in bytes.
const (
	maxIDFolder       = 120
	maxAttachmentName = 180
)

// idFolder is the folder of an attachment. Ids that share their beginning are many, so a shortened one has more of its
// digest than one that only has upper-case letters.
func idFolder(id string) string {
	name := fileName(id)
	switch {
	case name == "":
		return "no~id"
	case len(name) > maxIDFolder:
		return cut(name, maxIDFolder-1-4*digestBytes) + "~" + digest(id, 2*digestBytes)
	case !caseless(id):
		return cut(name, maxIDFolder-1-2*digestBytes) + "~" + digest(id, digestBytes)
	}
	return name
}

// caseless reports whether no file system takes s for another caseless name.
func caseless(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf || 'A' <= r && r <= 'Z' })
}

// attachmentName is the file name of an attachment. It is alone in its folder.
func attachmentName(filename string) string {
	name := fileName(filename)
	if name == "" {
		return "unnamed"
	}
	if len(name) <= maxAttachmentName {
		return name
	}
	ext := path.Ext(name)
	if len(ext) > 12 || strings.ContainsRune(ext, '%') {
		ext = ""
	}
	return cut(name, maxAttachmentName-1-2*digestBytes-len(ext)) + "~" + digest(filename, digestBytes) + ext
}

// device matches names that Windows keeps for devices, whatever their extension, and whatever blanks are before it.
var device = regexp.MustCompile(`(?i)^(con|conin\$|conout\$|clock\$|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)`)

// fileName writes s so that it is one segment of a path on any system: no separator, no control or
// invisible formatting character, no leading or trailing dot or space, no device, nothing invalid, and
// injective.
func fileName(s string) string {
	var b strings.Builder
	isDevice := device.MatchString(s)
	for i, r := range s {
		edge := i == 0 || i+utf8.RuneLen(r) == len(s)
		_, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1,
			strings.ContainsRune(`/\%:*?"<>|~`, r),
			unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r),
			edge && (r == '.' || unicode.IsSpace(r)),
			i == 0 && (r == '-' || isDevice):
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// looksLikePart reports whether [PartFile] could make name out of another table's, whatever the case.
func looksLikePart(name string, taken map[string]bool) bool {
	name = fold(name)
	i := strings.LastIndex(name, "_part")
	if i < 0 {
		return false
	}
	_, err := strconv.ParseUint(name[i+len("_part"):], 10, 32)
	return err == nil && taken[name[:i]]
}

func hashed(name, original string) string {
	return cut(name, maxFileName-1-2*digestBytes) + "~" + digest(original, digestBytes)
}

// digestBytes is how much of its SHA-256 distinguishes a name from those that look like it.
const digestBytes = 4

// digest is the beginning of the SHA-256 of s, in hex: two digits for each of n bytes.
func digest(s string, n int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:n])
}

// cut shortens s to at most n bytes without breaking a character or a %XX.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	for i := 1; i <= 2 && n-i >= 0; i++ {
		if s[n-i] == '%' {
			return s[:n-i]
		}
	}
	return s[:n]
}

// fold maps names that collide on a case-insensitive file system to the same string.
func fold(s string) string { return sharpS.Replace(strings.ToLower(strings.ToUpper(s))) }

// sharpS is the one common letter of which full case folding, as on APFS, makes two.
var sharpS = strings.NewReplacer("ß", "ss", "ẞ", "ss")

// composed reports whether r is part of a letter that Unicode also writes in another way: with other marks, other jamo,
// another width, or as several letters. What is left are letters in the form that keyboards give, each of one rune.
func composed(r rune) bool {
	return r >= utf8.RuneSelf && (unicode.Is(unicode.M, r) || unicode.Is(otherForms, r))
}

var otherForms = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x0132, Hi: 0x0133, Stride: 1}, // ĳ
		{Lo: 0x0149, Hi: 0x0149, Stride: 1}, // ŉ
		{Lo: 0x01C4, Hi: 0x01CC, Stride: 1}, // Ǆ, in three cases
		{Lo: 0x01F0, Hi: 0x01F3, Stride: 1}, // ǰ, and Ǳ in three cases
		{Lo: 0x0344, Hi: 0x0345, Stride: 1},
		{Lo: 0x0374, Hi: 0x0374, Stride: 1},
		{Lo: 0x037E, Hi: 0x037E, Stride: 1},
		{Lo: 0x0387, Hi: 0x0387, Stride: 1},
		{Lo: 0x0390, Hi: 0x0390, Stride: 1},
		{Lo: 0x03B0, Hi: 0x03B0, Stride: 1},
		{Lo: 0x0587, Hi: 0x0587, Stride: 1},
		{Lo: 0x1100, Hi: 0x11FF, Stride: 1}, // jamo, of which syllables of Hangul are made
		{Lo: 0x1E96, Hi: 0x1E9B, Stride: 1},
		{Lo: 0x1F00, Hi: 0x1FFF, Stride: 1}, // Greek with several marks
		{Lo: 0x2000, Hi: 0x206F, Stride: 1}, // blanks and marks of several widths
		{Lo: 0x2100, Hi: 0x214F, Stride: 1}, // letters as symbols
		{Lo: 0x2329, Hi: 0x232A, Stride: 1},
		{Lo: 0xA960, Hi: 0xA97F, Stride: 1},
		{Lo: 0xD7B0, Hi: 0xD7FF, Stride: 1},
		{Lo: 0xF900, Hi: 0xFAFF, Stride: 1}, // ideographs for compatibility
		{Lo: 0xFB00, Hi: 0xFDFF, Stride: 1}, // ligatures and other forms for compatibility
		{Lo: 0xFE30, Hi: 0xFEFF, Stride: 1},
		{Lo: 0xFF00, Hi: 0xFFEF, Stride: 1}, // full and half width
	},
	R32: []unicode.Range32{{Lo: 0x1D400, Hi: 0x1D7FF, Stride: 1}, {Lo: 0x2F800, Hi: 0x2FA1F, Stride: 1}},
}
