package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	templates "github.com/snapfleet/snapfleet/deploy/customer"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
	"github.com/snapfleet/snapfleet/uploader"
)

const ourNumber = "111111111111"

// onboarding is a fleet and a customer of AWS who has nothing yet.
type onboarding struct {
	t     *testing.T
	cloud *bucket.Server
	us    bucket.User // the fleet's own login
	them  bucket.User // whoever sets up the customer's account
	env   []string
	nats  *world.NATS
	name  string // the bucket
}

// board starts a cloud of one region, and a fleet in which the tenant acme is registered.
func board(t *testing.T, region string, set ...string) *onboarding {
	t.Helper()
	cloud, err := bucket.Start(t.Context(), bucket.Config{Dir: t.TempDir(), Region: region, Versioning: true})
	if err != nil {
		t.Fatal(err)
	}
	nats, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(errors.Join(err, cloud.Close()))
	}
	t.Cleanup(func() {
		nats.Stop()
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	o := &onboarding{
		t: t, cloud: cloud, nats: nats, name: "acme-snapshots",
		us: bucket.User{
			ARN: "arn:aws:iam::" + ourNumber + ":user/worker", AccessKey: "AKIAPOLICYWORKER0000", SecretKey: "policy/worker/secret/policy/worker/secret",
			Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`,
		},
		them: bucket.User{
			ARN: "arn:aws:iam::" + customer + ":user/admin", AccessKey: "AKIAPOLICYADMIN00000", SecretKey: "policy/admin/secret/policy/admin/secret/0",
			Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","iam:*","kms:*"],"Resource":"*"}]}`,
		},
		env: []string{"SNAPFLEET_NATS_URL=" + nats.URL()},
	}
	for _, u := range []bucket.User{o.us, o.them} {
		if err := cloud.AddUser(u); err != nil {
			t.Fatal(err)
		}
	}
	snapfleet(t, o.env, "setup").want(t, exitOK)
	snapfleet(t, o.env, append([]string{
		"tenant", "set", "acme", "--bucket=" + o.name, "--region=" + region,
		"--role-arn=" + o.role(), "--endpoint=" + cloud.Endpoint(),
	}, set...)...).want(t, exitOK)
	return o
}

// role is as the record names it: with a path, because some have one.
func (o *onboarding) role() string {
	return "arn:aws:iam::" + customer + ":role/vendors/snapfleet-delivery"
}

// print is what the binary prints for acme, with our login and no --account.
func (o *onboarding) print(args ...string) string {
	o.t.Helper()
	r := snapfleet(o.t, append(o.env, o.cloud.Environ(o.us)...), append([]string{"policy", "acme"}, args...)...)
	r.want(o.t, exitOK)
	return r.out
}

// open gives the customer the bucket, and a role with these policies.
func (o *onboarding) open(trust, permissions string) {
	o.t.Helper()
	if err := o.cloud.CreateBucket(o.t.Context(), o.name, customer); err != nil {
		o.t.Fatal(err)
	}
	o.grant(trust, permissions)
}

func (o *onboarding) grant(trust, permissions string) {
	o.t.Helper()
	if err := o.cloud.SetRole(bucket.Role{ARN: o.role(), Trust: trust, Policy: permissions}); err != nil {
		o.t.Fatal(err)
	}
}

// work starts a real worker. stop is to be deferred: the test's context ends before its cleanups.
func (o *onboarding) work() (stop func()) {
	o.t.Helper()
	o.env = append(o.env, source(o.t, "cmd_policy_"+strings.ToLower(rand.Text()[:8]), tenant)...)
	worker, _ := startWorker(o.t, append(o.env, o.cloud.Environ(o.us)...), "--allow-endpoint="+o.cloud.Endpoint(), "--log-format=json", "--listen=127.0.0.1:0")
	return func() {
		if err := errors.Join(worker.Process.Signal(os.Interrupt), worker.Wait()); err != nil {
			o.t.Error(err)
		}
	}
}

// delivers submits a job, and proves what arrives.
func (o *onboarding) delivers(job string) {
	o.t.Helper()
	snapfleet(o.t, o.env, "submit", "acme", "--job="+job, "--wait", "--only=tables").want(o.t, exitOK, "delivered: 2 tables, 5,000 rows")
	snapfleet(o.t, o.cloud.Environ(o.them), "verify", "s3://"+o.name+"/acme/"+job+"/").want(o.t, exitOK, "proven: 2 tables, 5,000 rows")
}

// check has the worker try the destination, and says which steps failed.
func (o *onboarding) check() (failed []contracts.CheckName) {
	o.t.Helper()
	r := snapfleet(o.t, o.env, "tenant", "check", "acme", "--json")
	var check contracts.Check
	if err := json.Unmarshal([]byte(r.out), &check); err != nil || len(check.Steps) != len(contracts.CheckNames) {
		o.t.Fatalf("%v: %s", err, r)
	}
	for _, s := range check.Steps {
		if s.Result == contracts.CheckFailed {
			failed = append(failed, s.Name)
		}
	}
	return failed
}

// uploader is a worker's.
func (o *onboarding) uploader() *uploader.Uploader {
	return uploader.New(o.cloud.AWSConfig(o.us), uploader.Config{
		AllowEndpoints: []string{o.cloud.Endpoint()}, RetryFirst: time.Millisecond, RetryMost: 20 * time.Millisecond, RetryFor: 20 * time.Second,
	})
}

// reached is how far a delivery came.
type reached string

const (
	beginning  reached = "begin"  // nothing of the tenant's was read
	committing reached = "commit" // everything is uploaded
	whole      reached = ""
)

// delivered tells jobs apart.
var delivered int

// deliver makes one small delivery with the uploader as a worker has it: of a job whose earlier attempt left a
// volume, or not.
func (o *onboarding) deliver(record contracts.Tenant, leftover bool) (reached, error) {
	o.t.Helper()
	delivered++
	a := contracts.Attempt{
		Request: contracts.Request{Version: contracts.RequestVersion, Tenant: "acme", Job: fmt.Sprintf("j%d", delivered), Only: contracts.Tables, RequestedAt: time.Unix(1_774_967_422, 0).UTC()},
		Tenant:  record, Number: 2, ID: "2-9f86d081884c7d65",
	}
	stale := a.Prefix() + "snapshot_attachments_" + a.Request.Job + ".tar"
	if leftover {
		_, err := o.cloud.Admin().PutObject(o.t.Context(), &s3.PutObjectInput{
			Bucket: &o.name, Key: &stale, Body: strings.NewReader("left"),
			Metadata: map[string]string{"snapfleet-job": a.Prefix(), "snapfleet-attempt": "1-0000000000000000"},
		})
		if err != nil {
			o.t.Fatal(err)
		}
	}
	u := o.uploader()
	d, err := u.Begin(o.t.Context(), a, &notes{Journal: silent{}, attempt: a.ID})
	if err != nil {
		return beginning, err
	}
	rows := []byte("id\n1\n")
	err = d.Write(o.t.Context(), contracts.Archive{Kind: contracts.Tables, Bytes: int64(len(rows)), Members: func(yield func(contracts.Member, error) bool) {
		yield(contracts.Member{
			Name: "tables/t.csv.gz", Of: "t", Size: -1, ModTime: time.Unix(0, 0),
			Write: func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
				_, err := w.Write(rows)
				return contracts.Piece{Rows: 1}, err
			},
		}, nil)
	}})
	if err != nil {
		o.t.Fatal(err)
	}
	receipt, err := d.Receipt(contracts.Manifest{Tables: []contracts.Table{{Name: "t", Rows: 1, Columns: []contracts.Column{{Name: "id", Type: "integer"}}}}})
	if err != nil {
		o.t.Fatal(err)
	}
	if err := u.Commit(o.t.Context(), a, receipt); err != nil {
		return committing, err
	}
	left, err := o.cloud.Admin().ListObjectsV2(o.t.Context(), &s3.ListObjectsV2Input{Bucket: &o.name, Prefix: &stale})
	if err != nil {
		o.t.Fatal(err)
	}
	if len(left.Contents) > 0 {
		o.t.Errorf("%s is left", stale)
	}
	return whole, nil
}

