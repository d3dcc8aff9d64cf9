package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

// sql loads a script.
func sql(script string) func(context.Context, string) error {
	return func(ctx context.Context, url string) error { return world.Load(ctx, url, strings.NewReader(script)) }
}

// customer is the fleet with another tenant, for a test of its own.
func (f *fleet) customer(t *testing.T, tenant string, set ...string) *fleet {
	t.Helper()
	g := *f
	g.t = t
	g.enrol(tenant, set...)
	return &g
}

// refused waits for a job that must not be delivered, and holds its end against what was promised: the first
// attempt is the last, there is one dead letter and at most one outcome, they say the same, and they say what
// happened, why, and what to do. words are what the first of these must name.
func (f *fleet) refused(job string, code contracts.Code, words ...string) (s consumer.Status) {
	f.t.Helper()
	f.eventually("job "+job+" is refused", func() (err error) {
		if s, err = f.jobs.Status(f.t.Context(), f.tenant, job); err == nil && s.State != "failed" && s.State != "done" {
			err = fmt.Errorf("it is %s: %s", s.State, s.LastError)
		}
		return err
	})
	if s.Reason == nil {
		f.t.Fatalf("job %s was not refused: %+v", job, s)
	}
	r := *s.Reason
	if r.Code != code || r.What == "" || r.Cause == "" || r.Fix == "" {
		f.t.Errorf("the reason is not %s: %+v", code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.What, w) {
			f.t.Errorf("the reason does not name %q: %s", w, r.What)
		}
	}
	if id := f.record().Destination.ExternalID; strings.Contains(fmt.Sprint(r), id) {
		f.t.Error("the reason holds the external ID")
	}
	if s.Attempt > 1 || s.Errors+s.Crashes > 0 {
		f.t.Errorf("it was tried %d times, with %d errors and %d crashes", s.Attempt, s.Errors, s.Crashes)
	}
	if o := s.Outcome; o != nil && (o.Kind != contracts.Failed || o.Reason == nil || *o.Reason != r || o.Manifest != "") {
		f.t.Errorf("the outcome is %+v, the reason %+v", o, r)
	}
	letters := slices.DeleteFunc(f.dead(f.tenant), func(m *jetstream.RawStreamMsg) bool { return m.Header.Get(contracts.HeaderJob) != job })
	if len(letters) != 1 || letters[0].Header.Get(contracts.HeaderCode) != string(code) || letters[0].Header.Get(contracts.HeaderReason) == "" {
		f.t.Errorf("dead letters: %+v", letters)
	}
	// A person reads the same.
	out, status := f.try(f.env, "status", f.tenant, job)
	for _, part := range []string{string(code), r.Cause, r.Fix} {
		if said := strings.Join(strings.Fields(out), " "); status != 0 || !strings.Contains(said, part) {
			f.t.Errorf("status ends with %d and does not say %q:\n%s", status, part, out)
		}
	}
	return s
}

// dead are the dead letters of a tenant, or of whatever stands for one in the subject.
func (f *fleet) dead(tenant string) (letters []*jetstream.RawStreamMsg) {
	f.t.Helper()
	stream, err := f.js.Stream(f.t.Context(), contracts.DeadStream)
	for seq := uint64(1); err == nil; seq++ {
		var m *jetstream.RawStreamMsg
		if m, err = stream.GetMsg(f.t.Context(), seq, jetstream.WithGetMsgSubject(contracts.DeadSubject(tenant))); err == nil {
			letters = append(letters, m)
			seq = m.Sequence
		}
	}
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		f.t.Fatal(err)
	}
	return letters
}

