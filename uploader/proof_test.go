package uploader

import (
	"bytes"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
)

// manifestOf is what is in the bucket as manifest.json: its content and its metadata.
func (c *customer) manifestOf() (body []byte, metadata map[string]string) {
	c.t.Helper()
	key := c.attempt.Prefix() + contracts.ManifestName
	out, err := server.Admin().HeadObject(c.t.Context(), &s3.HeadObjectInput{Bucket: &c.to().Bucket, Key: &key})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.body(contracts.ManifestName), out.Metadata
}

// forge writes a manifest, as a principal does that may write to the customer's bucket.
func (c *customer) forge(body []byte, metadata map[string]string) {
	c.put(c.attempt.Prefix()+contracts.ManifestName, string(body), metadata)
}

func (c *customer) removeObject(name string) {
	c.t.Helper()
	_, err := server.Admin().DeleteObject(c.t.Context(), &s3.DeleteObjectInput{Bucket: &c.to().Bucket, Key: aws.String(c.attempt.Prefix() + name)})
	if err != nil {
		c.t.Fatal(err)
	}
}

// signedAs is metadata with a MAC for that content.
func (c *customer) signedAs(body []byte) map[string]string {
	sum := sha256Of(body)
	return map[string]string{
		metaJob: c.attempt.Prefix(), metaAttempt: c.attempt.ID, metaSHA256: sum,
		metaMAC: c.attempt.FleetKey.ManifestMAC(c.attempt.Tenant.Name, c.attempt.Request.Job, c.attempt.ID, sum, int64(len(body))),
	}
}

// Other writers to a customer's bucket decide nothing: a manifest is believed when this fleet has signed it, and
// every volume that it names is there as it was.
func TestDeliveredBelievesNoStranger(t *testing.T) {
	t.Parallel()
	forged := []byte(`{"version":1,"tenant":"acme","job":"f1","attempt":"x","format":"csv.gz","totals":{"tables":-5,"rows":-9000000000000000000,"bytes":-9223372036854775807,"attachments":-3,"volumes":7}}`)
	tables := func(c *customer) string { return contracts.VolumeName(contracts.Tables, c.attempt.Request.Job, 0) }
	for name, tt := range map[string]struct {
		bend func(c *customer)
		says string
	}{
		"a forged one": {
			func(c *customer) { c.forge(bytes.Replace(forged, []byte("f1"), []byte(c.attempt.Request.Job), 1), nil) }, "no signature of this fleet",
		},
		"a forged one with our metadata": {func(c *customer) {
			_, metadata := c.manifestOf()
			c.forge(forged, metadata)
		}, "no signature of this fleet"},
		"a tampered one of the same size": {func(c *customer) {
			body, metadata := c.manifestOf()
			c.forge(bytes.Replace(body, []byte(`"rows": 3`), []byte(`"rows": 9`), 1), metadata)
		}, "its content was changed"},
		"one of another job": {func(c *customer) {
			body, metadata := c.manifestOf()
			c.attempt.Request.Job = "2027-01-01-000000"
			c.forge(body, metadata)
		}, "no signature of this fleet"},
		"one of another job that says it is of this": {func(c *customer) {
			body, metadata := c.manifestOf()
			was := c.attempt.Request.Job
			c.attempt.Request.Job = "2027-01-01-000000"
			metadata = maps.Clone(metadata)
			metadata[metaJob] = c.attempt.Prefix()
			c.forge(bytes.ReplaceAll(body, []byte(was), []byte(c.attempt.Request.Job)), metadata)
		}, "no signature of this fleet"},
		"one of another fleet": {func(c *customer) { c.attempt.FleetKey = contracts.FleetKey{1} }, "no signature of this fleet"},
		"a worker without key": {func(c *customer) { c.attempt.FleetKey = contracts.FleetKey{} }, "no fleet key"},
		"one without signature": {func(c *customer) {
			body, _ := c.manifestOf()
			c.forge(body, map[string]string{metaJob: c.attempt.Prefix(), metaAttempt: c.attempt.ID})
		}, "no signature of this fleet"},
		"one that is signed and has negative totals": {func(c *customer) {
			body := bytes.Replace(forged, []byte("f1"), []byte(c.attempt.Request.Job), 1)
			c.forge(body, c.signedAs(body))
		}, "a total is negative"},
		"one that is signed and no JSON": {func(c *customer) { c.forge([]byte("{"), c.signedAs([]byte("{"))) }, "EOF"},
		"a volume is gone":               {func(c *customer) { c.removeObject(tables(c)) }, "is not there"},
		"a volume of another size": {func(c *customer) {
			c.put(c.attempt.Prefix()+tables(c), "short", map[string]string{metaJob: c.attempt.Prefix(), metaAttempt: c.attempt.ID})
		}, "has 5 bytes, and had"},
		"a volume with other bytes": {func(c *customer) {
			body := c.body(tables(c))
			body[len(body)/2] ^= 1
			c.put(c.attempt.Prefix()+tables(c), string(body), map[string]string{metaJob: c.attempt.Prefix(), metaAttempt: c.attempt.ID})
		}, "has another checksum"},
		"a volume that was copied without its metadata": {func(c *customer) { c.put(c.attempt.Prefix()+tables(c), string(c.body(tables(c))), nil) }, "is not of attempt"},
		"a snapshot older than the request":             {func(c *customer) { c.attempt.Request.RequestedAt = time.Now().Add(time.Hour) }, "its snapshot is of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			c.delivered()
			tt.bend(c)
			found, err := c.uploader().Delivered(t.Context(), c.attempt)
			r, ok := contracts.AsRejection(err)
			if found != nil || !ok || r.Code != contracts.DestinationTaken || !strings.Contains(r.Err.Error(), tt.says) {
				t.Errorf("%v, %v", found, err)
			}
			before := len(c.calls("CreateMultipartUpload"))
			if _, err := c.uploader().Begin(t.Context(), c.attempt, &journal{}); err == nil {
				t.Error("a delivery is begun over it")
			}
			if n := len(c.calls("CreateMultipartUpload")) - before; n > 1 {
				t.Errorf("%d uploads, one of them the probe's", n)
			}
		})
	}
}