// silent is a journal of work that nobody takes over.
type silent struct{ consumer.Journal }

func (silent) Upload(context.Context, contracts.Upload) error { return nil }
func (silent) Progress(func(*contracts.Progress))             {}
func (silent) Checkpoint(context.Context, []byte) error       { return nil }
func (silent) Checkpoints(context.Context) ([][]byte, error)  { return nil, nil }

// rejected is the code of a rejection, or the error's text.
func rejected(err error) string {
	if r, ok := contracts.AsRejection(err); ok {
		return string(r.Code)
	}
	return fmt.Sprint(err)
}

// without is a policy with one action less.
func without(t *testing.T, policy, action string) string {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(policy), &doc); err != nil {
		t.Fatal(err)
	}
	found := 0
	doc["Statement"] = slices.DeleteFunc(doc["Statement"].([]any), func(s any) bool {
		statement := s.(map[string]any)
		before := statement["Action"].([]any)
		after := slices.DeleteFunc(slices.Clone(before), func(a any) bool { return a == action })
		found += len(before) - len(after)
		statement["Action"] = after
		return len(after) == 0
	})
	if found != 1 {
		t.Fatalf("%s is in the policy %d times", action, found)
	}
	return compact(t, doc)
}

// actions are all that a policy allows.
func actions(t *testing.T, policy string) (all []string) {
	t.Helper()
	var doc struct {
		Statement []struct{ Action []string }
	}
	if err := json.Unmarshal([]byte(policy), &doc); err != nil {
		t.Fatal(err)
	}
	for _, s := range doc.Statement {
		all = append(all, s.Action...)
	}
	slices.Sort(all)
	return all
}

