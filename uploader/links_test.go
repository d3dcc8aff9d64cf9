package uploader

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.opentelemetry.io/otel"

	"github.com/snapfleet/snapfleet/contracts"
)

// newHouse is a customer's bucket and role that are the house's own.
func newHouse(t *testing.T, by contracts.ExpiresBy) *customer {
	t.Helper()
	c := newCustomer(t)
	c.to().Keep = contracts.Keep{Days: 30, By: by}
	return c
}

// delivered delivers, and returns the digest of the manifest.
func (c *customer) delivered() (manifestSHA256 string) {
	c.t.Helper()
	if err := c.uploader().Commit(c.t.Context(), c.attempt, c.prepareSmall()); err != nil {
		c.t.Fatal(err)
	}
	sum := sha256.Sum256(c.body(contracts.ManifestName))
	return hex.EncodeToString(sum[:])
}

func (c *customer) body(name string) []byte {
	c.t.Helper()
	out, err := server.Admin().GetObject(c.t.Context(), &s3.GetObjectInput{Bucket: &c.to().Bucket, Key: aws.String(c.attempt.Prefix() + name)})
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

func follow(t *testing.T, link string) (status int, body []byte) {
	t.Helper()
	resp, err := server.HTTPClient().Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func TestLinksAreToTheFilesOfADelivery(t *testing.T) {
	t.Parallel()
	c := newHouse(t, contracts.ByLifecycle)
	sum := c.delivered()
	ctx, root := otel.Tracer("test").Start(t.Context(), "ask")
	links, err := c.uploader().Links(ctx, c.attempt, sum, 10*time.Minute, 0)
	root.End()
	if err != nil {
		t.Fatal(err)
	}
	if len(links.Files) != 3 || links.Files[0].Name != contracts.ManifestName || links.More || links.Tenant != "acme" || links.ManifestSHA256 != sum {
		t.Fatalf("links %+v", links)
	}
	for _, f := range links.Files {
		if status, body := follow(t, f.URL); status != http.StatusOK || !bytes.Equal(body, c.body(f.Name)) || int64(len(body)) != f.Size {
			t.Errorf("%s: status %d, %d bytes of %d", f.Name, status, len(body), f.Size)
		}
		u, err := url.Parse(f.URL)
		if err != nil || u.Query().Get("X-Amz-Expires") != "600" || u.Query().Get("X-Amz-SignedHeaders") != "host" {
			t.Errorf("%s: it is good for %s s, and whoever follows it has to send %s", f.Name, u.Query().Get("X-Amz-Expires"), u.Query().Get("X-Amz-SignedHeaders"))
		}
	}
	for _, call := range c.calls("GetObject", "ListObjectsV2") {
		if call.Principal != "root" && !strings.Contains(call.Principal, "assumed-role") {
			t.Errorf("%s as %q", call.Operation, call.Principal)
		}
	}
	// What is told about it has no link.
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() == root.SpanContext().TraceID() {
			if said := fmt.Sprint(s.Name(), s.Attributes(), s.Events(), s.Status()); strings.Contains(said, "X-Amz-") || strings.Contains(said, "://") {
				t.Errorf("a span tells a link: %s", said)
			}
		}
	}
	rest, err := c.uploader().Links(t.Context(), c.attempt, sum, time.Minute, 2)
	if err != nil || len(rest.Files) != 1 || rest.Files[0].Name != links.Files[2].Name {
		t.Errorf("without the first two: %+v, %v", rest, err)
	}
	if none, err := c.uploader().Links(t.Context(), c.attempt, sum, time.Minute, 99); err != nil || len(none.Files) != 0 || none.More {
		t.Errorf("without the first 99: %+v, %v", none, err)
	}
}

func TestLinksEnd(t *testing.T) {
	t.Parallel()
	c := newHouse(t, contracts.ByLifecycle)
	sum := c.delivered()
	links, err := c.uploader().Links(t.Context(), c.attempt, sum, 2*time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a link of two seconds has ended", func() bool {
		status, _ := follow(t, links.Files[0].URL)
		return status == http.StatusForbidden
	})
	if late := time.Since(links.ValidUntil); late < -time.Second {
		t.Errorf("it ended %v too early", -late)
	}
	c.cfg.SessionDuration = 15 * time.Minute
	began := time.Now()
	links, err = c.uploader().Links(t.Context(), c.attempt, sum, time.Hour, 0)
	if left := links.ValidUntil.Sub(began); err != nil || left > 15*time.Minute+time.Second || left < 14*time.Minute {
		t.Errorf("of a session of 15 minutes, links are good for %v, %v", left, err)
	}
}

