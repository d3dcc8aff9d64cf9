package uploader

import (
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// direct makes a client follow no redirect. Where a delivery goes is the tenant's record's to say, over TLS and
// within AllowEndpoints, and no answer's: whoever a request is sent on to would be believed, also about what is
// there, and could be inside our own network.
func direct(c aws.HTTPClient) aws.HTTPClient {
	if c == nil {
		c = awshttp.NewBuildableClient()
	}
	var client http.Client
	switch c := c.(type) {
	case *http.Client:
		client = *c
	case *awshttp.BuildableClient: // follows 307 and 308
		client = http.Client{Transport: c.GetTransport(), Timeout: c.GetTimeout()}
	default:
		return c
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}
