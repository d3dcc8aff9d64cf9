package contracts_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestHouseValidate(t *testing.T) {
	t.Parallel()
	type H = contracts.House
	for _, c := range []struct {
		name   string
		change func(*H)
		names  string // empty: a good record
	}{
		{"full", func(*H) {}, ""},
		{"no key, no endpoint", func(h *H) { h.Destination.KMSKeyARN, h.Destination.Endpoint = "", "" }, ""},
		{"one day", func(h *H) { h.Days = 1 }, ""},
		{"by tag", func(h *H) { h.ExpiresBy = contracts.ByTag }, ""},
		{"version", func(h *H) { h.Version = 2 }, "version"},
		{"no days", func(h *H) { h.Days = 0 }, "days"},
		{"days without end", func(h *H) { h.Days = 3651 }, "days"},
		{"expires by nothing", func(h *H) { h.ExpiresBy = "" }, "expires_by"},
		{"no destination", func(h *H) { h.Destination = contracts.Destination{ExternalID: h.Destination.ExternalID} }, "bucket"},
		{"no bucket", func(h *H) { h.Destination.Bucket = "" }, "bucket"},
		{"no region", func(h *H) { h.Destination.Region = "" }, "region"},
		{"no role", func(h *H) { h.Destination.RoleARN = "" }, "role ARN"},
		{"no external ID", func(h *H) { h.Destination.ExternalID = "" }, "external ID"},
		{"endpoint in clear", func(h *H) { h.Destination.Endpoint = "http://s3.example.com" }, "endpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := fullHouse()
			c.change(&h)
			err := h.Validate()
			rejection, ok := contracts.AsRejection(err)
			switch {
			case c.names == "" && err != nil:
				t.Fatal(err)
			case c.names != "" && (!ok || rejection.Code != contracts.NoDestination || !strings.Contains(err.Error(), c.names)):
				t.Fatalf("error is %v, want %s and %q", err, contracts.NoDestination, c.names)
			case err != nil && h.Destination.ExternalID != "" && strings.Contains(err.Error(), h.Destination.ExternalID):
				t.Error("the error shows the external ID")
			}
		})
	}
}

func TestATenantWithoutADestinationIsOfTheHouse(t *testing.T) {
	t.Parallel()
	h, own := fullHouse(), fullTenant()
	if got := h.For(own); got.Destination != own.Destination || got.Destination.House() {
		t.Errorf("a customer's destination becomes %+v", got.Destination)
	}
	bare := own
	bare.Destination = contracts.Destination{ExternalID: own.Destination.ExternalID}
	if !bare.Destination.House() {
		t.Error("a tenant without a destination is not of the house")
	}
	got := h.For(bare)
	if d := got.Destination; !d.House() || d.Bucket != h.Destination.Bucket || d.ExternalID != h.Destination.ExternalID || d.Keep != (contracts.Keep{Days: 30, By: contracts.ByLifecycle}) {
		t.Errorf("the house's destination is %+v", d)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if data, err := json.Marshal(bare); err != nil || strings.Contains(string(data), "bucket") || strings.Contains(string(data), "region") || strings.Contains(string(data), "role") {
		t.Errorf("the record tells of a destination: %s, %v", data, err)
	}
}

func TestNoTenantHasTheKeyOfTheHouse(t *testing.T) {
	t.Parallel()
	if contracts.ValidTenant(contracts.HouseKey) {
		t.Error("one may")
	}
}

func TestTheHouseHoldsWhatWasDeliveredToIt(t *testing.T) {
	t.Parallel()
	h := fullHouse()
	o := contracts.Outcome{Tenant: "acme", Job: "j", Kind: contracts.DeliveredWithGaps, Manifest: "s3://our-snapshots/acme/j/manifest.json"}
	if !h.Holds(o) {
		t.Error("it does not hold a delivery to it")
	}
	for name, change := range map[string]func(*contracts.Outcome){
		"another bucket": func(o *contracts.Outcome) { o.Manifest = "s3://acme/acme/j/manifest.json" },
		"another tenant": func(o *contracts.Outcome) { o.Tenant = "beta" },
		"another job":    func(o *contracts.Outcome) { o.Job = "k" },
		"a failed job":   func(o *contracts.Outcome) { o.Kind = contracts.Failed },
		"nothing":        func(o *contracts.Outcome) { o.Manifest = "" },
	} {
		other := o
		change(&other)
		if h.Holds(other) {
			t.Errorf("it holds %s", name)
		}
	}
}

func TestADeliveryIsKeptForAllOfItsDays(t *testing.T) {
	t.Parallel()
	for begun, want := range map[string]string{
		"2026-03-31T00:00:00Z":      "2026-05-01T00:00:00Z",
		"2026-03-31T23:59:59Z":      "2026-05-01T00:00:00Z",
		"2026-03-31T23:59:59-02:00": "2026-05-02T00:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, begun)
		if err != nil {
			t.Fatal(err)
		}
		if got := (contracts.Keep{Days: 30}).Expires(at).Format(time.RFC3339); got != want {
			t.Errorf("begun %s, expires %s, want %s", begun, got, want)
		}
	}
}

func TestOnlyNamesOfTheLayoutAreFiles(t *testing.T) {
	t.Parallel()
	const job = "2026-03-31-143022"
	for name, want := range map[string]bool{
		"manifest.json": true,
		contracts.VolumeName(contracts.Tables, job, 0):      true,
		contracts.VolumeName(contracts.Tables, job, 12):     true,
		contracts.VolumeName(contracts.Attachments, job, 0): true,
		contracts.VolumeName(contracts.Attachments, job, 3): true,
		contracts.VolumeName(contracts.Tables, "other", 0):  false,
		"snapshot_tables_part0_" + job + ".tar":             false,
		"snapshot_tables_part1/_" + job + ".tar":            false,
		"snapshot_tables_../../x_" + job + ".tar":           false,
		"../snapshot_tables_" + job + ".tar":                false,
		"snapshot_tables_" + job + ".tar/../../x":           false,
		"snapshot_secrets_" + job + ".tar":                  false,
		"snapshot_tables_" + job + ".tar\x00":               false,
		"/etc/passwd":                                       false, "..": false, "": false, "x\\y": false,
		"Manifest.json": false, contracts.ProbeName: false,
	} {
		if got := contracts.IsFileOf(job, name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
	if contracts.IsFileOf("../x", "snapshot_tables_../x.tar") {
		t.Error("a name of a job that is none")
	}
}

func TestALinkDoesNotShowItself(t *testing.T) {
	t.Parallel()
	l := contracts.Links{Files: []contracts.Link{{Name: "manifest.json", Size: 7, URL: "https://bucket/secret"}}}
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		if said := fmt.Sprintf(form, l); strings.Contains(said, "secret") || !strings.Contains(said, "manifest.json") {
			t.Errorf("%s shows %s", form, said)
		}
	}
}