func TestPoliciesOfTheHouseOfTheLongestNames(t *testing.T) {
	t.Parallel()
	d := contracts.Destination{
		Bucket: strings.Repeat("b", 63), RoleARN: "arn:aws-us-gov:iam::123456789012:role/x", Keep: contracts.Keep{Days: 3650, By: contracts.ByTag},
		KMSKeyARN: "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-" + strings.Repeat("0", 32),
	}
	folder := contracts.JobPrefix(strings.Repeat("t", 63), strings.Repeat("j", 64))
	for what, allow := range map[string]rights{"a delivery": delivering(d), "links": linking} {
		if p, err := policyOf(d, folder, allow); err != nil || len(p) > 1600 {
			t.Errorf("%s: %d characters, %v", what, len(p), err)
		}
	}
}

// The session that signs links may read one folder, and do nothing else, whatever the role may do.
func TestASessionForLinksReadsOneFolder(t *testing.T) {
	t.Parallel()
	c := newHouse(t, contracts.ByTag)
	c.role.Policy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	c.put("other/2026-03-31-143022/manifest.json", "theirs", nil)
	c.put("acme/2026-03-31-1430221/manifest.json", "of a job whose id begins alike", nil)
	c.put(c.attempt.Prefix()+"manifest.json", "ours", nil)
	b, err := openReader(t.Context(), server.AWSConfig(c.worker), c.cfg.withDefaults(), nil, c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string) error {
		_, err := b.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: b.name(), Key: &key})
		return err
	}
	if err := get(c.attempt.Prefix() + "manifest.json"); err != nil {
		t.Error(err)
	}
	list := func(prefix string) error {
		_, err := b.client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: b.name(), Prefix: &prefix})
		return err
	}
	_, put := b.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: b.name(), Key: b.key("x"), Body: strings.NewReader("x")})
	_, remove := b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: b.name(), Key: b.key("manifest.json")})
	_, begin := b.client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: b.name(), Key: b.key("x")})
	for what, err := range map[string]error{
		"read another tenant's": get("other/2026-03-31-143022/manifest.json"), "read another job's": get("acme/2026-03-31-1430221/manifest.json"),
		"list another tenant's": list("other/"), "list all": list(""), "write": put, "delete": remove, "begin an upload": begin,
	} {
		if errorCode(err) != "AccessDenied" {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The session of a delivery may write, but not into another tenant's folder.
	s, err := c.uploader().open(t.Context(), c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	w := s.(*bucket).client
	for _, key := range []string{"other/2026-03-31-143022/manifest.json", "acme/2026-03-31-1430221/x"} {
		if _, err := w.PutObject(t.Context(), &s3.PutObjectInput{Bucket: b.name(), Key: &key, Body: strings.NewReader("x")}); errorCode(err) != "AccessDenied" {
			t.Errorf("write %s: %v", key, err)
		}
		if _, err := w.GetObject(t.Context(), &s3.GetObjectInput{Bucket: b.name(), Key: &key}); errorCode(err) != "AccessDenied" {
			t.Errorf("read %s: %v", key, err)
		}
	}
}

func TestNoLinksToWhatWasNotDelivered(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]struct {
		hurt func(c *customer)
		code contracts.Code
	}{
		"a customer's bucket":          {func(c *customer) { c.to().Keep = contracts.Keep{} }, contracts.NotInHouse},
		"no bucket":                    {func(c *customer) { *c.to() = contracts.Destination{ExternalID: c.to().ExternalID, Keep: c.to().Keep} }, contracts.InvalidTenant},
		"no job's name":                {func(c *customer) { c.attempt.Request.Job = "../other" }, contracts.InvalidRequest},
		"another job":                  {func(c *customer) { c.attempt.Request.Job = "other" }, contracts.DeliveryExpired},
		"another tenant":               {func(c *customer) { c.attempt.Tenant.Name = "other" }, contracts.DeliveryExpired},
		"an endpoint of nobody's":      {func(c *customer) { c.to().Endpoint = "https://s3.example.com" }, contracts.EndpointNotAllowed},
		"a manifest that was changed":  {func(c *customer) { c.put(c.attempt.Prefix()+"manifest.json", string(c.body("manifest.json"))+" ", nil) }, contracts.DeliveryChanged},
		"a manifest that is gone":      {func(c *customer) { c.delete("manifest.json") }, contracts.DeliveryExpired},
		"a volume that is gone":        {func(c *customer) { c.delete("snapshot_tables_2026-03-31-143022.tar") }, contracts.DeliveryExpired},
		"a volume that is shorter now": {func(c *customer) { c.put(c.attempt.Prefix()+"snapshot_tables_2026-03-31-143022.tar", "x", nil) }, contracts.DeliveryChanged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newHouse(t, contracts.ByLifecycle)
			sum := c.delivered()
			w.hurt(c)
			links, err := c.uploader().Links(t.Context(), c.attempt, sum, time.Minute, 0)
			if r, ok := contracts.AsRejection(err); !ok || r.Code != w.code || len(links.Files) > 0 {
				t.Errorf("%v, %v, want %s", links, err, w.code)
			}
		})
	}
	if _, err := NewFolder(t.TempDir(), quick).Links(t.Context(), contracts.Attempt{}, "", time.Minute, 0); err == nil {
		t.Error("links to a folder")
	}
}