// A request that is repeated finds its delivery, whatever the clocks of its publisher and of the database say.
func TestDeliveredOfTheSameRequest(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.attempt.Request.RequestedAt = time.Now().Add(24 * time.Hour).UTC().Truncate(time.Millisecond)
	sum := c.delivered()
	if found, err := c.uploader().Delivered(t.Context(), c.attempt); err != nil || found == nil || found.SHA256 != sum || len(found.Manifest.Volumes) != 2 {
		t.Errorf("%v, %v", found, err)
	}
	c.attempt.Request.RequestedAt = time.Time{} // an earlier request, which this snapshot answers as well
	if found, err := c.uploader().Delivered(t.Context(), c.attempt); err == nil && found != nil {
		return
	}
	t.Error("a snapshot that is newer than the request is not believed")
}

// A manifest of any content costs a worker nothing that grows with it. 32 MiB of "{}," were 2 GB.
func TestAStrangersManifestIsNotRead(t *testing.T) {
	c := newCustomer(t)
	var evil bytes.Buffer
	fmt.Fprintf(&evil, `{"version":1,"tenant":"acme","job":%q,"attempts":"1-a","format":"csv.gz","attachments":[`, c.attempt.Request.Job)
	for evil.Len() < 32*mib {
		evil.WriteString("{},{},{},{},{},{},{},{},")
	}
	evil.WriteString("{}]}")
	for name, metadata := range map[string]map[string]string{
		"a stranger's": nil, "with our names": {metaJob: c.attempt.Prefix(), metaAttempt: c.attempt.ID},
		"as if we had signed it": c.signedAs(evil.Bytes()), // we never do; the worst case of what we read
	} {
		t.Run(name, func(t *testing.T) {
			c.forge(evil.Bytes(), metadata)
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			found, err := c.uploader().Delivered(t.Context(), c.attempt)
			runtime.ReadMemStats(&after)
			if r, ok := contracts.AsRejection(err); found != nil || !ok || r.Code != contracts.DestinationTaken {
				t.Errorf("%v, %v", found, err)
			}
			// What was allocated in all, the collected part included, of which a stranger's share is nothing.
			if n := after.TotalAlloc - before.TotalAlloc; metadata[metaMAC] == "" && n > 16*mib {
				t.Errorf("%d bytes were allocated", n)
			}
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64*mib {
				t.Errorf("the heap has grown by %d bytes", grown)
			}
		})
	}
}
