package consumer

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

func house() contracts.House {
	return contracts.House{Version: contracts.HouseVersion, Days: 30, ExpiresBy: contracts.ByLifecycle, Destination: contracts.Destination{
		Bucket: "our-snapshots", Region: "us-east-1", RoleARN: "arn:aws:iam::111111111111:role/house", ExternalID: "fedcba9876543210fedcba9876543210",
	}}
}

// homeless is a tenant without a bucket of its own.
func homeless(name string) contracts.Tenant {
	t := tenant(name)
	t.Destination = contracts.Destination{ExternalID: t.Destination.ExternalID}
	return t
}

func TestRegistryResolvesATenantToTheHouse(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r := must(OpenRegistry(ctx, js))
	for _, tenant := range []contracts.Tenant{homeless("beta"), tenant("acme")} {
		if err := r.Set(ctx, tenant); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Resolve(ctx, "beta"); codeOf(err) != contracts.NoDestination || !strings.Contains(err.Error(), "tenant beta") {
		t.Errorf("without a house: %v", err)
	}
	if got, err := r.Resolve(ctx, "acme"); err != nil || got.Destination != tenant("acme").Destination {
		t.Errorf("a customer's own, without a house: %+v, %v", got, err)
	}

	if err := r.SetHouse(ctx, house()); err != nil {
		t.Fatal(err)
	}
	got, err := r.Resolve(ctx, "beta")
	if err != nil || got.Destination.Bucket != "our-snapshots" || got.Destination.Keep.Days != 30 || got.Destination.ExternalID != house().Destination.ExternalID {
		t.Errorf("with a house: %+v, %v", got, err)
	}
	if got, err := r.Resolve(ctx, "acme"); err != nil || got.Destination != tenant("acme").Destination {
		t.Errorf("a customer's own, with a house: %+v, %v", got, err)
	}
	// A worker resolves, and a verb does not: what it writes back is the tenant's own.
	if stored, err := r.Get(ctx, "beta"); err != nil || stored.Destination != homeless("beta").Destination {
		t.Errorf("as it is registered: %+v, %v", stored, err)
	}
	if err := r.Set(ctx, got); err == nil {
		t.Error("the house's destination was written into a tenant's record")
	}
	if worker, err := (resolved{r}).Get(ctx, "beta"); err != nil || worker.Destination != got.Destination {
		t.Errorf("as a worker has it: %+v, %v", worker, err)
	}
	// The house is no tenant.
	for _, ask := range []func() error{
		func() error { _, err := r.Get(ctx, contracts.HouseKey); return err },
		func() error { _, err := r.Resolve(ctx, contracts.HouseKey); return err },
	} {
		if err := ask(); codeOf(err) != contracts.UnknownTenant {
			t.Errorf("the house as a tenant: %v", err)
		}
	}
	if names := must(r.Names(ctx)); strings.Join(names, " ") != "acme beta" {
		t.Errorf("the tenants are %q", names)
	}
	if list := must(r.List(ctx)); len(list) != 2 {
		t.Errorf("the tenants are %+v", list)
	}
}

func TestTheHousesExternalIDNeverChanges(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r := must(OpenRegistry(ctx, js))
	if _, err := r.House(ctx); codeOf(err) != contracts.NoDestination {
		t.Errorf("no house: %v", err)
	}
	wrong := house()
	wrong.Destination.Region = ""
	if err := r.SetHouse(ctx, wrong); codeOf(err) != contracts.NoDestination {
		t.Errorf("a house without a region: %v", err)
	}
	if err := r.SetHouse(ctx, house()); err != nil {
		t.Fatal(err)
	}
	longer := house()
	longer.Days = 90
	if err := r.SetHouse(ctx, longer); err != nil {
		t.Fatal(err)
	}
	other := longer
	other.Destination.ExternalID = "00000000000000000000000000"
	if err := r.SetHouse(ctx, other); codeOf(err) != contracts.NoDestination {
		t.Errorf("another external ID: %v", err)
	}
	if got := must(r.House(ctx)); got.Days != 90 || got.Destination.ExternalID != house().Destination.ExternalID {
		t.Errorf("the house is %+v", got)
	}
	// A record that cannot work is nobody's destination, and can be written anew.
	if err := r.cells.Put(ctx, contracts.HouseKey, []byte(`{"version":9}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.House(ctx); codeOf(err) != contracts.NoDestination {
		t.Errorf("a record of another release: %v", err)
	}
	if err := r.SetHouse(ctx, house()); err != nil {
		t.Error(err)
	}
}

// A request of a tenant that has nowhere to be delivered to ends in a reason, and one with a house in the house.
func TestATenantWithoutADestinationAndWithoutAHouse(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r, jobs := must(OpenRegistry(ctx, js)), must(OpenJobs(ctx, js))
	if err := r.Set(ctx, homeless("acme")); err != nil {
		t.Fatal(err)
	}
	hire(t, nc, exports{}, quick("w1"))
	must(jobs.Submit(ctx, request("early"), nil))
	eventually(t, "the request is refused", func() bool {
		s, err := jobs.Status(ctx, "acme", "early")
		return err == nil && s.Reason != nil && s.Reason.Code == contracts.NoDestination && s.Reason.Fix != ""
	})
}

func TestLinksAreMadeOnlyOfWhatTheHouseHolds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r, l := must(OpenRegistry(ctx, js)), must(openLedger(ctx, js))
	for _, tenant := range []contracts.Tenant{homeless("beta"), tenant("acme")} {
		if err := r.Set(ctx, tenant); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetHouse(ctx, house()); err != nil {
		t.Fatal(err)
	}
	ended := func(tenant, job string, kind contracts.OutcomeKind, bucket string) {
		o := contracts.Outcome{Version: 1, Tenant: tenant, Job: job, Kind: kind, EndedAt: time.Now().UTC(), ManifestSHA256: "sum-of-" + job}
		if bucket != "" {
			o.Manifest = "s3://" + bucket + "/" + tenant + "/" + job + "/manifest.json"
		}
		must(l.Publish(ctx, o))
	}
	ended("beta", "whole", contracts.Delivered, "our-snapshots")
	ended("beta", "gaps", contracts.DeliveredWithGaps, "our-snapshots")
	ended("beta", "failed", contracts.Failed, "")
	ended("beta", "before", contracts.Delivered, "our-former-snapshots")
	ended("acme", "own", contracts.Delivered, "acme-snapshots")
	ended("acme", "earlier", contracts.Delivered, "our-snapshots") // when it had no bucket yet
	ended("gone", "whole", contracts.Delivered, "our-snapshots")

	const pages, page = 3, 200
	hire(t, nc, exports{links: func(a contracts.Attempt, sum string, expires time.Duration, skip int) (contracts.Links, error) {
		if d := a.Tenant.Destination; d.Bucket != "our-snapshots" || d.Keep.Days != 30 || expires != 5*time.Minute || sum != "sum-of-"+a.Request.Job {
			t.Errorf("asked for %s in %+v, %s, %v", a.Prefix(), d, sum, expires)
		}
		links := contracts.Links{Version: 1, Tenant: a.Tenant.Name, Job: a.Request.Job, More: skip < (pages-1)*page}
		for i := range page {
			links.Files = append(links.Files, contracts.Link{Name: contracts.VolumeName(contracts.Tables, a.Request.Job, skip+i), URL: "https://s3.example.com/?" + strings.Repeat("token", 400)})
		}
		return links, nil
	}}, quick("w1"))
	for _, c := range []struct {
		tenant, job string
		expires     time.Duration
		code        contracts.Code
	}{
		{"beta", "whole", 5 * time.Minute, ""},
		{"beta", "gaps", 5 * time.Minute, ""},
		{"acme", "earlier", 5 * time.Minute, ""},
		{"acme", "own", 5 * time.Minute, contracts.NotInHouse},
		{"beta", "before", 5 * time.Minute, contracts.NotInHouse},
		{"beta", "failed", 5 * time.Minute, contracts.NotDelivered},
		{"beta", "nope", 5 * time.Minute, contracts.NotDelivered},
		{"acme", "whole", 5 * time.Minute, contracts.NotDelivered}, // another tenant's job
		{"gone", "whole", 5 * time.Minute, contracts.UnknownTenant},
		{"beta", "../acme", 5 * time.Minute, contracts.InvalidQuestion},
		{"../acme", "own", 5 * time.Minute, contracts.InvalidQuestion},
		{"*", "whole", 5 * time.Minute, contracts.InvalidQuestion},
		{"beta", ">", 5 * time.Minute, contracts.InvalidQuestion},
		{"beta", "", 5 * time.Minute, contracts.InvalidQuestion},
		{contracts.HouseKey, "whole", 5 * time.Minute, contracts.InvalidQuestion},
		{"beta", "whole", 59 * time.Second, contracts.InvalidQuestion},
		{"beta", "whole", time.Hour + time.Second, contracts.InvalidQuestion},
		{"beta", "whole", -time.Hour, contracts.InvalidQuestion},
	} {
		links, err := AskLinks(ctx, nc, c.tenant, c.job, c.expires)
		if codeOf(err) != c.code || (err == nil) != (c.code == "") {
			t.Errorf("%s/%s for %v: %v, want %s", c.tenant, c.job, c.expires, err, c.code)
		}
		if c.code == "" && (len(links.Files) != pages*page || links.More || links.Files[page].Name != contracts.VolumeName(contracts.Tables, c.job, page)) {
			t.Errorf("%s/%s: %d files, more %t", c.tenant, c.job, len(links.Files), links.More)
		}
	}
	m := must(nc.Request(contracts.AskSubject("links"), must(json.Marshal(map[string]any{"tenant": "beta", "job": "whole", "seconds": 300, "skip": -1})), 10*time.Second))
	if m.Header.Get("Nats-Service-Error-Code") != string(contracts.InvalidQuestion) {
		t.Errorf("without the last file: %v", m.Header)
	}
}

func TestJobsTellHowLongADeliveryIsKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r, jobs := must(OpenRegistry(ctx, js)), must(OpenJobs(ctx, js))
	o := contracts.Outcome{Tenant: "beta", Job: "j", Kind: contracts.Delivered, Manifest: "s3://our-snapshots/beta/j/manifest.json"}
	if k, err := jobs.Kept(ctx, o); err != nil || k != (contracts.Keep{}) {
		t.Errorf("without a house: %+v, %v", k, err)
	}
	if err := r.SetHouse(ctx, house()); err != nil {
		t.Fatal(err)
	}
	if k, err := jobs.Kept(ctx, o); err != nil || k.Days != 30 || k.By != contracts.ByLifecycle {
		t.Errorf("in the house: %+v, %v", k, err)
	}
	o.Manifest = "s3://acme-snapshots/beta/j/manifest.json"
	if k, err := jobs.Kept(ctx, o); err != nil || k != (contracts.Keep{}) {
		t.Errorf("at a customer's: %+v, %v", k, err)
	}
}
