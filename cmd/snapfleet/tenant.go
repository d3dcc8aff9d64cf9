package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type tenantCmd struct {
	Set    tenantSetCmd    `cmd:"" help:"Register a tenant, or change its record."`
	Get    tenantGetCmd    `cmd:"" help:"Show a tenant's record, with the external ID."`
	List   tenantListCmd   `cmd:"" help:"List the tenants."`
	Check  tenantCheckCmd  `cmd:"" help:"Have a worker try a tenant's destination, step by step."`
	Rotate tenantRotateCmd `cmd:"" help:"Replace a tenant's external ID, with both valid in between."`
	Remove tenantRemoveCmd `cmd:"" help:"Remove a tenant's record."`
}

func (tenantCmd) manual() page {
	return page{about: `
The registry says whose data is read and which bucket is written. Nothing of it ever comes from a request: a
forged request can at worst deliver a customer's data to that same customer.`}
}

type tenantSetCmd struct {
	Tenant     string           `arg:"" help:"Name of the tenant in requests, and first folder in the bucket."`
	Bucket     *string          `group:"s3" placeholder:"NAME" help:"The customer's bucket."`
	Region     *string          `group:"s3" placeholder:"REGION" help:"Region of the bucket, such as eu-central-1."`
	RoleARN    *string          `name:"role-arn" group:"s3" placeholder:"ARN" help:"Role in the customer's account that may write there: arn:aws:iam::<account>:role/<name>."`
	Owner      *string          `group:"s3" placeholder:"ACCOUNT" help:"Account that owns the bucket, 12 digits, when it is not the role's."`
	KMSKey     *string          `name:"kms-key" group:"s3" placeholder:"ARN" help:"KMS key to encrypt with. Without it the bucket's own encryption applies."`
	Endpoint   *string          `group:"s3" placeholder:"URL" help:"S3-compatible store other than AWS, https://host[:port]. The workers must --allow-endpoint it."`
	Schema     *string          `placeholder:"NAME" help:"PostgreSQL schema that is read. Default: the tenant's name."`
	Database   *string          `placeholder:"NAME" help:"PostgreSQL server that the schema is in, as the workers' --databases calls it. Default: the workers' --database-url."`
	VolumeSize *tenantSize      `placeholder:"SIZE" help:"Size at which a .tar is split, 32MiB to 1TiB. Default: 50GiB."`
	Format     contracts.Format `enum:"csv.gz,jsonl.gz," default:"" help:"How the rows of a table are written, unless a request says otherwise: PostgreSQL's CSV, or one JSON object a line. Default: csv.gz."`
	Gaps       string           `enum:"deliver,fail," default:"" help:"What a missing attachment means: deliver the rest and name the gap, or fail the job. Default: deliver."`
	JSON       bool             `name:"json" help:"Print the record as JSON."`

	filterFlags
	verbFlags
}

