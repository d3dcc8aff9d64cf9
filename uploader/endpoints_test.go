package uploader

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/snapfleet/snapfleet/contracts"
)

// hosts records where requests go, and answers them in place of AWS, which no test may ask.
type hosts struct {
	mu   sync.Mutex
	seen []string
}

func (h *hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.seen, r.URL.Host) {
		h.seen = append(h.seen, r.URL.Host)
	}
	status, body := http.StatusNotFound, "<Error><Code>NoSuchKey</Code></Error>"
	if strings.HasPrefix(r.URL.Host, "sts") {
		status, body = http.StatusOK, "<R><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>S</SecretAccessKey><SessionToken>T</SessionToken><Expiration>"+
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+"</Expiration></Credentials></AssumeRoleResult></R>"
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// A fleet that must use FIPS or dual-stack endpoints says so by AWS's own settings, and they hold for every request and
// link, and not only for STS's.
func TestEndpointVariants(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("[default]\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const elsewhere = "https://s3.example.com"
	for name, tt := range map[string]struct {
		env      map[string]string
		endpoint string
		s3       string
		sts      string
	}{
		"none":       {nil, "", "acme-snapshots.s3.us-east-1.amazonaws.com", "sts.us-east-1.amazonaws.com"},
		"FIPS":       {map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, "", "acme-snapshots.s3-fips.us-east-1.amazonaws.com", "sts-fips.us-east-1.amazonaws.com"},
		"dual-stack": {map[string]string{"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "", "acme-snapshots.s3.dualstack.us-east-1.amazonaws.com", ""},
		"both, in the configuration file": {
			map[string]string{"AWS_CONFIG_FILE": file}, "", "acme-snapshots.s3-fips.dualstack.us-east-1.amazonaws.com", "",
		},
		"the environment before the file": {
			map[string]string{"AWS_CONFIG_FILE": file, "AWS_USE_FIPS_ENDPOINT": "false"}, "", "acme-snapshots.s3.dualstack.us-east-1.amazonaws.com", "",
		},
		"none of an endpoint that a record names": {
			map[string]string{"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, elsewhere, "s3.example.com", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			seen := &hosts{}
			base, err := awsconfig.LoadDefaultConfig(t.Context(), awsconfig.WithRegion("us-east-1"),
				awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("A", "S", "")))
			if err != nil {
				t.Fatal(err)
			}
			base.HTTPClient = &http.Client{Transport: seen}
			a := contracts.Attempt{
				Request: contracts.Request{Version: 1, Tenant: "acme", Job: "j1"}, Number: 1, ID: "1-a",
				Tenant: contracts.Tenant{Version: 1, Name: "acme", Schema: "acme", Destination: contracts.Destination{
					Bucket: "acme-snapshots", Region: "us-east-1", Endpoint: tt.endpoint, RoleARN: "arn:aws:iam::222222222222:role/snapshots", ExternalID: "the-external-id-of-acme",
				}}.WithDefaults(),
			}
			cfg := Config{AllowEndpoints: []string{elsewhere}, TrustCheck: -1}
			u := New(base, cfg)
			if found, err := u.Delivered(t.Context(), a); err != nil || found != nil {
				t.Errorf("%v, %v", found, err)
			}
			_ = SetExpiry(t.Context(), base, a.Tenant.Destination, 30)
			b, err := openReader(t.Context(), base, cfg.withDefaults(), nil, a)
			if err != nil {
				t.Fatal(err)
			}
			files := []contracts.Link{{Name: contracts.ManifestName}}
			if _, err := b.link(t.Context(), files, time.Minute); err != nil || !strings.HasPrefix(files[0].URL, "https://"+tt.s3+"/") {
				t.Errorf("the link is to %.80s, %v", files[0].URL, err)
			}
			for _, host := range seen.seen {
				if strings.HasPrefix(host, "sts") {
					if tt.sts != "" && host != tt.sts {
						t.Errorf("STS is asked at %s, not at %s", host, tt.sts)
					}
				} else if host != tt.s3 {
					t.Errorf("S3 is asked at %s, not at %s", host, tt.s3)
				}
			}
			if len(seen.seen) != 2 {
				t.Errorf("asked at %q", seen.seen)
			}
		})
	}
}

// An STS endpoint of one's own is asked as it is.
func TestEndpointVariantsAreNotOfAnSTSEndpoint(t *testing.T) {
	t.Setenv("AWS_USE_FIPS_ENDPOINT", "true")
	seen := &hosts{}
	base, err := awsconfig.LoadDefaultConfig(t.Context(), awsconfig.WithRegion("us-east-1"), awsconfig.WithBaseEndpoint("https://sts.example.com"),
		awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("A", "S", "")))
	if err != nil {
		t.Fatal(err)
	}
	base.HTTPClient = &http.Client{Transport: seen}
	d := contracts.Destination{Bucket: "acme-snapshots", Region: "us-east-1", RoleARN: "arn:aws:iam::222222222222:role/snapshots", ExternalID: "the-external-id-of-acme"}
	r, err := newRole(t.Context(), base, Config{}.withDefaults(), d, power{"acme/j1/", delivering(d)}, "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Retrieve(t.Context()); err != nil || !slices.Equal(seen.seen, []string{"sts.example.com"}) {
		t.Errorf("%v, asked at %q", err, seen.seen)
	}
}