// TestPolicyIsAllThatADeliveryNeeds gives the emulator what is printed, delivers by a real worker, and then takes away
// each action, and each part of the trust, one by one.
func TestPolicyIsAllThatADeliveryNeeds(t *testing.T) {
	o := board(t, "us-west-2")
	trust, permissions := o.print("--as=trust"), o.print("--as=permissions")
	o.open(trust, permissions)
	defer o.work()()
	o.delivers("printed")
	acme := record(t, o.env, "acme")
	if failed := o.check(); len(failed) > 0 {
		t.Fatalf("as printed, %q fail", failed)
	}

	needed := map[string]struct {
		stage reached
		code  contracts.Code
		check contracts.CheckName // the first step that fails
	}{
		"s3:ListBucket":                 {beginning, contracts.BucketDenied, contracts.CheckBucket},
		"s3:ListBucketMultipartUploads": {beginning, contracts.BucketDenied, contracts.CheckBucket},
		"s3:PutObject":                  {beginning, contracts.WriteDenied, contracts.CheckWrite},
		"s3:GetObject":                  {beginning, contracts.WriteDenied, contracts.CheckRead},
		"s3:AbortMultipartUpload":       {beginning, contracts.WriteDenied, contracts.CheckAbort},
		"s3:ListMultipartUploadParts":   {beginning, contracts.WriteDenied, contracts.CheckAbort},
		"s3:DeleteObject":               {committing, contracts.WriteDenied, contracts.CheckDelete}, // only to clean up
	}
	for _, action := range actions(t, permissions) {
		want, known := needed[action]
		if !known {
			t.Errorf("nothing needs %s", action)
			continue
		}
		o.grant(trust, without(t, permissions, action))
		if at, err := o.deliver(acme, true); at != want.stage || rejected(err) != string(want.code) {
			t.Errorf("without %s: %q: %v, want %s: %s", action, at, err, want.stage, want.code)
		}
		if failed := o.check(); len(failed) == 0 || failed[0] != want.check {
			t.Errorf("without %s these steps of a check fail: %q, want %s first", action, failed, want.check)
		}
		delete(needed, action)
	}
	for action := range needed {
		t.Errorf("%s is not printed", action)
	}
	o.grant(trust, without(t, permissions, "s3:DeleteObject"))
	if at, err := o.deliver(acme, false); at != whole || err != nil {
		t.Errorf("where nothing was left, nothing has to be deleted: %q: %v", at, err)
	}

	key := "arn:aws:kms:us-west-2:" + customer + ":key/00000000-1111-2222-3333-444444444444"
	snapfleet(t, o.env, "tenant", "set", "acme", "--kms-key="+key).want(t, exitOK)
	encrypted, both := record(t, o.env, "acme"), o.print("--as=permissions")
	for _, action := range []string{"kms:GenerateDataKey", "kms:Decrypt"} {
		o.grant(trust, without(t, both, action))
		if at, err := o.deliver(encrypted, false); at != beginning || rejected(err) != string(contracts.KMSDenied) {
			t.Errorf("without %s: %q: %v, want %s", action, at, err, contracts.KMSDenied)
		}
	}
	o.grant(trust, both)
	if at, err := o.deliver(encrypted, true); at != whole || err != nil {
		t.Errorf("with a key, as printed: %q: %v", at, err)
	}

	id := acme.Destination.ExternalID
	for name, tc := range map[string]struct {
		trust string
		code  contracts.Code
	}{
		"another account":     {strings.Replace(trust, ourNumber, "333333333333", 1), contracts.RoleDenied},
		"another external ID": {strings.Replace(trust, id, "another-"+id, 1), contracts.RoleDenied},
		"no condition":        {strings.Replace(trust, `"Condition": { "StringEquals": { "sts:ExternalId": "`+id+`" } }`, `"Sid": "All"`, 1), contracts.InsecureTrust},
		"any external ID":     {strings.NewReplacer("StringEquals", "StringLike", id, "*").Replace(trust), contracts.InsecureTrust},
	} {
		if tc.trust == trust {
			t.Fatalf("%s: the trust policy is the printed one", name)
		}
		o.grant(tc.trust, permissions)
		if at, err := o.deliver(acme, false); at != beginning || rejected(err) != string(tc.code) {
			t.Errorf("%s: %q: %v, want %s", name, at, err, tc.code)
		}
	}
	o.grant(trust, permissions)
	if at, err := o.deliver(acme, true); at != whole || err != nil {
		t.Errorf("as printed: %q: %v", at, err)
	}
}