// TestBadDatabase asks for schemas that cannot be delivered, with a login that may do no more than it must.
func TestBadDatabase(t *testing.T) {
	t.Parallel()
	login := "exporter_" + strings.ToLower(rand.Text())
	f := newFleet(t, "databases", sql(strings.ReplaceAll(`
		CREATE SCHEMA good; CREATE TABLE good.t (a int); INSERT INTO good.t VALUES (1);
		CREATE SCHEMA empty; CREATE VIEW empty.v AS SELECT 1 AS one;
		CREATE SCHEMA closed; CREATE TABLE closed.t (a int);
		CREATE SCHEMA denied; CREATE TABLE denied.open (a int); CREATE TABLE denied.one (a int); CREATE TABLE denied."two ""2""" (a int);
			CREATE TABLE denied.root (a int) PARTITION BY LIST (a); CREATE TABLE denied.leaf PARTITION OF denied.root DEFAULT;
		CREATE SCHEMA secured; CREATE TABLE secured.open (a int); CREATE TABLE secured.hidden (a int); ALTER TABLE secured.hidden ENABLE ROW LEVEL SECURITY;
			CREATE POLICY p ON secured.hidden USING (a > 1); INSERT INTO secured.hidden VALUES (1), (2);
		CREATE SCHEMA elsewhere;
		CREATE SCHEMA heirs; CREATE TABLE heirs.parent (a int); CREATE TABLE elsewhere.child () INHERITS (heirs.parent);
		CREATE SCHEMA leaves; CREATE TABLE leaves.root (a int) PARTITION BY LIST (a); CREATE TABLE elsewhere.leaf PARTITION OF leaves.root DEFAULT;
		CREATE ROLE exporter LOGIN PASSWORD 'exporter';
		GRANT USAGE ON SCHEMA good, empty, denied, secured, elsewhere, heirs, leaves TO exporter;
		GRANT SELECT ON ALL TABLES IN SCHEMA good, empty, closed, denied, secured, elsewhere, heirs, leaves TO exporter;
		REVOKE SELECT ON denied.one, denied."two ""2""", denied.leaf FROM exporter;`, "exporter", login)))
	admin := connect(t, f.database)
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "DROP OWNED BY "+login+"; DROP ROLE "+login)
		if err != nil {
			t.Error(err)
		}
	})
	f.env = append(f.env, "SNAPFLEET_DATABASE_URL="+as(f.database, login))
	f.work("worker")

	for _, tt := range []struct {
		schema string
		code   contracts.Code
		words  []string
	}{
		{"no such schema", contracts.SchemaNotFound, []string{`"no such schema"`}},
		{"closed", contracts.SchemaNotFound, []string{`"closed"`}},
		{"pg_catalog", contracts.SchemaNotFound, []string{`"pg_catalog"`}},
		{"empty", contracts.SchemaEmpty, []string{`"empty"`}},
		{"denied", contracts.TableDenied, []string{`"one"`, `"two \"2\""`, `"leaf"`}},
		{"secured", contracts.RowSecurity, []string{`"hidden"`}},
		{"heirs", contracts.ForeignRelation, []string{"elsewhere.child"}},
		{"leaves", contracts.ForeignRelation, []string{"elsewhere.leaf"}},
	} {
		t.Run(tt.schema, func(t *testing.T) {
			f := f.customer(t, "schema-"+strings.ReplaceAll(tt.schema, " ", "-"), "--schema="+tt.schema)
			f.submit("job")
			s := f.refused("job", tt.code, tt.words...)
			if s.Outcome == nil || strings.Contains(s.Reason.What, `"open"`) || strings.Contains(s.Reason.What, login) {
				t.Errorf("it ends with %+v", s)
			}
			f.check()
		})
	}
	t.Run("good", func(t *testing.T) {
		f := f.customer(t, "schema-good", "--schema=good")
		f.submit("job", "--only=tables")
		if s := f.delivered("job"); s.Outcome.Totals.Rows != 1 {
			t.Errorf("%+v", s.Outcome.Totals)
		}
		f.check()
	})
}

// as is a database's URL for another user.
func as(database, user string) string {
	u, err := url.Parse(database)
	if err != nil {
		panic(err) // a URL of our own
	}
	u.User = url.UserPassword(user, user)
	return u.String()
}

