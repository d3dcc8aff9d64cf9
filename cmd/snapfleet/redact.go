package main

import "regexp"

var (
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'"` + "`" + `]*@`)
	// keyword matches password=... of a libpq connection string and of a URL's query.
	keyword = regexp.MustCompile(`(?i)\b((?:ssl)?password|passfile|secret|token)=('(?:[^'\\]|\\.)*'|[^\s&` + "`" + `]+)`)
	// presigned matches what makes a link to S3 a key to it.
	presigned = regexp.MustCompile(`(?i)\b(x-amz-[a-z-]+)=[^\s&'"` + "`" + `]+`)
	signing   = regexp.MustCompile(`\bwhsec_[A-Za-z0-9+/=_-]+`) // a webhook's secret
	postgre   = regexp.MustCompile(`(?i)\bpostgres(?:ql)?://[^\s'"` + "`" + `]+`)
)

// redact takes connection strings and links to S3 out of a text that a person or a log collector will read. It is the
// second line: no error is meant to hold one in the first place.
func redact(s string) string {
	s = postgre.ReplaceAllString(s, "postgres://***")
	s = presigned.ReplaceAllString(s, "${1}=***")
	s = signing.ReplaceAllString(s, "whsec_***")
	s = userinfo.ReplaceAllString(s, "${1}***@")
	return keyword.ReplaceAllString(s, "${1}=***")
}
