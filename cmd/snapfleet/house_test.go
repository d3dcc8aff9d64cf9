package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

const (
	houseAccount = "111111111111"
	houseRole    = "arn:aws:iam::" + houseAccount + ":role/house"
	houseName    = "cmd-house"
	// beta has a volume that takes more than one read to download.
	houseTenants = `
CREATE SCHEMA beta; CREATE TABLE beta.parts (id int PRIMARY KEY, name text);
INSERT INTO beta.parts SELECT i, md5(i::text) || md5((i + 1)::text) FROM generate_series(1, 60000) i;
CREATE SCHEMA gamma; CREATE TABLE gamma.parts (id int PRIMARY KEY); INSERT INTO gamma.parts VALUES (1);
`
)

// household is a fleet with a house bucket, and what the tests do in it.
type household struct {
	t        *testing.T
	aws      *bucket.Server
	operator bucket.User // who runs setup
	worker   bucket.User
	env      []string
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	h := &household{t: t}
	var err error
	if h.aws, err = bucket.Start(t.Context(), bucket.Config{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.aws.Close(); err != nil {
			t.Error(err)
		}
	})
	h.worker = bucket.User{
		ARN: "arn:aws:iam::" + houseAccount + ":user/worker", AccessKey: "AKIAHOUSEWORKER00000", SecretKey: "house/worker/secret/house/worker/secret",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`,
	}
	h.operator = bucket.User{
		ARN: "arn:aws:iam::" + houseAccount + ":user/operator", AccessKey: "AKIAHOUSEOPERATOR000", SecretKey: "house/operator/secret/house/operator/000",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetLifecycleConfiguration","s3:PutLifecycleConfiguration","s3:ListBucket"],"Resource":"arn:aws:s3:::` + houseName + `"}]}`,
	}
	for _, u := range []bucket.User{h.worker, h.operator} {
		if err := h.aws.AddUser(u); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.aws.CreateBucket(t.Context(), houseName, houseAccount); err != nil {
		t.Fatal(err)
	}
	nats, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	h.env = append(source(t, "cmd_house_"+strings.ToLower(t.Name()), houseTenants), "SNAPFLEET_NATS_URL="+nats.URL(), "AWS_CA_BUNDLE="+h.aws.CAFile(), "AWS_EC2_METADATA_DISABLED=true")
	return h
}

func (h *household) run(args ...string) result { return snapfleet(h.t, h.env, args...) }

// setup runs it as the operator.
func (h *household) setup(args ...string) result {
	return snapfleet(h.t, append(slices.Clone(h.env), h.aws.Environ(h.operator)...), append([]string{"setup"}, args...)...)
}

func (h *household) flags() []string {
	return []string{"--house-bucket=" + houseName, "--house-region=" + h.aws.Region(), "--house-role-arn=" + houseRole, "--house-endpoint=" + h.aws.Endpoint()}
}

// furnish sets the house up, and its role with the policies that setup prints.
func (h *household) furnish(args ...string) result {
	h.t.Helper()
	r := h.setup(append(h.flags(), args...)...)
	r.want(h.t, exitOK, "house bucket "+houseName, "Trust policy of the role:", "Permission policy of the role:")
	_, text, _ := strings.Cut(r.out, "Trust policy of the role:\n")
	trust, permission, _ := strings.Cut(text, "\n\nPermission policy of the role:\n")
	if err := h.aws.SetRole(bucket.Role{ARN: houseRole, Trust: trust, Policy: permission}); err != nil {
		h.t.Fatalf("%v\n%s", err, r.out)
	}
	return r
}

func (h *household) startWorker() *process {
	h.t.Helper()
	w, _ := startWorker(h.t, append(slices.Clone(h.env), h.aws.Environ(h.worker)...), "--allow-endpoint="+h.aws.Endpoint(), "--log-format=json", "--listen=127.0.0.1:0")
	return w
}

func (h *household) end(w *process) {
	h.t.Helper()
	if err := w.Process.Signal(os.Interrupt); err != nil {
		h.t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		h.t.Errorf("the worker ends with %v", err)
	}
}

func (h *household) links(tenant, job string) (l contracts.Links) {
	h.t.Helper()
	r := h.run("links", tenant, job, "--json")
	if err := json.Unmarshal([]byte(r.out), &l); err != nil || r.code != exitOK {
		h.t.Fatalf("%v: %s", err, r)
	}
	return l
}

// get is what anybody who has a link does.
func (h *household) get(link string) (status int, body []byte, header http.Header) {
	h.t.Helper()
	resp, err := h.aws.HTTPClient().Get(link)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, body, resp.Header
}

func (h *household) put(key string, body []byte) {
	h.t.Helper()
	_, err := h.aws.Admin().PutObject(h.t.Context(), &s3.PutObjectInput{Bucket: aws.String(houseName), Key: &key, Body: bytes.NewReader(body)})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *household) object(key string) []byte {
	h.t.Helper()
	out, err := h.aws.Admin().GetObject(h.t.Context(), &s3.GetObjectInput{Bucket: aws.String(houseName), Key: &key})
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return body
}

func (h *household) remove(keys ...string) {
	h.t.Helper()
	for _, key := range keys {
		if _, err := h.aws.Admin().DeleteObject(h.t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(houseName), Key: &key}); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *household) keys() (keys []string) {
	h.t.Helper()
	out, err := h.aws.Admin().ListObjectsV2(h.t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(houseName)})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, o := range out.Contents {
		keys = append(keys, *o.Key)
	}
	return keys
}