// TestBadLogin gives the only worker a login that the database refuses. That is about the worker: the job waits and says
// why, until its deadline ends it, and the customer is not accused.
func TestBadLogin(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "login", sql("CREATE SCHEMA login; CREATE TABLE login.t (a int)"))
	f.env = append(f.env, "SNAPFLEET_DATABASE_URL="+as(f.database, "mallory"))
	f.work("worker", "--deadline=8s")
	f.submit("job", "--only=tables")
	f.eventually("status says why the job waits", func() error {
		s, err := f.jobs.Status(t.Context(), f.tenant, "job")
		if err == nil && (s.State != "waiting" || s.Errors != 0 || !strings.Contains(s.LastError, "--database-url")) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	s := f.refused("job", contracts.DeadlineExceeded)
	if strings.Contains(s.Reason.What, "mallory") || !strings.Contains(s.Reason.What, "the worker's database") {
		t.Errorf("it names the user, or not the fault: %s", s.Reason.What)
	}
	f.check()
}

// TestBadAttachments has rows that point where they must not, and rows that point to nothing.
func TestBadAttachments(t *testing.T) {
	t.Parallel()
	if err := sourceBucket(); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, "attachments", sql("CREATE SCHEMA attachments"))
	f.work("worker", "--attachments-source="+factory.Bucket+"={tenant}/")
	conn := connect(t, f.database)
	// with makes a tenant's schema with rows of id, bucket, key and etag, next to one that is right.
	with := func(t *testing.T, tenant string, rows [][4]string, set ...string) *fleet {
		t.Helper()
		f := f.customer(t, tenant, set...)
		_, err := conn.Exec(t.Context(), "CREATE SCHEMA "+quoted(tenant)+"; CREATE TABLE "+quoted(tenant, "file_attachments")+
			" (id text, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text)")
		if err != nil {
			t.Fatal(err)
		}
		key := tenant + "/right"
		out, err := cloud.Admin().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(factory.Bucket), Key: &key, Body: strings.NewReader("right")})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range append(rows, [4]string{"right", factory.Bucket, key, *out.ETag}) {
			if _, err := conn.Exec(t.Context(), "INSERT INTO "+quoted(tenant, "file_attachments")+" VALUES ($1, 'e', $1 || '.txt', 'text/plain', $2, $3, $4)", r[0], r[1], r[2], r[3]); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}

	for name, row := range map[string][2]string{ // bucket and key
		"other-bucket": {"someone-elses", "other-bucket/x"},
		"no-bucket":    {"", "no-bucket/x"},
		"neighbour":    {factory.Bucket, "attachments/x"},
		"longer-name":  {factory.Bucket, "longer-name2/x"},
		"dot-dot":      {factory.Bucket, "dot-dot/../attachments/x"},
		"slash":        {factory.Bucket, "/slash/x"},
		"folder":       {factory.Bucket, "folder/"},
	} {
		t.Run(name, func(t *testing.T) {
			f := with(t, name, [][4]string{{"bad 1", row[0], row[1]}, {"bad 2", row[0], row[1]}})
			before := len(cloud.Calls())
			f.submit("job")
			s := f.refused("job", contracts.AttachmentForbidden, `"bad 1"`, `"bad 2"`)
			if s.Outcome == nil || strings.Contains(s.Reason.What, "right") || strings.Contains(s.Reason.What, row[1]) {
				t.Errorf("it ends with %+v", s)
			}
			for _, c := range cloud.Calls()[before:] {
				if c.Key == row[1] && c.Bucket == row[0] {
					t.Errorf("it was asked for: %s by %s", c.Operation, c.Principal)
				}
			}
			f.check()
		})
	}
	t.Run("twins", func(t *testing.T) {
		f := with(t, "twins", [][4]string{{"right", factory.Bucket, "twins/right"}})
		f.submit("job")
		f.refused("job", contracts.AttachmentsUnreadable, `"right"`)
		f.check()
	})
	t.Run("no table", func(t *testing.T) {
		f := f.customer(t, "no-table", "--schema=attachments")
		f.submit("job", "--only=attachments")
		f.refused("job", contracts.AttachmentsUnreadable)
		f.check()
	})

	missing := func(tenant string) [][4]string {
		return [][4]string{{"changed", factory.Bucket, tenant + "/right", `"00000000000000000000000000000000"`}, {"gone", factory.Bucket, tenant + "/gone", ""}}
	}
	t.Run("gaps fail", func(t *testing.T) {
		f := with(t, "gaps-fail", missing("gaps-fail"), "--gaps=fail")
		f.submit("job")
		f.refused("job", contracts.AttachmentsMissing, `"gone"`, `"changed"`)
		f.check()
	})
	t.Run("gaps deliver", func(t *testing.T) {
		f := with(t, "gaps-deliver", missing("gaps-deliver"))
		f.submit("job")
		s := f.delivered("job")
		d := f.unpack("job")
		want := []contracts.Gap{{ID: "changed", Filename: "changed.txt", Reason: "changed"}, {ID: "gone", Filename: "gone.txt", Reason: "missing"}}
		if s.Outcome.Kind != contracts.DeliveredWithGaps || s.Outcome.Totals.Gaps != 2 || !slices.Equal(d.Gaps, want) {
			t.Errorf("%s with %+v and gaps %+v", s.Outcome.Kind, s.Outcome.Totals, d.Gaps)
		}
		if files := d.filesOf(contracts.Attachments, "right"); len(files) != 1 || string(read(t, d.dir+"/"+files[0])) != "right" || d.Totals.Attachments != 1 {
			t.Errorf("%d attachments, %q", d.Totals.Attachments, files)
		}
		f.check()
	})
}

