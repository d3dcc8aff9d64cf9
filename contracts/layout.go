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
// The names are unique even where a file system folds case, also once [PartFile] has numbered them.
// Bytes that some extractor would take amiss are written %XX; a name that would be too long, or equal
// to another's, ends in "~" and eight hex digits of its SHA-256.
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
		if used[fold(name)] || looksLikePart(name, taken) || len(name) > maxFileName {
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

// AttachmentFile is the path of an attachment inside its .tar: "<id>/<filename>". Ids are unique, so
// paths are; what looks like another folder in a file name is written %XX.
func AttachmentFile(id, filename string) string {
	clean := func(s, empty string, limit int) string {
		name := fileName(s)
		if name == "" {
			name = empty
		}
		if len(name) <= limit {
			return name
		}
		ext := path.Ext(name)
		if len(ext) > 12 || strings.ContainsRune(ext, '%') {
			ext = ""
		}
		return cut(name, limit-9-len(ext)) + "~" + digest(s) + ext
	}
	// No other id becomes "no~id": a tilde is written %7E.
	return clean(id, "no~id", 120) + "/" + clean(filename, "unnamed", 180)
}

// device matches names that Windows keeps for devices, whatever their extension.
var device = regexp.MustCompile(`(?i)^(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\.|$)`)

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

func hashed(name, original string) string { return cut(name, maxFileName-9) + "~" + digest(original) }

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
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
func fold(s string) string { return strings.ToLower(strings.ToUpper(s)) }