func (tenantSetCmd) manual() page {
	return page{
		about: `
Registers a tenant, or changes the fields that are given and keeps the others; an empty value ("--owner=") takes
an optional field back. --bucket, --region and --role-arn come together: all three, or none of them for a tenant
without a bucket of its own, which is delivered to the house bucket (see "snapfleet setup") and downloads from there.

The external ID is made here, at random, also for a tenant that has no bucket yet, and changes only by "snapfleet
tenant rotate". Send it to the customer: the trust policy of
their role must demand it as sts:ExternalId, so that nobody else can make us write with that role. It is no
password, but it belongs in no ticket and no log either.

Workers of a release before filters and databases refuse the jobs of a tenant whose record has one: upgrade them
first.`,
		examples: []example{
			{"Register.", "snapfleet tenant set acme --bucket=acme-snapshots --region=eu-central-1 \\\n      --role-arn=arn:aws:iam::123456789012:role/snapfleet"},
			{"Register a tenant without a bucket.", "snapfleet tenant set beta"},
			{"Change one field.", "snapfleet tenant set acme --format=jsonl.gz"},
			{"Leave things out; the manifest says so. And take one of them back.", "snapfleet tenant set acme --exclude-tables='audit_*,staging' --attachments-newer-than=90d\nsnapfleet tenant set acme --exclude-tables="},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run writes the record.
func (t *tenantSetCmd) Run(ctx context.Context, c *console) error {
	registry, done, err := openRegistry(ctx, t.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	record, known, err := lookup(ctx, registry, t.Tenant)
	if err != nil {
		return err
	}
	if !known {
		record = contracts.Tenant{Name: t.Tenant}
		record.Destination.ExternalID = rand.Text() // 130 random bits; from here on only a rotation changes it
	}
	record = t.change(record).WithDefaults()
	if err := record.Validate(); err != nil {
		return err
	}
	if err := registry.Set(ctx, record); err != nil {
		return err
	}
	if err := c.warnOfTwins(ctx, registry, record); err != nil {
		return err
	}
	if record, err = registry.Get(ctx, t.Tenant); err != nil { // as it stands now
		return err
	}
	if t.JSON {
		return c.json(record, true)
	}
	c.tenant(record)
	switch {
	case known:
	case record.Destination.House():
		return c.housed(ctx, registry)
	default:
		fmt.Fprintln(c.out)
		fmt.Fprintln(c.out, wrap("Send the external ID to the customer: the trust policy of their role must demand it as sts:ExternalId. `snapfleet policy "+t.Tenant+"` prints what they set up, and `snapfleet tenant check "+t.Tenant+"` tries it.", c.width))
	}
	return nil
}

// maxTwins is how many other tenants a warning names.
const maxTwins = 10

// warnOfTwins prints on standard error which other tenants have the same schema, bucket or external ID.
func (c *console) warnOfTwins(ctx context.Context, registry *consumer.Registry, record contracts.Tenant) error {
	twins, err := registry.Twins(ctx, record)
	if err != nil {
		return fmt.Errorf("the record is written; compare it with other tenants': %w", err)
	}
	for n, twin := range twins {
		if n == maxTwins {
			fmt.Fprintf(c.err, "Warning: so have %d more tenants.\n", len(twins)-n)
			break
		}
		fmt.Fprintf(c.err, "Warning: tenant %s has the same %s.\n", twin.Tenant, strings.Join(twin.Shares, " and the same "))
	}
	return nil
}

// housed says what comes of a tenant without a bucket of its own.
func (c *console) housed(ctx context.Context, registry *consumer.Registry) error {
	h, err := registry.House(ctx)
	rejection, rejected := contracts.AsRejection(err)
	if err != nil && !rejected {
		return err
	}
	text := fmt.Sprintf("Deliveries go to the house bucket, %s, and are kept %s. The external ID is for later, when the customer has a bucket.", h.Destination.Bucket, plural(h.Days, "day"))
	if rejected {
		text = fmt.Sprintf("This tenant cannot be delivered to yet: %v. Set one up with \"snapfleet setup --house-bucket\", or give --bucket, --region and --role-arn.", rejection.Err)
	}
	fmt.Fprintln(c.out)
	fmt.Fprintln(c.out, wrap(text, c.width))
	return nil
}

// change lays the flags that were given over the record.
func (t *tenantSetCmd) change(r contracts.Tenant) contracts.Tenant {
	lay := func(field, flag *string) {
		if flag != nil {
			*field = *flag
		}
	}
	d := &r.Destination
	lay(&r.Schema, t.Schema)
	lay(&r.Database, t.Database)
	lay(&d.Bucket, t.Bucket)
	lay(&d.Region, t.Region)
	lay(&d.RoleARN, t.RoleARN)
	lay(&d.Owner, t.Owner)
	lay(&d.KMSKeyARN, t.KMSKey)
	lay(&d.Endpoint, t.Endpoint)
	if t.VolumeSize != nil {
		r.Limits.VolumeBytes = int64(*t.VolumeSize)
	}
	if t.Format != "" {
		r.Format = t.Format
	}
	if t.Gaps != "" {
		r.Limits.Gaps = contracts.GapPolicy(t.Gaps)
	}
	r.Filter = t.filterFlags.change(r.Filter)
	return r
}

type tenantGetCmd struct {
	Tenant string `arg:"" help:"Name of the tenant."`
	JSON   bool   `name:"json" help:"Print the record as JSON."`

	verbFlags
}

func (tenantGetCmd) manual() page {
	return page{
		about: `
Shows a tenant's record, with the external ID that the customer's role must demand. While a rotation is under way
the next one is shown, too. Below the record is what the last check of the destination found, see "snapfleet tenant
check", and whether the tenant, or the fleet, is paused.`,
		examples: []example{
			{"The external ID alone.", "snapfleet tenant get acme --json | jq -r .destination.external_id"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// checkedTenant is a record with what is known of its destination, and whether its jobs wait.
type checkedTenant struct {
	contracts.Tenant
	Check  consumer.Checkup `json:"check,omitzero"`
	Paused *consumer.Pause  `json:"paused,omitempty"`
}

// Run prints the record.
func (t *tenantGetCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(t.Tenant, ""); err != nil {
		return err
	}
	o, done, err := openOperator(ctx, t.verbFlags, "tenant")
	if err != nil {
		return err
	}
	defer done()
	record, err := o.tenants.Get(ctx, t.Tenant)
	if err != nil {
		return err
	}
	paused, err := o.pauses.Of(ctx, t.Tenant)
	if err != nil {
		return err
	}
	house, err := housing(ctx, o.tenants)
	if err != nil {
		return err
	}
	known, err := o.checkups.Get(ctx, house.For(record))
	if err != nil {
		return err
	}
	if t.JSON {
		return c.json(checkedTenant{record, known, paused}, true)
	}
	c.tenant(record, [2]string{"destination", destination(known)}, [2]string{"checked", checkedBy(known)}, pausedFact(paused))
	if r := known.Reason; r != nil {
		printReason(c.out, c.width, "    ", r.What, r.Cause, r.Fix)
	}
	return nil
}

// destination is what is known of one, in words.
func destination(k consumer.Checkup) string {
	switch k.Result {
	case contracts.CheckOK:
		return "ok"
	case contracts.CheckFailed:
		return "broken since " + when(k.Since)
	default:
		return "unknown"
	}
}

func checkedBy(k consumer.Checkup) string {
	if k.At.IsZero() {
		return ""
	}
	return when(k.At) + " by worker " + k.Worker
}

// tenant prints a record for people, and what else is to be said of it.
func (c *console) tenant(t contracts.Tenant, more ...[2]string) {
	d, newer := t.Destination, ""
	if age := t.Filter.AttachmentsNewerThan; age != "" {
		newer = "newer than " + age
	}
	c.facts(append([][2]string{
		{"tenant", c.bold(t.Name)},
		{"schema", t.Schema},
		{"database", t.Database},
		{"bucket", bucketWord(d)},
		{"region", d.Region},
		{"role", d.RoleARN},
		{"external ID", d.ExternalID},
		{"next external ID", d.NextExternalID},
		{"account", d.Account()},
		{"KMS key", d.KMSKeyARN},
		{"endpoint", d.Endpoint},
		{"format", string(t.Format)},
		{"volumes of", size(t.Limits.VolumeBytes)},
		{"gaps", string(t.Limits.Gaps)},
		{"without tables", strings.Join(t.Filter.ExcludeTables, ", ")},
		{"attachments", newer},
		{"updated", when(t.UpdatedAt)},
	}, more...)...)
}

// housing is the house's record; without a house it is empty.
func housing(ctx context.Context, r *consumer.Registry) (contracts.House, error) {
	h, err := r.House(ctx)
	if _, rejected := contracts.AsRejection(err); rejected {
		return contracts.House{}, nil
	}
	return h, err
}

// bucketWord is where a tenant is delivered to.
func bucketWord(d contracts.Destination) string {
	if d.House() {
		return "house"
	}
	return d.Bucket
}

type tenantListCmd struct {
	JSON bool `name:"json" help:"Print one JSON object a line, without the external IDs."`

	verbFlags
}

func (tenantListCmd) manual() page {
	return page{
		about: `
Lists the tenants by name, with what the last check of each destination found. External IDs are not shown: see
"snapfleet tenant get". A record that cannot be read is named after the others, and the exit status is then 4.`,
		exits: []int{exitOK, exitFailed, exitUsage, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run prints the table.
func (t *tenantListCmd) Run(ctx context.Context, c *console) error {
	registry, checkups, done, err := openTenants(ctx, t.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	tenants, broken, err := listTenants(ctx, registry)
	if err != nil {
		return err
	}
	house, err := housing(ctx, registry)
	if err != nil {
		return err
	}
	slices.SortFunc(tenants, func(a, b contracts.Tenant) int { return strings.Compare(a.Name, b.Name) })
	var rows []table.Row
	for _, r := range tenants {
		d := r.Destination
		known, err := checkups.Get(ctx, house.For(r))
		if err != nil {
			return err
		}
		if t.JSON {
			r.Destination.ExternalID, r.Destination.NextExternalID = "", ""
			if err := c.json(checkedTenant{Tenant: r, Check: known}, false); err != nil {
				return err
			}
		}
		rows = append(rows, table.Row{r.Name, r.Schema, bucketWord(d), d.Region, d.Account(), r.Format, when(r.UpdatedAt), destination(known)})
	}
	switch {
	case t.JSON:
	case len(rows) == 0 && len(broken) == 0:
		fmt.Fprintln(c.err, "No tenant is registered yet. See: snapfleet tenant set --help")
	case len(rows) > 0:
		c.table(table.Row{"tenant", "schema", "bucket", "region", "account", "format", "updated", "destination"}, rows)
	}
	for _, err := range broken {
		printError(c.err, c.width, err)
	}
	if len(broken) > 0 {
		return &failure{code: exitRejected, err: errTold}
	}
	return nil
}

// listTenants reads every record. One that cannot be read hides no other: broken has its error.
func listTenants(ctx context.Context, registry *consumer.Registry) (tenants []contracts.Tenant, broken []error, err error) {
	names, err := registry.Names(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		t, err := registry.Get(ctx, name)
		switch rejection, rejected := contracts.AsRejection(err); {
		case err == nil:
			tenants = append(tenants, t)
		case rejected && rejection.Code == contracts.UnknownTenant: // removed in between
		case rejected:
			broken = append(broken, explain(exitRejected, fmt.Errorf("tenant %s: %w", name, rejection.Err),
				"the record was not written by snapfleet, or by a later release",
				"upgrade this program, or take the record away with `snapfleet tenant remove "+name+"` and register the tenant again"))
		default:
			return nil, nil, err
		}
	}
	return tenants, broken, nil
}

type tenantRemoveCmd struct {
	Tenant string `arg:"" help:"Name of the tenant."`
	Yes    bool   `short:"y" help:"Do not ask."`

	verbFlags
}

func (tenantRemoveCmd) manual() page {
	return page{
		about: `
Removes a tenant's record, and its schedule. Requests for it are refused from then on; jobs under way end as they would have.
Nothing in the customer's bucket is touched. The external ID is lost: registering the tenant again makes another
one, which the customer has to put into their trust policy.`,
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run asks, and removes.
func (t *tenantRemoveCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(t.Tenant, ""); err != nil {
		return err
	}
	registry, done, err := openRegistry(ctx, t.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	if _, err := registry.Get(ctx, t.Tenant); err != nil {
		if rejection, rejected := contracts.AsRejection(err); !rejected || rejection.Code == contracts.UnknownTenant {
			return err
		} // a broken record can be removed
	}
	if !t.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Remove tenant %s and its external ID", t.Tenant), t.Tenant); err != nil {
			return err
		}
	}
	if err := registry.Remove(ctx, t.Tenant); err != nil {
		return err
	}
	fmt.Fprintf(c.err, "Tenant %s is removed.\n", t.Tenant)
	return nil
}

// confirm asks a person to type word. Without a person there is nobody to agree.
func (c *console) confirm(ctx context.Context, what, word string) error {
	if !c.inTTY {
		return usagef("nobody to ask on this terminal: give --yes")
	}
	defer waits(ctx)()
	fmt.Fprintf(c.err, "%s? Type %s to agree: ", what, c.bold(word))
	answer := make(chan string, 1)
	go func() { // ends with the process at the latest: a read from a terminal cannot be cancelled
		line, _ := bufio.NewReader(c.in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answer:
		if line != word {
			return usagef("not agreed, nothing was done")
		}
		return nil
	case <-ctx.Done():
		fmt.Fprintln(c.err)
		return context.Cause(ctx)
	}
}

// openRegistry connects; done disconnects.
func openRegistry(ctx context.Context, f verbFlags) (r *consumer.Registry, done func(), err error) {
	nc, js, err := f.jetStream(ctx, "tenant")
	if err != nil {
		return nil, nil, err
	}
	if r, err = consumer.OpenRegistry(ctx, js); err != nil {
		nc.Close()
		return nil, nil, notSetUp(err)
	}
	return r, nc.Close, nil
}

// openTenants is openRegistry, with what is known of the destinations.
func openTenants(ctx context.Context, f verbFlags) (r *consumer.Registry, known *consumer.Checkups, done func(), err error) {
	nc, js, err := f.jetStream(ctx, "tenant")
	if err != nil {
		return nil, nil, nil, err
	}
	if r, err = consumer.OpenRegistry(ctx, js); err == nil {
		known, err = consumer.OpenCheckups(ctx, js)
	}
	if err != nil {
		nc.Close()
		return nil, nil, nil, notSetUp(err)
	}
	return r, known, nc.Close, nil
}

// lookup tells a tenant that is not registered from a registry that does not answer.
func lookup(ctx context.Context, r *consumer.Registry, name string) (t contracts.Tenant, known bool, err error) {
	if !contracts.ValidTenant(name) {
		return t, false, contracts.Tenant{Version: contracts.TenantVersion, Name: name}.Validate()
	}
	t, err = r.Get(ctx, name)
	if rejection, ok := contracts.AsRejection(err); ok && rejection.Code == contracts.UnknownTenant {
		return t, false, nil
	}
	return t, err == nil, err
}
