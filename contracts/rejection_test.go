package contracts_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/contracts"
)

// codesInSource finds every constant of type Code in the package's source.
func codesInSource(t *testing.T) map[string]contracts.Code {
	t.Helper()
	codes := map[string]contracts.Code{}
	file, err := parser.ParseFile(token.NewFileSet(), "rejection.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Code" {
			return true
		}
		for i, name := range spec.Names {
			value, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes[name.Name] = contracts.Code(value)
		}
		return true
	})
	if len(codes) < 30 {
		t.Fatalf("found %d codes only", len(codes))
	}
	return codes
}

func TestEveryCodeHasAdvice(t *testing.T) {
	t.Parallel()
	listed := contracts.Codes()
	seen := map[contracts.Code]string{}
	for name, code := range codesInSource(t) {
		a := code.Advice()
		switch {
		case a.Cause == "" || a.Fix == "":
			t.Errorf("%s (%s) has no cause or no fix", name, code)
		case strings.HasSuffix(a.Cause, ".") || strings.HasSuffix(a.Fix, ".") || strings.ContainsAny(a.Cause+a.Fix, "\n|"):
			t.Errorf("%s (%s): cause and fix are parts of a line: no full stop, no newline, no bar", name, code)
		}
		if other, ok := seen[code]; ok {
			t.Errorf("%s and %s are both %s", name, other, code)
		}
		seen[code] = name
		if !slices.Contains(listed, code) {
			t.Errorf("Codes does not list %s", code)
		}
	}
	if len(listed) != len(seen) || !slices.IsSorted(listed) {
		t.Errorf("%d codes in the source, %d listed: %q", len(seen), len(listed), listed)
	}
	if (contracts.Code("of_another_release").Advice() != contracts.Advice{}) {
		t.Error("an unknown code has advice")
	}
}

func TestRejection(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("attempt 3: %w", contracts.Reject(contracts.BucketNotFound, "bucket %q: %w", "acme", fs.ErrNotExist))
	r, ok := contracts.AsRejection(err)
	if !ok || r.Code != contracts.BucketNotFound {
		t.Fatalf("no rejection in %v", err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the chain ends at the rejection")
	}
	a := contracts.BucketNotFound.Advice()
	want := contracts.Reason{Code: contracts.BucketNotFound, What: `bucket "acme": file does not exist`, Cause: a.Cause, Fix: a.Fix}
	if got := *r.Reason(); got != want {
		t.Errorf("reason is %+v, want %+v", got, want)
	}
	if got, want := r.Error(), `bucket_not_found: bucket "acme": file does not exist; fix: `+a.Fix; got != want {
		t.Errorf("error is %q, want %q", got, want)
	}
	unknown := &contracts.Rejection{Code: "of_another_release", Err: fs.ErrExist}
	if got, want := unknown.Error(), "of_another_release: file already exists"; got != want {
		t.Errorf("error is %q, want %q", got, want)
	}
	if _, ok := contracts.AsRejection(fs.ErrExist); ok {
		t.Error("any error is a rejection")
	}
	if _, ok := contracts.AsRejection(nil); ok {
		t.Error("nil is a rejection")
	}
}

func TestOutcomeKindOK(t *testing.T) {
	t.Parallel()
	for kind, want := range map[contracts.OutcomeKind]bool{
		contracts.Delivered: true, contracts.DeliveredWithGaps: true, contracts.Failed: false, contracts.Cancelled: false, "": false,
	} {
		if kind.OK() != want {
			t.Errorf("%q is OK: %v", kind, !want)
		}
	}
}

// TestReasonIsBounded: a reason is part of records, outcomes, headers and notices, and each of them has to fit into one
// message.
func TestReasonIsBounded(t *testing.T) {
	t.Parallel()
	for name, what := range map[string]string{
		"names without end":           strings.Repeat("table, ", 200_000),
		"characters of several bytes": strings.Repeat("größe\u00a0日本 ", 1000),
		"not UTF-8":                   "\xff" + strings.Repeat("a\xc3", 4000),
	} {
		r := &contracts.Rejection{Code: contracts.TableDenied, Err: errors.New(what)}
		for _, got := range []string{r.Reason().What, strings.TrimSuffix(strings.TrimPrefix(r.Error(), "table_denied: "), "; fix: "+r.Reason().Fix)} {
			if len(got) > contracts.MaxReasonBytes || !utf8.ValidString(got) || !strings.HasSuffix(got, " ...") {
				t.Errorf("%s: %d bytes, valid %v, ends in %q", name, len(got), utf8.ValidString(got), got[len(got)-8:])
			}
		}
	}
}

func TestCutText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""}, {"short", 5, "short"}, {"longer", 5, "l ..."}, {"aé", 3, "aé"}, {"aaé bbb", 7, "aa ..."}, {"a\xff", 10, "a?"}, {"éé日本", 6, "é ..."}, {"日本日本", 6, " ..."},
	} {
		if got := contracts.CutText(c.in, c.limit); got != c.want {
			t.Errorf("CutText(%q, %d) is %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}
