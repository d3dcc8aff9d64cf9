package uploader

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// endpointVariants are which of AWS's own endpoints are to be used, as the environment or the configuration file say that
// the worker runs with (AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT). They are all that a customer's client takes
// from there. They mean nothing for an endpoint that a tenant's record names.
func endpointVariants(ctx context.Context, base aws.Config) (fips aws.FIPSEndpointState, dual aws.DualStackEndpointState) {
	for _, source := range base.ConfigSources {
		if s, ok := source.(interface {
			GetUseFIPSEndpoint(context.Context) (aws.FIPSEndpointState, bool, error)
		}); ok && fips == aws.FIPSEndpointStateUnset {
			if v, found, err := s.GetUseFIPSEndpoint(ctx); err == nil && found {
				fips = v
			}
		}
		if s, ok := source.(interface {
			GetUseDualStackEndpoint(context.Context) (aws.DualStackEndpointState, bool, error)
		}); ok && dual == aws.DualStackEndpointStateUnset {
			if v, found, err := s.GetUseDualStackEndpoint(ctx); err == nil && found {
				dual = v
			}
		}
	}
	return fips, dual
}