// TestBadDestination has customers who did not do what they were told, or whose bucket is not what it was.
func TestBadDestination(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "destinations", sql("CREATE SCHEMA destinations; CREATE TABLE destinations.t AS SELECT 1 AS a"))
	f.work("worker")
	trust := func(f *fleet, principal, condition string) {
		err := cloud.SetRole(bucket.Role{
			ARN: f.role, Trust: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"sts:AssumeRole"` + condition + `}]}`,
			Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`,
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	forget := func(action string) func(f *fleet) {
		return func(f *fleet) { f.grant(f.record().Destination.ExternalID, action) }
	}
	for _, tt := range []struct {
		name  string
		code  contracts.Code
		words []string
		bend  func(f *fleet)
	}{
		{"external-id", contracts.RoleDenied, nil, func(f *fleet) { f.grant("of-somebody-else-0000000000000000") }},
		{"principal", contracts.RoleDenied, nil, func(f *fleet) {
			trust(f, "arn:aws:iam::333333333333:root", `,"Condition":{"StringEquals":{"sts:ExternalId":"`+f.record().Destination.ExternalID+`"}}`)
		}},
		{"no-role", contracts.RoleDenied, nil, func(f *fleet) { cloud.RemoveRole(f.role) }},
		{"open-role", contracts.InsecureTrust, nil, func(f *fleet) { trust(f, "arn:aws:iam::"+ourAccount+":root", "") }},
		{"no-bucket-there", contracts.BucketNotFound, []string{"deleted-bucket"}, func(f *fleet) {
			f.bucket = "deleted-bucket"
			f.set("--bucket=" + f.bucket)
			f.grant(f.record().Destination.ExternalID)
			f.bucket = "customer-no-bucket-there"
		}},
		{"region", contracts.WrongRegion, []string{"customer-region", "eu-west-1"}, func(f *fleet) { f.set("--region=eu-west-1") }},
		{"owner", contracts.WrongOwner, []string{"customer-of-another", theirAccount}, func(f *fleet) {
			f.bucket = "customer-of-another"
			err := cloud.CreateBucket(f.t.Context(), f.bucket, "333333333333")
			if err == nil {
				_, err = cloud.Admin().PutBucketPolicy(f.t.Context(), &s3.PutBucketPolicyInput{Bucket: &f.bucket, Policy: aws.String(
					`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::` + f.bucket + `","arn:aws:s3:::` + f.bucket + `/*"]}]}`)})
			}
			if err != nil {
				f.t.Fatal(err)
			}
			f.set("--bucket=" + f.bucket)
			f.grant(f.record().Destination.ExternalID)
		}},
		{"list", contracts.BucketDenied, []string{"customer-list"}, forget("s3:ListBucket")},
		{"list-uploads", contracts.BucketDenied, nil, forget("s3:ListBucketMultipartUploads")},
		{"put", contracts.WriteDenied, []string{"customer-put"}, forget("s3:PutObject")},
		{"list-parts", contracts.WriteDenied, nil, forget("s3:ListMultipartUploadParts")},
		{"get", contracts.WriteDenied, nil, forget("s3:GetObject")},
		{"endpoint", contracts.EndpointNotAllowed, []string{"https://s3.example.com"}, func(f *fleet) { f.set("--endpoint=https://s3.example.com") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := f.customer(t, tt.name, "--schema=destinations")
			tt.bend(f)
			f.submit("job", "--only=tables")
			if s := f.refused("job", tt.code, tt.words...); s.Outcome == nil {
				t.Error("there is no outcome")
			}
			f.check()
		})
	}

	other, err := contracts.Manifest{Version: contracts.ManifestVersion, Tenant: "somebody", Job: "else"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		code   contracts.Code
		object string
		body   string
	}{
		{"foreign-manifest", contracts.DestinationTaken, contracts.ManifestName, "not even JSON"},
		{"other-manifest", contracts.DestinationTaken, contracts.ManifestName, string(other)},
		{"foreign-volume", contracts.DestinationTaken, "snapshot_tables_job.tar", "somebody's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := f.customer(t, tt.name, "--schema=destinations")
			key := aws.String(contracts.JobPrefix(f.tenant, "job") + tt.object)
			if _, err := cloud.Admin().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &f.bucket, Key: key, Body: strings.NewReader(tt.body)}); err != nil {
				t.Fatal(err)
			}
			f.submit("job", "--only=tables")
			f.refused("job", tt.code, f.tenant+"/job/")
			if found := f.objects("job"); len(found) != 1 {
				t.Errorf("the folder holds %v", found)
			}
			out, err := cloud.Admin().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &f.bucket, Key: key})
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(out.Body); err != nil || string(body) != tt.body {
				t.Errorf("%s is now %q, %v", tt.object, body, err)
			}
			if _, err := cloud.Admin().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &f.bucket, Key: key}); err != nil {
				t.Fatal(err)
			}
			f.check()
		})
	}
}

