package uploader

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/snapfleet/snapfleet/contracts"
)

// Identity asks STS who the worker is, with the worker's own credentials. It needs no right. The error is a
// [contracts.WorkerFault] when the worker has no valid identity. Any other error says nothing about the identity: STS did
// not answer, or is busy. It sends one request; ctx bounds it.
func (u *Uploader) Identity(ctx context.Context) (arn string, err error) {
	if u.identity == nil {
		return "", nil
	}
	return u.identity(ctx)
}

// callerIdentity is Identity with these settings.
func callerIdentity(ctx context.Context, base aws.Config) (string, error) {
	if err := ownCredentials(ctx, base.Credentials); err != nil {
		return "", err
	}
	if base.Region == "" {
		base.Region = "us-east-1" // every identity is known there
	}
	client := sts.NewFromConfig(base, func(o *sts.Options) { o.Retryer = aws.NopRetryer{} })
	out, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if fault := identityFault(err); fault != nil {
		return "", fault
	}
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Arn), nil
}

// ownCredentials makes sure that the worker has credentials of its own: without this, their absence looks like a store
// that does not answer. They are cached, so this costs nothing but when they are refreshed.
func ownCredentials(ctx context.Context, base aws.CredentialsProvider) error {
	if base == nil {
		return contracts.Fault(contracts.FaultIdentity, "", "there are no AWS credentials")
	}
	if aws.IsCredentialsProvider(base, aws.AnonymousCredentials{}) {
		return contracts.Fault(contracts.FaultIdentity, "", "there are no AWS credentials")
	}
	_, err := base.Retrieve(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return contracts.Fault(contracts.FaultIdentity, "", "the AWS credentials cannot be had: %w", err)
}

// callerRefused are STS's codes for credentials of the caller that it does not take.
var callerRefused = []string{
	"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidClientTokenId", "InvalidAccessKeyId",
	"UnrecognizedClientException", "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken",
	"MissingAuthenticationTokenException", "InvalidToken", "OptInRequired", "RegionDisabledException",
}

// identityFault is the worker's fault within an answer of STS, or nil. A clock that is wrong is none: the SDK corrects it.
func identityFault(err error) error {
	code, message := errorCode(err), errorMessage(err)
	switch {
	case err == nil, skewed(err):
		return nil
	case slices.Contains(callerRefused, code):
		return contracts.Fault(contracts.FaultIdentity, "", "STS refuses the worker's credentials: %w", refused(err))
	case code == "AccessDenied" && (strings.Contains(message, "identity-based policy") || strings.Contains(message, "permissions boundary")):
		// The one refusal of which STS says that it is not the role's.
		return contracts.Fault(contracts.FaultIdentity, "", "no policy of the worker's identity allows sts:AssumeRole: %w", refused(err))
	case untrusted(err):
		return contracts.Fault(contracts.FaultIdentity, "", "the certificate of STS is not trusted: %w", innermost(err))
	}
	return nil
}

// untrusted reports whether TLS failed because this side does not accept the certificate.
func untrusted(err error) bool {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return verification || unknown || host || invalid
}

// innermost is the cause of err without the words around it, which name addresses.
func innermost(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}