// TestPolicyOfARotationAcceptsBothExternalIDs and no third, and after it only the new one.
func TestPolicyOfARotationAcceptsBothExternalIDs(t *testing.T) {
	o := board(t, "us-west-2")
	o.open(o.print("--as=trust"), o.print("--as=permissions"))
	defer o.work()()
	old := record(t, o.env, "acme")
	snapfleet(t, o.env, "tenant", "rotate", "acme").want(t, exitOK, "`snapfleet policy acme --as=trust` prints that policy")
	both := record(t, o.env, "acme")
	next, third := old, old
	next.Destination.ExternalID = both.Destination.NextExternalID
	third.Destination.ExternalID = "a-third-external-id-of-acme"
	let := func(records map[*contracts.Tenant]bool) {
		t.Helper()
		for record, in := range records {
			if at, err := o.deliver(*record, false); in != (err == nil) || !in && rejected(err) != string(contracts.RoleDenied) {
				t.Errorf("%q: %v: with %s; that it is let in should be %t", at, err, record.Destination.ExternalID, in)
			}
		}
	}
	let(map[*contracts.Tenant]bool{&old: true, &next: false, &third: false})

	r := snapfleet(t, append(o.env, o.cloud.Environ(o.us)...), "policy", "acme", "--as=trust")
	r.want(t, exitOK, `"sts:ExternalId": ["`+old.Destination.ExternalID+`", "`+next.Destination.ExternalID+`"]`, "A rotation of the external ID is under way")
	for by, trust := range map[string]string{
		"itself": compact(t, r.out), "CloudFormation": stackSetup(t, o.print("--as=cloudformation")).Trust, "Terraform": moduleSetup(t, o.print("--as=terraform"), "us-west-2", customer).Trust,
	} {
		o.grant(trust, o.print("--as=permissions"))
		if trust != compact(t, r.out) {
			t.Errorf("%s makes another trust policy: %s", by, trust)
		}
		let(map[*contracts.Tenant]bool{&old: true, &next: true, &third: false})
	}
	o.delivers("rotating")

	snapfleet(t, o.env, "tenant", "rotate", "acme").want(t, exitOK, "the external ID is switched")
	o.grant(o.print("--as=trust"), o.print("--as=permissions"))
	o.delivers("rotated")
	let(map[*contracts.Tenant]bool{&old: false, &next: true, &third: false})
}

