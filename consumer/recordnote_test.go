package consumer

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// TestChangedRecordIsNoticed: a delivery under another record than the one before makes a notice, once, without saying what is in
// the record; also when the first worker to notice could not publish it.
func TestChangedRecordIsNoticed(t *testing.T) {
	t.Parallel()
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("w1")
		lost := false
		n.faults = func(op string) fault {
			if lost && strings.HasPrefix(op, "notify") {
				return fault{kind: refuse}
			}
			return fault{}
		}
		n.employ(exports{}, Config{})
		deliver := func(job string) {
			w.publish(request(job))
			time.Sleep(time.Minute)
			if end := w.ends()[job]; end != string(contracts.Delivered) {
				t.Fatalf("job %s has ended as %q", job, end)
			}
		}
		change := func(f func(*contracts.Tenant)) {
			w.change("the record changes", func() {
				record := w.tenants["acme"]
				f(&record)
				w.tenants["acme"] = record
			})
		}
		wantNotices := func(want ...string) {
			t.Helper()
			var got []string
			for _, notice := range w.notices {
				got = append(got, notice.Reason.What[strings.Index(notice.Reason.What, "another "):])
				if notice.Kind != contracts.DestinationChanged || strings.Contains(fmt.Sprint(notice), "stolen") {
					t.Errorf("%+v", notice)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("the notices are %q, want %q", got, want)
			}
		}
		deliver("one")
		change(func(r *contracts.Tenant) { r.Format = contracts.JSONL; r.UpdatedAt = time.Now() })
		deliver("two")
		wantNotices()
		change(func(r *contracts.Tenant) {
			r.Schema, r.Destination.ExternalID = "stolen", "stolen-external-id-0123456789"
		})
		deliver("three")
		deliver("four")
		wantNotices("another database or schema, external ID")
		lost = true
		change(func(r *contracts.Tenant) { r.Destination.Bucket = "stolen-bucket" })
		deliver("five")
		wantNotices("another database or schema, external ID")
		lost = false
		deliver("six")
		deliver("seven")
		wantNotices("another database or schema, external ID", "another bucket")
	})
}

func TestTwins(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r := must(OpenRegistry(ctx, js))
	registered := func(name, schema, bucket, external string) contracts.Tenant {
		made := tenant(name)
		made.Schema, made.Destination.Bucket, made.Destination.ExternalID = schema, bucket, external
		return made
	}
	victim := registered("victim", "victim", "victims-bucket", "external-id-of-the-victim-0123456")
	for _, other := range []contracts.Tenant{victim, registered("alone", "alone", "bucket-of-alone", "external-id-of-alone-0123456789ab")} {
		if err := r.Set(ctx, other); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		tenant contracts.Tenant
		want   []string
	}{
		{registered("new", "new", "new-bucket", "another-external-id-0123456789abc"), nil},
		{registered("new", "victim", "new-bucket", "another-external-id-0123456789abc"), []string{"schema"}},
		{registered("new", "new", "victims-bucket", victim.Destination.ExternalID), []string{"bucket", "external ID"}},
		{victim, nil},
	} {
		var got []string
		for _, twin := range must(r.Twins(ctx, c.tenant)) {
			if twin.Tenant != "victim" {
				t.Errorf("%+v", twin)
			}
			got = append(got, twin.Shares...)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s with schema %s: shared are %q, want %q", c.tenant.Name, c.tenant.Schema, got, c.want)
		}
	}
	elsewhere := registered("new", "victim", "new-bucket", "another-external-id-0123456789abc")
	elsewhere.Database = "second"
	if twins := must(r.Twins(ctx, elsewhere)); len(twins) > 0 {
		t.Errorf("the same schema in another database: %+v", twins)
	}
}
