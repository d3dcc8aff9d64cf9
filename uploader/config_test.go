package uploader

import (
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Config{
		"":               {},
		"PartBytes":      {PartBytes: 1000},
		"Buffers":        {Buffers: 2},
		"MaxParts":       {MaxParts: 10_001},
		"and 12h":        {SessionDuration: 13 * time.Hour},
		"between 15m":    {SessionDuration: 5 * time.Minute},
		"not between":    {SessionDuration: -time.Hour},
		"RetryMost":      {RetryFirst: time.Hour},
		"AllowEndpoints": {AllowEndpoints: []string{"http://example.com"}},
		"https":          {AllowEndpoints: []string{"example.com"}},
	} {
		err := c.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	if (Config{CheckTimeout: -1}).Validate() == nil {
		t.Error("a check may take less than no time")
	}
	c := Config{}.withDefaults()
	if c.CheckTimeout != 30*time.Second {
		t.Errorf("who asks for a check waits for %s", c.CheckTimeout)
	}
	if memory := c.Buffers * c.PartBytes; memory > 128<<20 {
		t.Errorf("a delivery takes %d bytes of buffers", memory)
	}
	if c.maxVolume() < 3*contracts.DefaultVolumeBytes {
		t.Errorf("a volume of three times the estimate does not fit: %d", c.maxVolume())
	}
}

func TestConfigThatCannotWork(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewFolder(t.TempDir(), Config{Buffers: 1})
}

func TestAllowedEndpoints(t *testing.T) {
	t.Parallel()
	list := []string{"https://s3.example.com", "http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "http://10.0.0.1"}
	for endpoint, want := range map[string]struct{ ok, secure bool }{
		"":                         {true, true},
		"https://s3.example.com":   {true, true},
		"http://127.0.0.1:9000":    {true, false},
		"http://localhost:9000":    {true, false},
		"http://[::1]:9000":        {true, false},
		"http://10.0.0.1":          {}, // listed, but not this machine
		"http://s3.example.com":    {},
		"https://s3.example.com:1": {},
		"https://s3.example.com/":  {},
		"https://S3.example.com":   {},
		"https://169.254.169.254":  {},
		"file:///etc/passwd":       {},
		"::":                       {},
	} {
		secure, err := allowed(endpoint, list)
		if r, rejected := contracts.AsRejection(err); (err == nil) != want.ok || secure != want.secure || err != nil && (!rejected || r.Code != contracts.EndpointNotAllowed) {
			t.Errorf("%q: %t, %v", endpoint, secure, err)
		}
	}
}

// encrypt gives the customer a key, and the role what the page asks for then.
func (c *customer) encrypt(key string) {
	c.t.Helper()
	c.to().KMSKeyARN = key
	c.role.Policy = strings.Replace(c.role.Policy, `"Statement":[`, `"Statement":[{"Effect":"Allow","Action":["kms:GenerateDataKey","kms:Decrypt"],"Resource":"`+key+`"},`, 1)
	if err := server.SetRole(c.role); err != nil {
		c.t.Fatal(err)
	}
}

// A tenant's key is named wherever an object begins; S3 uses it from there.
func TestTenantsKey(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.encrypt("arn:aws:kms:us-east-1:222222222222:key/1234abcd")
	if err := c.uploader().Commit(t.Context(), c.attempt, c.prepare()); err != nil {
		t.Fatal(err)
	}
	c.whole()
	begun := c.calls("CreateMultipartUpload", "PutObject")
	for _, call := range begun {
		if call.Header.Get("X-Amz-Server-Side-Encryption") != "aws:kms" || call.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != c.to().KMSKeyARN {
			t.Errorf("%s of %s does not name the key: %v", call.Operation, call.Key, call.Header)
		}
	}
	if len(begun) != 4 {
		t.Errorf("%d objects were begun", len(begun))
	}
}