// rules are the bucket's, by their IDs.
func (h *household) rules() map[string]types.LifecycleRule {
	h.t.Helper()
	out, err := h.aws.Admin().GetBucketLifecycleConfiguration(h.t.Context(), &s3.GetBucketLifecycleConfigurationInput{Bucket: aws.String(houseName)})
	if err != nil {
		h.t.Fatal(err)
	}
	rules := map[string]types.LifecycleRule{}
	for _, r := range out.Rules {
		rules[*r.ID] = r
	}
	return rules
}

// expiresOn are the days on which a delivery of now may expire: two around midnight.
func expiresOn(began time.Time, days int) []string {
	k := contracts.Keep{Days: days}
	return []string{k.Expires(began).Format(time.DateOnly), k.Expires(time.Now()).Format(time.DateOnly)}
}

func oneOf(t *testing.T, text string, days []string) {
	t.Helper()
	if !slices.ContainsFunc(days, func(day string) bool { return strings.Contains(text, "expires "+day) }) {
		t.Errorf("none of the days %v is in:\n%s", days, text)
	}
}

func TestHouse(t *testing.T) {
	h := newHousehold(t)
	began := time.Now()

	// Three fields, or none.
	h.setup(h.flags()[:2]...).want(t, exitUsage, "--house-bucket, --house-region and --house-role-arn come together")
	h.run("tenant", "list").want(t, exitFailed, "snapfleet setup") // nothing was done
	h.run("setup").want(t, exitOK, "stream SNAPSHOT_REQUESTS: created")
	h.run("tenant", "set", "beta", "--bucket=x-bucket").want(t, exitRejected, "bucket, region and role ARN come together", "fix:")
	h.run("tenant", "set", "beta", "--endpoint=https://x").want(t, exitRejected, "endpoint", "of a bucket that is given, too")
	h.run("tenant", "get", "beta").want(t, exitNotFound)
	h.run("tenant", "set", "beta").want(t, exitOK, "bucket house", "external ID", "This tenant cannot be delivered to yet: there is no house bucket.")
	var record map[string]any
	if err := json.Unmarshal([]byte(h.run("tenant", "get", "beta", "--json").out), &record); err != nil {
		t.Fatal(err)
	}
	if d, _ := record["destination"].(map[string]any); len(d) != 1 || len(fmt.Sprint(d["external_id"])) < 22 {
		t.Errorf("the stored destination is %v", d)
	}
	h.run("submit", "beta", "--job=early").want(t, exitRejected, "tenant beta has no bucket of its own, and there is no house bucket", "fix: set up a house bucket with `snapfleet setup --house-bucket")

	// The house, by lifecycle, beside somebody's rule.
	h.setup(append(h.flags(), "--house-days=0")...).want(t, exitUsage, "days")
	h.setup(append(h.flags(), "--house-endpoint=http://s3.example.com")...).want(t, exitUsage, "endpoint")
	_, err := h.aws.Admin().PutBucketLifecycleConfiguration(t.Context(), &s3.PutBucketLifecycleConfigurationInput{
		Bucket: aws.String(houseName), LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: []types.LifecycleRule{{
			ID: aws.String("theirs"), Status: types.ExpirationStatusDisabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("x/")},
			Expiration: &types.LifecycleExpiration{Days: aws.Int32(3)},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.put("photos/cat.jpg", []byte("meow"))
	h.setup(h.flags()...).want(t, exitRejected, `it holds "photos/cat.jpg", which is no delivery`, "fix: create a bucket for the house alone")
	h.remove("photos/cat.jpg")
	h.run("setup").want(t, exitOK) // no house yet
	h.furnish().want(t, exitOK, "kept 30 days, then deleted by the bucket's lifecycle rule")
	h.setup("--house-days=14").want(t, exitOK, "kept 14 days")
	h.setup("--house-days=30").want(t, exitOK, "kept 30 days")
	h.run("setup").want(t, exitOK, "house bucket "+houseName+": 30 days, then deleted by the bucket's lifecycle rule")
	rules := h.rules()
	ours, theirs := rules["snapfleet-house"], rules["theirs"]
	if len(rules) != 2 || aws.ToInt32(ours.Expiration.Days) != 30 || ours.Status != types.ExpirationStatusEnabled || aws.ToInt32(ours.AbortIncompleteMultipartUpload.DaysAfterInitiation) != 7 {
		t.Errorf("the bucket's rules are %+v", rules)
	}
	if aws.ToInt32(theirs.Expiration.Days) != 3 || theirs.Status != types.ExpirationStatusDisabled || aws.ToString(theirs.Filter.Prefix) != "x/" {
		t.Errorf("somebody's rule is now %+v", theirs)
	}

	// A delivery.
	worker := h.startWorker()
	h.run("tenant", "set", "gamma").want(t, exitOK, "Deliveries go to the house bucket, "+houseName+", and are kept 30 days.")
	h.run("tenant", "list").want(t, exitOK, "beta beta house", "gamma gamma house")
	if r := h.run("tenant", "list"); strings.Contains(r.out, contracts.HouseKey) {
		t.Errorf("the house is listed among the tenants: %s", r)
	}
	h.run("submit", "beta", "--job=j1", "--only=tables", "--wait").want(t, exitOK, "delivered: 1 table, 60,000 rows", "s3://"+houseName+"/beta/j1/manifest.json")
	h.run("submit", "gamma", "--job=j1", "--only=tables", "--wait").want(t, exitOK, "delivered: 1 table, 1 rows")
	if keys, want := h.keys(), []string{"beta/j1/manifest.json", "beta/j1/snapshot_tables_j1.tar", "gamma/j1/manifest.json", "gamma/j1/snapshot_tables_j1.tar"}; !slices.Equal(keys, want) {
		t.Errorf("the house holds %q", keys)
	}
	status := h.run("status", "beta", "j1")
	status.want(t, exitOK, "state delivered", "kept in the house bucket, expires ")
	oneOf(t, status.out, expiresOn(began, 30))
	h.run("tenant", "check", "beta").want(t, exitOK, "10 of 10 steps are ok")
	h.run("tenant", "get", "beta").want(t, exitOK, "bucket house", "destination ok")
	h.run("tenant", "set", "beta", "--bucket=x-bucket", "--region=us-east-1", "--role-arn="+role).want(t, exitOK, "bucket x-bucket")
	h.run("links", "beta", "j1").want(t, exitOK) // it was the house's, when it was delivered
	h.run("tenant", "set", "beta", "--bucket=", "--region=", "--role-arn=").want(t, exitOK, "bucket house")
	h.isolates("beta/j1/", "gamma/j1/manifest.json")

	// Links.
	for _, args := range [][]string{{"--expires=59s"}, {"--expires=61m"}, {"--expires=-1m"}} {
		h.run(append([]string{"links", "beta", "j1"}, args...)...).want(t, exitUsage, "links are good for 1m0s to 1h0m0s")
	}
	h.run("links", "beta", "nope").want(t, exitNotFound, "no such job")
	h.run("links", "beta", "../gamma/j1").want(t, exitUsage)
	h.run("links", "nobody", "j1").want(t, exitNotFound)
	asked := time.Now()
	table := h.run("links", "beta", "j1", "--expires=1h")
	table.want(t, exitOK, "FILE", "SIZE", "LINK ENDS", "manifest.json", "snapshot_tables_j1.tar", "https://")
	oneOf(t, table.out, expiresOn(began, 30))
	links := h.links("beta", "j1")
	if left := links.ValidUntil.Sub(asked); len(links.Files) != 2 || links.ExpiresBy != contracts.ByLifecycle || left < 14*time.Minute || left > 16*time.Minute {
		t.Errorf("links of 15m: %+v, good for %v", links, left)
	}
	for _, f := range links.Files {
		code, body, header := h.get(f.URL)
		if code != http.StatusOK || int64(len(body)) != f.Size || !bytes.Equal(body, h.object("beta/j1/"+f.Name)) {
			t.Errorf("%s: status %d, %d bytes", f.Name, code, len(body))
		}
		if d := header.Get("Content-Disposition"); d != `attachment; filename="`+f.Name+`"` {
			t.Errorf("%s is saved as %q", f.Name, d)
		}
		// A link is to one file, and to read it.
		if code, _, _ := h.get(strings.Replace(f.URL, "/beta/", "/gamma/", 1)); code != http.StatusForbidden {
			t.Errorf("turned to another tenant's file: status %d", code)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, f.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.aws.HTTPClient().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
			t.Errorf("deleted by a link: status %d", resp.StatusCode)
		}
	}
	h.aws.ExpireSessions(houseRole)
	for _, f := range links.Files {
		if code, _, _ := h.get(f.URL); code < 400 {
			t.Errorf("%s: status %d when the session is over", f.Name, code)
		}
	}

	h.downloads()
	h.refusals()
	h.end(worker)
	h.run("links", "beta", "j1").want(t, exitUnreachable, "no worker answers")
}

// isolates holds the sessions that wrote a folder, and read it, against another tenant's file.
func (h *household) isolates(folder, foreign string) {
	h.t.Helper()
	found := 0
	for _, call := range h.aws.Calls() {
		if call.Service == "s3" && strings.HasPrefix(call.Key, folder) && strings.Contains(call.Principal, ":assumed-role/house/") {
			found++
			if !call.SessionPolicy || !strings.Contains(call.Policy, folder+"*") || strings.Contains(call.Policy, strings.TrimSuffix(foreign, "j1/manifest.json")) {
				h.t.Errorf("%s %s with the session policy %s", call.Operation, call.Key, call.Policy)
			}
		}
		if call.Service == "s3" && strings.HasPrefix(call.Key, folder) && strings.Contains(call.Principal, ":user/worker") {
			h.t.Errorf("%s %s with the worker's own keys", call.Operation, call.Key)
		}
	}
	if found == 0 {
		h.t.Error("nobody has written the folder")
	}
}

// downloads are those that go well, or go on.
func (h *household) downloads() {
	t := h.t
	volume := "beta/j1/snapshot_tables_j1.tar"
	whole := h.object(volume)

	// In one go.
	to := t.TempDir()
	h.run("download", "beta", "j1", "--to="+to).want(t, exitOK, "proven: 1 table, 60,000 rows")
	folder := filepath.Join(to, "beta", "j1")
	if got, err := os.ReadFile(filepath.Join(folder, "snapshot_tables_j1.tar")); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d bytes, not those of the house, %v", len(got), err)
	}
	h.run("verify", folder).want(t, exitOK, "proven:")
	h.aws.Reset()
	h.run("download", "beta", "j1", "--to="+to).want(t, exitOK, "proven:") // nothing is downloaded twice
	for _, call := range h.aws.Calls() {
		if call.Operation == "GetObject" && call.Query.Get("X-Amz-Signature") != "" {
			t.Errorf("%s was downloaded again", call.Key)
		}
	}

	// Interrupted in the middle, and by an end of the links.
	to = t.TempDir()
	h.aws.Reset()
	ofVolume := func(c bucket.Call) bool {
		return c.Operation == "GetObject" && c.Key == volume && c.Query.Get("X-Amz-Signature") != ""
	}
	h.aws.Inject(bucket.Fault{Match: ofVolume, Times: 1, Reply: bucket.Reply{Cut: int64(len(whole) / 3)}})
	held := make(chan struct{})
	stop := h.aws.Inject(bucket.Fault{Match: ofVolume, Times: 1, Hold: held})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, out, stderr := command(ctx, h.env, "download", "beta", "j1", "--to="+to)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-stop.Reached:
	case <-ctx.Done():
		t.Fatal("the download did not go on after the cut")
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its exit status is looked at below
	close(held)
	result{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}.want(t, exitInterrupted, "What has arrived is kept. To go on: snapfleet download beta j1 --to="+to)
	if strings.Contains(stderr.String(), "X-Amz-") {
		t.Errorf("a link is shown: %s", stderr)
	}
	folder = filepath.Join(to, "beta", "j1")
	parts, err := filepath.Glob(filepath.Join(folder, "*.part"))
	if err != nil || len(parts) != 1 {
		t.Fatalf("parts %q, %v", parts, err)
	}
	info, err := os.Stat(parts[0])
	if err != nil || info.Size() == 0 || info.Size() >= int64(len(whole)) {
		t.Fatalf("the part has %d of %d bytes, %v", info.Size(), len(whole), err)
	}
	h.run("verify", folder).want(t, exitUnproven, "manifest.json: it is missing")

	h.aws.Reset()
	h.aws.Inject(bucket.Fault{Match: ofVolume, Times: 1, Reply: bucket.Reply{Status: http.StatusBadRequest, Code: "ExpiredToken"}})
	h.run("download", "beta", "j1", "--to="+to).want(t, exitOK, "proven: 1 table, 60,000 rows")
	links, ranges := 0, []string{}
	for _, call := range h.aws.Calls() {
		if call.Operation == "AssumeRole" {
			links++
		}
		if ofVolume(call) {
			ranges = append(ranges, call.Header.Get("Range"))
			if call.Header.Get("If-Match") == "" {
				t.Error("a volume is asked for without If-Match")
			}
		}
	}
	if want := fmt.Sprintf("bytes=%d-", info.Size()); links != 2 || !slices.Equal(ranges, []string{want, want}) {
		t.Errorf("links were made %d times, and the ranges are %q, want %q", links, ranges, want)
	}
}

// refusals are downloads and links that there cannot be.
func (h *household) refusals() {
	t := h.t
	// A store that hurts what it sends.
	h.aws.Reset()
	flip := h.aws.Inject(bucket.Fault{Match: func(c bucket.Call) bool {
		return c.Operation == "GetObject" && strings.HasSuffix(c.Key, ".tar") && c.Query.Get("X-Amz-Signature") != ""
	}, Times: 1, Reply: bucket.Reply{Flip: true}})
	to := t.TempDir()
	h.run("download", "beta", "j1", "--to="+to).want(t, exitUnproven, "wrong:", "the delivery is not what its manifest says", "fix: remove "+filepath.Join(to, "beta", "j1")+" and download it again")
	if flip.Hits() != 1 {
		t.Error("no bit was turned over")
	}

	// What was written into the folder by somebody else.
	to = t.TempDir()
	folder := filepath.Join(to, "beta", "j1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "snapshot_tables_j1.tar"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.run("download", "beta", "j1", "--to="+to).want(t, exitFailed, "is there already", "fix: move it away")
	if got, err := os.ReadFile(filepath.Join(folder, "snapshot_tables_j1.tar")); err != nil || string(got) != "mine" {
		t.Errorf("it is overwritten: %q, %v", got, err)
	}
	// A link out of the folder.
	to, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(to, "beta")); err != nil {
		t.Fatal(err)
	}
	h.run("download", "beta", "j1", "--to="+to).want(t, exitFailed, "fix:")
	if found, err := os.ReadDir(elsewhere); err != nil || len(found) > 0 {
		t.Errorf("outside of the folder there is %v, %v", found, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h.run("download", "beta", "j1", "--to="+file).want(t, exitFailed, "a part of the path is a file")
	h.run("download", "beta", "j1", "--parallel=0").want(t, exitUsage, "--parallel")
	h.run("download", "beta", "nope", "--to="+to).want(t, exitNotFound, "no such job")
	h.run("download", "beta", "../j1", "--to="+to).want(t, exitUsage)

	// A job that ended without a delivery, and one of a customer with a bucket.
	h.run("submit", "nobody-there", "--job=j1").want(t, exitNotFound)
	h.run("tenant", "set", "gamma", "--schema=absent").want(t, exitOK)
	h.run("submit", "gamma", "--job=j2", "--wait").want(t, exitJobFailed, "schema_not_found")
	h.run("links", "gamma", "j2").want(t, exitJobFailed, "job gamma/j2 is failed: nothing was delivered")
	if err := h.aws.CreateBucket(t.Context(), "cmd-house-acme", customer); err != nil {
		t.Fatal(err)
	}
	h.run("tenant", "set", "acme", "--schema=gamma", "--bucket=cmd-house-acme", "--region="+h.aws.Region(), "--role-arn="+role, "--endpoint="+h.aws.Endpoint()).want(t, exitOK, "bucket cmd-house-acme")
	may := strings.ReplaceAll(permission, "cmd-acme", "cmd-house-acme")
	if err := h.aws.AddRole(bucket.Role{ARN: role, Trust: strings.ReplaceAll(trust, "EXTERNAL", record(t, h.env, "acme").Destination.ExternalID), Policy: may}); err != nil {
		t.Fatal(err)
	}
	h.run("submit", "acme", "--job=j1", "--only=tables", "--wait").want(t, exitOK, "s3://cmd-house-acme/acme/j1/manifest.json")
	h.run("links", "acme", "j1").want(t, exitRejected, "s3://cmd-house-acme/acme/j1/manifest.json is in the customer's own bucket", "fix:")
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	h.run("download", "acme", "j1", "--to="+nowhere).want(t, exitRejected, "is in the customer's own bucket")
	if _, err := os.Stat(nowhere); !os.IsNotExist(err) {
		t.Errorf("a folder was made for nothing: %v", err)
	}
	if r := h.run("status", "acme", "j1"); strings.Contains(r.out, "expires") {
		t.Errorf("a customer's delivery expires: %s", r)
	}

	// What was changed in the house, or is gone from it.
	volume, manifest := h.object("beta/j1/snapshot_tables_j1.tar"), h.object("beta/j1/manifest.json")
	changed := bytes.Clone(volume)
	changed[len(changed)/2] ^= 1
	h.put("beta/j1/snapshot_tables_j1.tar", changed)
	h.run("download", "beta", "j1", "--to="+t.TempDir()).want(t, exitUnproven, "wrong:")
	h.put("beta/j1/snapshot_tables_j1.tar", changed[1:])
	h.run("links", "beta", "j1").want(t, exitUnproven, "when it was delivered", "cause: something was changed in the house bucket")
	h.put("beta/j1/snapshot_tables_j1.tar", volume)
	h.put("beta/j1/manifest.json", bytes.ReplaceAll(manifest, []byte("60000"), []byte("60001")))
	h.run("links", "beta", "j1").want(t, exitUnproven, "beta/j1/manifest.json is not the manifest that was delivered")
	h.run("download", "beta", "j1", "--to="+t.TempDir()).want(t, exitUnproven, "is not the manifest that was delivered")
	h.put("beta/j1/manifest.json", manifest)
	h.run("links", "beta", "j1").want(t, exitOK)
	h.remove("beta/j1/snapshot_tables_j1.tar")
	h.run("links", "beta", "j1").want(t, exitNotFound, "beta/j1/snapshot_tables_j1.tar is not there any more", "fix: ask for a snapshot under a new job id")
	h.remove("beta/j1/manifest.json")
	h.run("download", "beta", "j1", "--to="+t.TempDir()).want(t, exitNotFound, "is not there any more")
}

// TestHouseWithoutLifecycle is a store that knows no rules, or does not let us set them.
func TestHouseWithoutLifecycle(t *testing.T) {
	h := newHousehold(t)
	began := time.Now()
	lifecycle := func(c bucket.Call) bool { return strings.HasSuffix(c.Operation, "BucketLifecycleConfiguration") }
	none := h.aws.Inject(bucket.Fault{Match: lifecycle, Reply: bucket.Reply{Status: http.StatusNotImplemented, Code: "NotImplemented"}})
	h.furnish("--house-days=3").want(t, exitOK, "kept 3 days, as the tag snapfleet-expires of each object says; no rule of the bucket deletes them",
		"Nothing is deleted by itself:", "S3 answers NotImplemented to GetBucketLifecycleConfiguration", "s3:PutObjectTagging")
	none.Remove()
	h.run("tenant", "set", "gamma").want(t, exitOK, "bucket house")
	worker := h.startWorker()
	h.run("tenant", "check", "gamma").want(t, exitOK, "10 of 10 steps are ok")
	h.run("submit", "gamma", "--job=j1", "--only=tables", "--wait").want(t, exitOK, "delivered: 1 table")
	days := expiresOn(began, 3)
	for _, key := range h.keys() {
		out, err := h.aws.Admin().GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: aws.String(houseName), Key: &key})
		if err != nil || len(out.TagSet) != 1 || *out.TagSet[0].Key != contracts.ExpiresTag || !slices.Contains(days, *out.TagSet[0].Value) {
			t.Errorf("%s has the tags %+v, %v, want one of %v", key, out, err, days)
		}
	}
	h.run("status", "gamma", "j1").want(t, exitOK, "kept in the house bucket, expires ")
	oneOf(t, h.run("links", "gamma", "j1").out, days)
	if l := h.links("gamma", "j1"); l.ExpiresBy != contracts.ByTag {
		t.Errorf("the links say %+v", l)
	}
	h.run("download", "gamma", "j1", "--to="+t.TempDir()).want(t, exitOK, "proven:")

	// What is tagged keeps its day.
	denied := h.aws.Inject(bucket.Fault{Match: lifecycle, Reply: bucket.Reply{Status: http.StatusForbidden, Code: "AccessDenied"}})
	h.setup("--house-days=90").want(t, exitOK, "kept 90 days, as the tag", "S3 answers AccessDenied to GetBucketLifecycleConfiguration")
	denied.Remove()
	oneOf(t, h.run("links", "gamma", "j1").out, days)

	// From a tag to a rule, and not back by somebody who may not change the rule.
	h.setup("--house-days=20").want(t, exitOK, "kept 20 days, then deleted by the bucket's lifecycle rule")
	h.aws.Inject(bucket.Fault{Match: lifecycle, Reply: bucket.Reply{Status: http.StatusForbidden, Code: "AccessDenied"}})
	h.setup("--house-days=40").want(t, exitRejected, "the bucket's rule was set before, to 20 days", "fix: use credentials that are allowed")
	h.run("setup").want(t, exitOK, "house bucket "+houseName+": 20 days, then deleted")
	h.aws.Reset()
	h.setup("--house-bucket=absent-bucket").want(t, exitRejected, "fix: create the bucket first")
	h.run("setup").want(t, exitOK, "house bucket "+houseName+": 20 days, then deleted")
	h.end(worker)
}