// TestBadRequest publishes what no publisher should, next to a job that was delivered and must stay so.
func TestBadRequest(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "requests", sql("CREATE SCHEMA requests; CREATE TABLE requests.t AS SELECT 1 AS a"))
	f.work("worker")
	f.submit("job", "--only=tables")
	before := f.delivered("job")
	now := time.Now().UTC().Format(time.RFC3339)
	good := `{"version":1,"tenant":"requests","job":"x","only":"tables","requested_at":"` + now + `"}`
	change := func(old, new string) string { return strings.Replace(good, old, new, 1) }

	for _, tt := range []struct {
		name    string
		subject string // its last token; default: the tenant
		body    string
		code    contracts.Code
		job     string
		word    string
	}{
		{name: "empty", code: contracts.InvalidRequest, word: "empty"},
		{name: "not JSON", body: "snapshot please", code: contracts.InvalidRequest},
		{name: "not UTF-8", body: "\xff\xfe{}", code: contracts.InvalidRequest, word: "UTF-8"},
		{name: "cut", body: good[:len(good)-1], code: contracts.InvalidRequest},
		{name: "two", body: good + good, code: contracts.InvalidRequest, word: "more than one"},
		{name: "deep", body: strings.Repeat("[", 50_000), code: contracts.InvalidRequest},
		{name: "null", body: "null", code: contracts.UnsupportedVersion},
		{name: "version", body: change(`"version":1`, `"version":2`), code: contracts.UnsupportedVersion, word: "2", job: "x"},
		{name: "no version", body: change(`"version":1,`, ``), code: contracts.UnsupportedVersion, job: "x"},
		{name: "later version", body: change(`"version":1`, `"version":2,"priority":9`), code: contracts.UnsupportedVersion, word: "2", job: "x"},
		{name: "unknown field", body: change(`"version":1`, `"version":1,"bucket":"mine"`), code: contracts.InvalidRequest, word: "bucket", job: "x"},
		{name: "field twice", body: change(`"version":1`, `"version":1,"version":1`), code: contracts.InvalidRequest, word: "version"},
		{name: "other case", body: change(`"job"`, `"Job"`), code: contracts.InvalidRequest, word: "Job"},
		{name: "only", body: change(`"tables"`, `"everything"`), code: contracts.InvalidRequest, word: "everything", job: "x"},
		{name: "format", body: change(`"only":"tables"`, `"format":"parquet"`), code: contracts.InvalidRequest, word: "parquet", job: "x"},
		{name: "job", body: change(`"x"`, `"../x"`), code: contracts.InvalidRequest, word: "../x"},
		{name: "time", body: change(now, "yesterday"), code: contracts.InvalidRequest, word: "yesterday", job: "x"},
		{name: "old", body: change(now, "2020-01-01T00:00:00Z"), code: contracts.RequestExpired, job: "x"},
		{name: "wrong subject", subject: "somebody", body: good, code: contracts.InvalidRequest, word: "requests", job: "x"},
		{name: "unsafe tenant", subject: "%2e%2e%2f", body: change(`"requests"`, `"%2e%2e%2f"`), code: contracts.InvalidRequest, word: "%2e%2e%2f", job: "x"},
		{name: "unknown tenant", subject: "nobody", body: change(`"requests"`, `"nobody"`), code: contracts.UnknownTenant, word: "nobody", job: "x"},
		{name: "job with other content", body: change(`"job":"x","only":"tables"`, `"job":"job"`), code: contracts.JobConflict, word: "job", job: "job"},
		{name: "job in another format", body: change(`"x"`, `"job","format":"jsonl.gz"`), code: contracts.JobConflict, word: "job", job: "job"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := *f
			f.t = t
			if tt.subject == "" {
				tt.subject = f.tenant
			}
			m := nats.NewMsg(contracts.RequestSubject(tt.subject))
			m.Data = []byte(tt.body)
			m.Header.Set("Publisher", tt.name)
			if _, err := f.js.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			var letters []*jetstream.RawStreamMsg
			f.eventually("there is a dead letter", func() error {
				letters = slices.DeleteFunc(f.dead(tt.subject), func(l *jetstream.RawStreamMsg) bool { return l.Header.Get("Publisher") != tt.name })
				if len(letters) == 0 {
					return errors.New("none")
				}
				return nil
			})
			if len(letters) != 1 {
				t.Fatalf("%d dead letters", len(letters))
			}
			sum, h := sha256.Sum256(m.Data), letters[0].Header
			if !bytes.Equal(letters[0].Data, m.Data) || h.Get(contracts.HeaderDigest) != hex.EncodeToString(sum[:]) {
				t.Errorf("the dead letter is %q, with digest %s", letters[0].Data, h.Get(contracts.HeaderDigest))
			}
			reason := h.Get(contracts.HeaderReason)
			if h.Get(contracts.HeaderCode) != string(tt.code) || h.Get(contracts.HeaderJob) != tt.job || reason == "" || !strings.Contains(reason, tt.word) {
				t.Errorf("the dead letter's headers are %v", h)
			}
		})
	}
	t.Run("too large", func(t *testing.T) { // the queue itself refuses it
		body := good + strings.Repeat(" ", contracts.MaxRequestBytes)
		_, err := f.js.Publish(t.Context(), contracts.RequestSubject(f.tenant), []byte(body))
		if err == nil || !strings.Contains(err.Error(), "message size exceeds maximum allowed") {
			t.Errorf("the queue says %v", err)
		}
	})
	t.Run("on the command line", func(t *testing.T) {
		f := *f
		f.t = t
		for _, tt := range []struct {
			args string
			code int
			says string
		}{
			{"submit requests --job=job --only=tables", 0, "was asked for before"},
			{"submit requests --job=job", 4, "other content"},
			{"submit requests --job=../job", 4, "../job"},
			{"submit ../requests", 4, "../requests"},
			{"submit nobody", 3, "nobody"},
			{"submit requests --only=everything", 2, "everything"},
			{"tenant set ../requests --bucket=some-bucket", 4, "../requests"},
			{"tenant set requests --bucket=../bucket", 4, "../bucket"},
			{"tenant set requests --role-arn=admin", 4, "admin"},
			{"tenant set requests --endpoint=http://s3.example.com", 4, "http://s3.example.com"},
			{"status requests nothing", 3, "nothing"},
		} {
			if out, code := f.try(f.env, strings.Fields(tt.args)...); code != tt.code || !strings.Contains(out, tt.says) {
				t.Errorf("snapfleet %s ends with %d, not %d %q:\n%s", tt.args, code, tt.code, tt.says, out)
			} else if code == 4 && !(strings.Contains(out, "cause: ") && strings.Contains(out, "fix: ")) {
				t.Errorf("snapfleet %s does not explain itself:\n%s", tt.args, out)
			}
		}
	})

	// Whatever came since, the one job that was one is as it was.
	after, err := f.jobs.Status(t.Context(), f.tenant, "job")
	if err != nil || after.Outcome == nil || after.Outcome.ManifestSHA256 != before.Outcome.ManifestSHA256 || after.State != before.State {
		t.Errorf("the job is now %+v, %v", after, err)
	}
	f.check()
	f.delivered("job")
	stream, err := f.js.Stream(t.Context(), contracts.OutcomeStream)
	if err != nil || stream.CachedInfo().State.Msgs != 2 { // and the one for a tenant that nobody knows
		t.Errorf("%d outcomes, %v", stream.CachedInfo().State.Msgs, err)
	}
	jobs, err := f.jobs.List(t.Context(), "")
	if err != nil || len(jobs) != 2 || jobs[0].Tenant != "nobody" || jobs[0].State != "failed" {
		t.Errorf("jobs: %+v, %v", jobs, err)
	}
}