func (c *customer) delete(name string) {
	c.t.Helper()
	if _, err := server.Admin().DeleteObject(c.t.Context(), &s3.DeleteObjectInput{Bucket: &c.to().Bucket, Key: aws.String(c.attempt.Prefix() + name)}); err != nil {
		c.t.Fatal(err)
	}
}

// A tag needs a right of its own, and that it is missing is found out before anything is delivered.
func TestATaggedDeliveryNeedsTheRightToTag(t *testing.T) {
	t.Parallel()
	c := newHouse(t, contracts.ByTag)
	_, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.WriteDenied {
		t.Fatalf("without the right: %v", err)
	}
	c.role.Policy = strings.Replace(c.role.Policy, `"s3:PutObject"`, `"s3:PutObject","s3:PutObjectTagging"`, 1)
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	sum := c.delivered()
	want := map[string]bool{c.to().Keep.Expires(time.Now()).Format(time.DateOnly): true, c.to().Keep.Expires(time.Now().Add(-time.Minute)).Format(time.DateOnly): true}
	for _, key := range c.keys() {
		out, err := server.Admin().GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &c.to().Bucket, Key: &key})
		if err != nil || len(out.TagSet) != 1 || *out.TagSet[0].Key != "snapfleet-expires" || !want[*out.TagSet[0].Value] {
			t.Errorf("%s has the tags %+v, %v", key, out, err)
		}
	}
	// The tag's day stands, also when the house keeps deliveries for longer by now.
	c.to().Keep.Days = 90
	links, err := c.uploader().Links(t.Context(), c.attempt, sum, time.Minute, 0)
	if err != nil || !want[links.Expires.Format(time.DateOnly)] || links.ExpiresBy != contracts.ByTag {
		t.Errorf("the delivery expires %v by %s, %v", links.Expires, links.ExpiresBy, err)
	}
}

func TestADeliveryWithoutADestination(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	*c.to() = contracts.Destination{ExternalID: c.to().ExternalID}
	_, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.NoDestination {
		t.Errorf("%v", err)
	}
	if errors.Is(err, ErrDelivered) {
		t.Error("it is called delivered")
	}
}
