package bucket

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// authenticate verifies Signature Version 4 of a request to STS or IAM, as the S3 gateway does on its side.
func (r *registry) authenticate(q *http.Request, body []byte, api queryAPI, now time.Time) (principal, error) {
	fields := authorization(q.Header.Get("Authorization"))
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 {
		return principal{}, stsError{"MissingAuthenticationToken", "Request is missing Authentication Token", http.StatusForbidden}
	}
	access, date, region := scope[0], scope[1], scope[2]
	if !slices.Contains(api.regions, region) || scope[3] != api.name || scope[4] != "aws4_request" {
		return principal{}, stsError{"SignatureDoesNotMatch", "Credential should be scoped to a valid region and service, not '" + scope[2] + "/" + scope[3] + "'.", http.StatusForbidden}
	}
	at, err := time.Parse(amzDate, q.Header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != date {
		return principal{}, stsError{"IncompleteSignature", "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP", http.StatusBadRequest}
	}
	if now.Sub(at).Abs() > maxSkew {
		return principal{}, stsError{"SignatureDoesNotMatch", "Signature expired or not yet current: " + q.Header.Get("X-Amz-Date"), http.StatusForbidden}
	}
	secret, err := r.secret(access, q.Header.Get("X-Amz-Security-Token"))
	switch {
	case errors.Is(err, errExpiredToken):
		return principal{}, stsError{"ExpiredToken", "The security token included in the request is expired", http.StatusForbidden}
	case err != nil:
		return principal{}, stsError{"InvalidClientTokenId", "The security token included in the request is invalid.", http.StatusForbidden}
	}
	signed := strings.Split(fields["SignedHeaders"], ";")
	if !slices.IsSorted(signed) || !slices.Contains(signed, "host") || !slices.Contains(signed, "x-amz-date") {
		return principal{}, stsError{"IncompleteSignature", "host and x-amz-date must be signed headers", http.StatusBadRequest}
	}
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", q.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), canonical(q, body, signed)}, "\n")
	want := hex.EncodeToString(mac(signingKey(secret, date, region, api.name), toSign))
	if !hmac.Equal([]byte(want), []byte(fields["Signature"])) {
		return principal{}, stsError{"SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.", http.StatusForbidden}
	}
	p, ok := r.principal(access)
	if !ok {
		return principal{}, stsError{"InvalidClientTokenId", "The security token included in the request is invalid.", http.StatusForbidden}
	}
	return p, nil
}

// authorization takes the header apart: Credential, SignedHeaders, Signature.
func authorization(header string) map[string]string {
	fields := map[string]string{}
	list, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	if !ok {
		return fields
	}
	for f := range strings.SplitSeq(list, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		fields[k] = v
	}
	return fields
}

// accessKey is who an S3 request says it is, in its header or in a presigned URL.
func accessKey(authHeader, credentialQuery string) string {
	credential := authorization(authHeader)["Credential"]
	if credential == "" {
		credential = credentialQuery
	}
	access, _, _ := strings.Cut(credential, "/")
	return access
}

// canonical is the digest of the canonical request.
func canonical(q *http.Request, body []byte, signed []string) string {
	var headers strings.Builder
	for _, h := range signed {
		value := strings.Join(q.Header.Values(h), ",")
		switch h {
		case "host":
			value = q.Host
		case "content-length":
			value = strconv.FormatInt(q.ContentLength, 10)
		}
		headers.WriteString(h + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	payload := sha256.Sum256(body)
	sum := sha256.Sum256([]byte(strings.Join([]string{
		q.Method, "/", q.URL.RawQuery, headers.String(), strings.Join(signed, ";"), hex.EncodeToString(payload[:]),
	}, "\n")))
	return hex.EncodeToString(sum[:])
}
