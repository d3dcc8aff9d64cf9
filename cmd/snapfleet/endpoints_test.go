package main

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// askedHost records where a request goes, and answers in place of AWS.
type askedHost struct{ host string }

func (a *askedHost) RoundTrip(r *http.Request) (*http.Response, error) {
	a.host = r.URL.Host
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

// The store of the attachments, and a delivery that is verified, are asked at the endpoints that AWS's settings name.
func TestSourceEndpointVariants(t *testing.T) {
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_REGION", "us-east-1")
	for name, tt := range map[string]struct {
		fips, dual, endpoint, host string
	}{
		"none":                     {"false", "false", "", "files.s3.us-east-1.amazonaws.com"},
		"FIPS":                     {"true", "false", "", "files.s3-fips.us-east-1.amazonaws.com"},
		"dual-stack":               {"false", "true", "", "files.s3.dualstack.us-east-1.amazonaws.com"},
		"both":                     {"true", "true", "", "files.s3-fips.dualstack.us-east-1.amazonaws.com"},
		"none of an own endpoint":  {"true", "true", "https://s3.example.com", "s3.example.com"},
		"FIPS of an own endpoint":  {"true", "false", "https://s3.example.com", "s3.example.com"},
		"no FIPS, an own endpoint": {"false", "false", "https://s3.example.com", "s3.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_USE_FIPS_ENDPOINT", tt.fips)
			t.Setenv("AWS_USE_DUALSTACK_ENDPOINT", tt.dual)
			t.Setenv("AWS_ENDPOINT_URL_S3", tt.endpoint)
			cfg, err := loadAWS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			asked := &askedHost{}
			cfg.HTTPClient, cfg.Credentials = &http.Client{Transport: asked}, credentials.NewStaticCredentialsProvider("A", "S", "")
			_, _ = sourceClient(cfg, "").HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("files"), Key: aws.String("k")})
			if asked.host != tt.host {
				t.Errorf("asked at %q, not at %q", asked.host, tt.host)
			}
		})
	}
}