// enrol writes a record in place of the one that is there, whatever the registry would let an operator change.
func (o *onboarding) enrol(record contracts.Tenant) {
	o.t.Helper()
	registry, done, err := openRegistry(o.t.Context(), verbFlags{natsFlags: natsFlags{NATSURL: o.nats.URL(), NATSInbox: "_INBOX"}})
	if err != nil {
		o.t.Fatal(err)
	}
	defer done()
	_, known, err := lookup(o.t.Context(), registry, record.Name)
	if err == nil && known {
		err = registry.Remove(o.t.Context(), record.Name)
	}
	if err == nil {
		err = registry.Set(o.t.Context(), record)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// TestEveryTemplateCreatesTheSame runs the printed script against the emulator, compares what it made with what
// CloudFormation and Terraform would make, and delivers with each of them.
func TestEveryTemplateCreatesTheSame(t *testing.T) {
	for _, tc := range []struct{ region, key string }{
		{"us-west-2", ""},
		{"us-east-1", "arn:aws:kms:us-east-1:222222222222:key/00000000-1111-2222-3333-444444444444"},
	} {
		t.Run(tc.region, func(t *testing.T) {
			o := board(t, tc.region, "--kms-key="+tc.key)
			printed := func(document string) string { return o.print("--as=" + document) }
			out, code := o.script(printed("aws-cli"), o.them)
			if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || lines[len(lines)-1] != o.role() {
				t.Fatalf("exit %d, want the role's ARN last:\n%s", code, out)
			}
			made := madeSetup(t, o.cloud, o.name, o.role())
			want := setup{
				Bucket: o.name, Blocked: [4]bool{true, true, true, true}, Algorithm: cmp.Or(map[bool]string{true: "aws:kms"}[tc.key != ""], "AES256"),
				Key: tc.key, BucketKey: tc.key != "", Versioning: "Enabled", Rule: "unfinished-uploads", RuleStatus: "Enabled", AbortAfter: 7,
				Role: "snapfleet-delivery", Path: "/vendors/", PolicyName: "delivery",
				Trust: compact(t, printed("trust")), Permissions: compact(t, printed("permissions")),
			}
			stack, module := stackSetup(t, printed("cloudformation")), moduleSetup(t, printed("terraform"), tc.region, customer)
			for by, have := range map[string]setup{"the script": made, "CloudFormation": stack, "Terraform": module} {
				if have != want {
					t.Errorf("%s makes\n%+v\nwant\n%+v", by, have, want)
				}
			}
			defer o.work()()
			o.delivers("script")
			for _, s := range []setup{stack, module} {
				o.grant(s.Trust, s.Permissions)
				if at, err := o.deliver(record(t, o.env, "acme"), true); at != whole || err != nil {
					t.Errorf("%q: %v", at, err)
				}
			}

			// Again, and with another account's login: it stops, and changes nothing.
			calls := len(o.cloud.Calls())
			if out, code := o.script(printed("aws-cli"), o.them); code != 1 || !strings.Contains(out, "bucket acme-snapshots exists: nothing was done") {
				t.Errorf("exit %d:\n%s", code, out)
			}
			if out, code := o.script(printed("aws-cli"), o.us); code != 1 || !strings.Contains(out, "these credentials are of account 111111111111, not of 222222222222") {
				t.Errorf("exit %d:\n%s", code, out)
			}
			for _, c := range o.cloud.Calls()[calls:] {
				if c.Operation != "GetCallerIdentity" && c.Operation != "HeadBucket" {
					t.Errorf("a script that stops calls %s", c.Operation)
				}
			}
		})
	}
}

// script runs a printed script as the customer does, with this very program in the place of the AWS CLI.
func (o *onboarding) script(text string, as bucket.User) (out string, code int) {
	o.t.Helper()
	dir := o.t.TempDir()
	self, err := os.Executable()
	if err != nil {
		o.t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "aws")); err != nil {
		o.t.Fatal(err)
	}
	cmd := exec.CommandContext(o.t.Context(), "sh", "-s")
	cmd.Stdin = strings.NewReader(text)
	cmd.Env = append(o.cloud.Environ(as), "PATH="+dir+":"+os.Getenv("PATH"), "HOME=/nonexistent")
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			o.t.Fatal(err)
		}
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// TestPolicyIsPrintedForPeopleAndForPrograms walks through the ways to ask.
func TestPolicyIsPrintedForPeopleAndForPrograms(t *testing.T) {
	key := "arn:aws:kms:us-west-2:222222222222:key/K"
	o := board(t, "us-west-2", "--kms-key="+key)
	headings := []string{"Trust policy of the role\n\n{", "Permission policy of the role\n\n{", "Statement for the policy of the KMS key\n\n{"}
	all := o.print()
	for _, h := range headings {
		if !strings.Contains(all, h) {
			t.Errorf("no %q in:\n%s", h, all)
		}
	}
	var policies map[string]json.RawMessage
	if err := json.Unmarshal([]byte(o.print("--json")), &policies); err != nil || len(policies) != 3 {
		t.Fatalf("three policies: %v, %v", policies, err)
	}
	for name, policy := range policies {
		if text := o.print("--as=" + name); !strings.Contains(all, text) || compact(t, text) != compact(t, string(policy)) {
			t.Errorf("%s is another one:\n%s\n%s", name, text, policy)
		}
	}
	if got := actions(t, string(policies["permissions"])); !slices.Contains(got, "kms:Decrypt") || !slices.Contains(got, "kms:GenerateDataKey") || len(got) != 9 {
		t.Errorf("with the record's key the role may %q", got)
	}

	dir := filepath.Join(t.TempDir(), "acme", "setup")
	names := o.print("--out=" + dir)
	for _, d := range templates.Documents {
		name := filepath.Join(dir, d.File())
		text, err := os.ReadFile(name)
		if err != nil || string(text) != o.print("--as="+string(d)) || !strings.Contains(names, name+"\n") {
			t.Errorf("%s: %v:\n%s", name, err, text)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is for others, too: %v", name, err)
		}
	}
	o.print("--out=" + dir) // the same again is no harm
	env := append(o.env, o.cloud.Environ(o.us)...)
	snapfleet(t, env, "policy", "acme", "--out="+dir, "--bucket=another").want(t, exitUsage, "permissions.json is there already, and says something else", "choose another --out")
	if text, err := os.ReadFile(filepath.Join(dir, "permissions.json")); err != nil || !strings.Contains(string(text), "acme-snapshots") {
		t.Errorf("it was overwritten: %v", err)
	}

	// A flag wins over the record, and the environment over asking STS.
	for flag, want := range map[string]string{
		"--bucket=other-bucket": `"arn:aws:s3:::other-bucket/*"`, "--region=eu-central-1": "",
		"--role-name=other-role": `role/other-role"`, "--customer-account=444444444444": "arn:aws:iam::444444444444:role/vendors/snapfleet-delivery",
		"--account=333333333333": "arn:aws:iam::333333333333:root", "--kms-key=arn:aws:kms:us-west-2:222222222222:key/other": "key/other",
	} {
		r := snapfleet(t, env, "policy", "acme", flag)
		if want == "" { // the record's key is not in that region
			r.want(t, exitUsage, "is not in the bucket's region")
			continue
		}
		if r.want(t, exitOK); !strings.Contains(r.out, want) {
			t.Errorf("%s: no %s in:\n%s", flag, want, r)
		}
	}
	asked := len(o.cloud.Calls())
	snapfleet(t, append(env, "SNAPFLEET_ACCOUNT=555555555555"), "policy", "acme", "--as=trust").want(t, exitOK, "arn:aws:iam::555555555555:root")
	snapfleet(t, env, "policy", "acme", "--as=permissions").want(t, exitOK)
	if n := len(o.cloud.Calls()) - asked; n > 0 {
		t.Errorf("STS is asked %d times for what is known, or not needed", n)
	}
}

func TestPolicyRefusesWhatCannotBeMeant(t *testing.T) {
	o := board(t, "us-west-2")
	login := o.cloud.Environ(o.us)
	stranger := o.us
	stranger.AccessKey = "AKIANOBODY0000000000"
	nobody := []string{"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull}
	deaf := append(o.cloud.Environ(o.us), "AWS_ENDPOINT_URL_STS=https://127.0.0.1:1", "AWS_MAX_ATTEMPTS=1")
	apart := record(t, o.env, "acme")
	apart.Name, apart.Destination.Owner = "apart", "444444444444"
	o.enrol(apart)
	aliased := record(t, o.env, "acme")
	aliased.Name, aliased.Destination.KMSKeyARN = "aliased", "arn:aws:kms:us-west-2:222222222222:alias/mine"
	o.enrol(aliased)
	for _, tc := range []struct {
		name  string
		env   []string
		args  []string
		code  int
		texts []string
	}{
		{"unknown tenant", login, []string{"nobody"}, exitNotFound, []string{"tenant nobody is not registered", "fix:"}},
		{"not a tenant", login, []string{"../x"}, exitUsage, []string{`tenant "../x" is not 1 to 63`}},
		{"no tenant", login, nil, exitUsage, []string{"<tenant>"}},
		{"not a document", login, []string{"acme", "--as=pulumi"}, exitUsage, []string{"--as must be one of"}},
		{"a template as JSON", login, []string{"acme", "--as=terraform", "--json"}, exitUsage, []string{"--json prints policies"}},
		{"files as JSON", login, []string{"acme", "--out=" + t.TempDir(), "--json"}, exitUsage, []string{"--json prints policies"}},
		{"no account and no login", nobody, []string{"acme"}, exitUsage, []string{"our own account is not known", "neither --account nor a login", "fix: give --account (SNAPFLEET_ACCOUNT)"}},
		{"a login that is none", o.cloud.Environ(stranger), []string{"acme"}, exitRejected, []string{"STS answers InvalidClientTokenId", "fix: give --account"}},
		{"STS does not answer", deaf, []string{"acme"}, exitUnreachable, []string{"our own account is not known", "fix: give --account"}},
		{"our account", nobody, []string{"acme", "--account=1111"}, exitUsage, []string{`our account "1111" is not 12 digits`}},
		{"their account", login, []string{"acme", "--customer-account=x"}, exitUsage, []string{"the customer's account"}},
		{"bucket", login, []string{"acme", "--bucket=A'; id #"}, exitRejected, []string{"is not an S3 bucket name", "fix:"}},
		{"region", login, []string{"acme", "--region=us west"}, exitRejected, []string{"is not an AWS region", "fix:"}},
		{"role", login, []string{"acme", "--role-name=a/b"}, exitUsage, []string{`role name "a/b" is not`}},
		{"key", login, []string{"acme", "--kms-key=mine"}, exitRejected, []string{"KMS key ARN", "fix:"}},
		{"no key", login, []string{"acme", "--as=key"}, exitUsage, []string{"key.json of acme cannot be filled in", "fix: give --kms-key"}},
		{"an alias", login, []string{"aliased"}, exitUsage, []string{"is an alias, which no policy can name"}},
		{"bucket and role in two accounts", login, []string{"apart", "--as=cloudformation"}, exitUsage, []string{"is in account 444444444444", "the bucket's own policy"}},
		{"a folder that cannot be", login, []string{"acme", "--out=" + os.DevNull + "/x"}, exitFailed, []string{"not a directory"}},
		{"no NATS", append(slices.Clone(login), "SNAPFLEET_NATS_URL=nats://127.0.0.1:1"), []string{"acme"}, exitUnreachable, []string{"connect to NATS"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := snapfleet(t, append(slices.Clone(o.env), tc.env...), append([]string{"policy"}, tc.args...)...)
			if r.want(t, tc.code, tc.texts...); r.out != "" {
				t.Errorf("something is printed: %s", r.out)
			}
		})
	}
	snapfleet(t, append(slices.Clone(o.env), login...), "policy", "apart").want(t, exitOK, "Trust policy of the role") // the policies are the same
}

// A customer who has neither bucket nor role yet is in the registry without a destination.
func TestPolicyOfATenantWithoutADestination(t *testing.T) {
	t.Parallel()
	bare := contracts.Tenant{Name: "bare", Destination: contracts.Destination{ExternalID: "0123456789abcdefghijkl"}}
	for name, tc := range map[string]struct {
		flags policyCmd
		want  string // in the last document, or in the error
		fails bool
	}{
		"the trust policy needs nothing more":   {policyCmd{As: "trust"}, bare.Destination.ExternalID, false},
		"the permissions need the bucket":       {policyCmd{As: "permissions"}, "give --bucket", true},
		"a template needs bucket and region":    {policyCmd{As: "terraform"}, "give --bucket and --region", true},
		"the key's statement needs the account": {policyCmd{As: "key", KMSKey: "arn:aws:kms:eu-west-1:222222222222:key/K"}, "give --customer-account", true},
		"a template with what flags say":        {policyCmd{As: "aws-cli", Bucket: "bare-snapshots", Region: "eu-west-1"}, "aws iam create-role --role-name snapfleet-delivery --path / ", false},
		"and without a check of the account":    {policyCmd{As: "aws-cli", Bucket: "bare-snapshots", Region: "eu-west-1"}, "export AWS_PAGER=\nif aws s3api head-bucket", false},
		"the key's statement with what they say": {
			policyCmd{As: "key", KMSKey: "arn:aws:kms:eu-west-1:222222222222:key/K", CustomerAccount: customer}, "arn:aws:iam::222222222222:role/snapfleet-delivery", false,
		},
	} {
		tc.flags.Tenant, tc.flags.Account = bare.Name, ourNumber
		texts, err := tc.flags.render(t.Context(), bare)
		var told bytes.Buffer
		if err != nil {
			printError(&told, 1000, err)
		}
		for _, text := range texts {
			told.WriteString(text.body)
		}
		if tc.fails != (err != nil) || !strings.Contains(told.String(), tc.want) || tc.fails && exitCode(t.Context(), err) != exitUsage {
			t.Errorf("%s: %v, no %q in:\n%s", name, err, tc.want, told.String())
		}
	}
	none := policyCmd{Tenant: "bare", Account: ourNumber, As: "trust"}
	if _, err := none.render(t.Context(), contracts.Tenant{Name: "bare"}); err == nil || !strings.Contains(err.Error(), "has no external ID") {
		t.Errorf("without an external ID: %v", err)
	}
}

// The emulator's STS tells whose keys they are, of users and of sessions.
func TestOurAccountIsThatOfTheSession(t *testing.T) {
	o := board(t, "us-west-2")
	o.open(o.print("--as=trust"), o.print("--as=permissions"))
	acme := record(t, o.env, "acme")
	role, name := o.role(), "snapshot-x"
	out, err := sts.NewFromConfig(o.cloud.AWSConfig(o.us)).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &name, ExternalId: &acme.Destination.ExternalID})
	if err != nil {
		t.Fatal(err)
	}
	env := append(o.cloud.Environ(bucket.User{AccessKey: *out.Credentials.AccessKeyId, SecretKey: *out.Credentials.SecretAccessKey}), "AWS_SESSION_TOKEN="+*out.Credentials.SessionToken)
	snapfleet(t, append(o.env, env...), "policy", "acme", "--as=trust").want(t, exitOK, "arn:aws:iam::"+customer+":root")
}