// TestOddNames delivers tables whose names no file may have, and loads them by what the manifest says.
func TestOddNames(t *testing.T) {
	t.Parallel()
	const schema = "o\"dd/../'sch\né\\ma"
	names := []string{
		`quo"te`, `'; DROP TABLE a; --`, "sl/ash", `back\slash`, "..", ".", ".hidden", "../../up", "new\nline", "tab\t", " ", " padded ", "-rf", "CON", "nul.txt",
		"%2e%2e", "~", "*", "C:", strings.Repeat("x", 63), strings.Repeat("ü", 31) + "x", strings.Repeat("ü", 31) + "y", "🦀", "表", "\u202egnp", "\ufeff",
		"a", "A", "a_part1", "a_part2", "A_PART2", "a_part2.csv.gz", "Größe", "GRÖSSE", "GRÖẞE", "\u00e9", "e\u0301", "ſ", "s", "S", "select", "manifest.json",
	}
	var script strings.Builder
	fmt.Fprintf(&script, "CREATE SCHEMA %s;\n", quoted(schema))
	for i, n := range names {
		table := quoted(schema, n)
		fmt.Fprintf(&script, "CREATE TABLE %s (%s text, \"b,\"\"c\" int, \"\\.\" text); INSERT INTO %s VALUES ('v', %d, NULL), ('', NULL, '');\n", table, quoted(n), table, i)
	}
	f := newFleet(t, "Names_OF-1", sql(script.String()))
	f.set("--schema=" + schema)
	f.work("worker")
	f.submit("job", "--only=tables")
	s := f.delivered("job")
	f.check()
	if s.Outcome.Totals.Tables != len(names) || s.Outcome.Totals.Rows != int64(2*len(names)) {
		t.Errorf("totals: %+v", s.Outcome.Totals)
	}
	d := f.unpack("job")
	d.compareTables(f.database, schema)
	seen := make(map[string]string)
	for _, file := range d.Files {
		folded := strings.ToLower(strings.ToUpper(file.Name))
		if other, taken := seen[folded]; taken {
			t.Errorf("%q and %q are one file where case does not matter", file.Name, other)
		}
		seen[folded] = file.Name
		if strings.ContainsAny(file.Name, `/\:*?"<>|`+"\n\t") || strings.HasPrefix(file.Name, ".") || strings.HasPrefix(file.Name, "-") {
			t.Errorf("table %q is in %q", file.Of, file.Name)
		}
	}
}
