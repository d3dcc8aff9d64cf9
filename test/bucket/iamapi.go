package bucket

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/versity/versitygw/iamapi/policy"
)

const iamNamespace = "https://iam.amazonaws.com/doc/2010-05-08/"

// serveIAM answers the calls by which a customer sets up a role. IAM is one for all regions, and signed as us-east-1; but
// the aws command, told of another endpoint than AWS's, signs by its own region.
func (s *Server) serveIAM(clock func() time.Time) http.HandlerFunc {
	return s.serveQuery(queryAPI{"iam", []string{"us-east-1", s.region}, iamNamespace, "2010-05-08", s.answerIAM}, clock)
}

// roleCalls are the calls there are, with the fields that each takes.
var roleCalls = map[string]struct {
	fields []string
	do     func(*Server, roleCall) (any, error)
}{
	"CreateRole":             {[]string{"RoleName", "Path", "AssumeRolePolicyDocument", "Description", "MaxSessionDuration"}, (*Server).createRole},
	"GetRole":                {[]string{"RoleName"}, (*Server).getRole},
	"PutRolePolicy":          {[]string{"RoleName", "PolicyName", "PolicyDocument"}, (*Server).putRolePolicy},
	"UpdateAssumeRolePolicy": {[]string{"RoleName", "PolicyDocument"}, (*Server).updateTrust},
}

// roleCall is one of them, on its way.
type roleCall struct {
	form    url.Values
	account string
	role    Role // as it is; of CreateRole: as it will be
}

var (
	iamName = regexp.MustCompile(`^[\w+=,.@-]{1,128}$`)
	iamPath = regexp.MustCompile(`^/([\x21-\x7e]{1,510}/)?$`)
)

// answerIAM checks the form, then the right, then whether the role is there.
func (s *Server) answerIAM(p principal, form url.Values, _ time.Time) (any, error) {
	action, name := form.Get("Action"), form.Get("RoleName")
	known, ok := roleCalls[action]
	if !ok {
		return nil, unknownAction(form)
	}
	if err := only(form, known.fields...); err != nil {
		return nil, err
	}
	if !iamName.MatchString(name) || len(name) > 64 {
		return nil, invalid("roleName", name, `satisfy regular expression pattern: [\w+=,.@-]{1,64}`)
	}
	call := roleCall{form: form, account: account(p.arn)}
	role, exists := s.iam.named(call.account, name)
	if !exists {
		path := form.Get("Path")
		if path == "" {
			path = "/"
		}
		if !iamPath.MatchString(path) {
			return nil, invalid("path", path, "begin and end with / and contain only ASCII characters")
		}
		role.ARN = "arn:aws:iam::" + call.account + ":role" + path + name
	}
	call.role = role
	if !s.iam.allows(p, "iam:"+action, role.ARN, nil) {
		return nil, stsError{"AccessDenied", fmt.Sprintf("User: %s is not authorized to perform: iam:%s on resource: %s", p.arn, action, role.ARN), http.StatusForbidden}
	}
	switch {
	case exists && action == "CreateRole":
		return nil, stsError{"EntityAlreadyExists", fmt.Sprintf("Role with name %s already exists.", name), http.StatusConflict}
	case !exists && action != "CreateRole":
		return nil, stsError{"NoSuchEntity", fmt.Sprintf("The role with name %s cannot be found.", name), http.StatusNotFound}
	}
	return known.do(s, call)
}

// named finds a role by its name, which an account has once, whatever its path.
func (r *registry) named(account, name string) (Role, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for arn, role := range r.roles {
		if rest, ok := strings.CutPrefix(arn, "arn:aws:iam::"+account+":role/"); ok && rest[strings.LastIndex(rest, "/")+1:] == name {
			return role, true
		}
	}
	return Role{}, false
}

func (s *Server) createRole(c roleCall) (any, error) {
	if v := c.form.Get("MaxSessionDuration"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 3600 || n > 43200 {
			return nil, invalid("maxSessionDuration", v, "have value between 3600 and 43200")
		}
		c.role.MaxSession = time.Duration(n) * time.Second
	}
	var err error
	if c.role.Trust, err = s.trustOf(c.form.Get("AssumeRolePolicyDocument")); err != nil {
		return nil, err
	}
	if err := s.SetRole(c.role); err != nil {
		return nil, malformed(err)
	}
	return describe("CreateRole", c.role), nil
}

func (s *Server) updateTrust(c roleCall) (any, error) {
	var err error
	if c.role.Trust, err = s.trustOf(c.form.Get("PolicyDocument")); err != nil {
		return nil, err
	}
	if err := s.SetRole(c.role); err != nil {
		return nil, malformed(err)
	}
	return empty("UpdateAssumeRolePolicy"), nil
}

// trustOf accepts a trust policy: with a grammar, a length and principals that AWS would take.
func (s *Server) trustOf(doc string) (string, error) {
	if err := policy.Validate("policyDocument", doc); err != nil {
		return "", malformed(err)
	}
	if err := policy.ParseTrust(doc); err != nil {
		return "", malformed(err)
	}
	if len(strings.Join(strings.Fields(doc), "")) > policy.MaxTrustPolicyBytes { // white space does not count
		return "", stsError{"LimitExceeded", fmt.Sprintf("Cannot exceed quota for ACLSizePerRole: %d", policy.MaxTrustPolicyBytes), http.StatusConflict}
	}
	var names []string
	for _, m := range principalARN.FindAllStringSubmatch(doc, -1) {
		names = append(names, m[1])
	}
	if strangers, err := s.iam.ResolvePrincipals(names); err != nil || len(strangers) > 0 {
		return "", stsError{"MalformedPolicyDocument", fmt.Sprintf("Invalid principal in policy: \"AWS\":%q", strangers), http.StatusBadRequest}
	}
	return doc, nil
}

// principalARN finds who a trust policy names. Nothing else in one begins so.
var principalARN = regexp.MustCompile(`"(arn:aws:iam::[^"]*)"`)

// maxRolePolicies is IAM's bound for a role's inline policies together, in characters without white space.
const maxRolePolicies = 10240

func (s *Server) putRolePolicy(c roleCall) (any, error) {
	name, doc := c.form.Get("PolicyName"), c.form.Get("PolicyDocument")
	switch {
	case !iamName.MatchString(name):
		return nil, invalid("policyName", name, `satisfy regular expression pattern: [\w+=,.@-]{1,128}`)
	case c.role.PolicyName != "" && c.role.PolicyName != name, c.role.PolicyName == "" && c.role.Policy != "":
		return nil, stsError{"LimitExceeded", "This double keeps one inline policy for each role.", http.StatusConflict}
	case len(strings.Join(strings.Fields(doc), "")) > maxRolePolicies:
		return nil, stsError{"LimitExceeded", fmt.Sprintf("Maximum policy size of %d bytes exceeded for role", maxRolePolicies), http.StatusConflict}
	}
	if err := policy.Validate("policyDocument", doc); err != nil {
		return nil, malformed(err)
	}
	c.role.PolicyName, c.role.Policy = name, doc
	if err := s.SetRole(c.role); err != nil {
		return nil, malformed(err)
	}
	return empty("PutRolePolicy"), nil
}

func (s *Server) getRole(c roleCall) (any, error) { return describe("GetRole", c.role), nil }

func malformed(err error) error {
	return stsError{"MalformedPolicyDocument", err.Error(), http.StatusBadRequest}
}

// roleAnswer is what CreateRole and GetRole tell.
type roleAnswer struct {
	XMLName   xml.Name
	Namespace string `xml:"xmlns,attr"`
	Result    struct {
		XMLName    xml.Name
		ARN        string `xml:"Role>Arn"`
		Path       string `xml:"Role>Path"`
		Name       string `xml:"Role>RoleName"`
		ID         string `xml:"Role>RoleId"`
		Created    string `xml:"Role>CreateDate"`
		Trust      string `xml:"Role>AssumeRolePolicyDocument"`
		MaxSession int    `xml:"Role>MaxSessionDuration"`
	}
	RequestID string `xml:"ResponseMetadata>RequestId"`
}

func describe(action string, r Role) any {
	path := r.ARN[strings.Index(r.ARN, ":role/")+len(":role"):]
	cut := strings.LastIndex(path, "/") + 1
	a := roleAnswer{XMLName: xml.Name{Local: action + "Response"}, Namespace: iamNamespace, RequestID: requestID}
	a.Result.XMLName.Local = action + "Result"
	a.Result.ARN, a.Result.Path, a.Result.Name, a.Result.ID = r.ARN, path[:cut], path[cut:], "AROA"+account(r.ARN)
	a.Result.Created = time.Now().UTC().Format(time.RFC3339)
	a.Result.Trust = strings.ReplaceAll(url.QueryEscape(r.Trust), "+", "%20") // RFC 3986
	a.Result.MaxSession = int(max(r.MaxSession, time.Hour) / time.Second)
	return a
}

// empty is the answer of a call that tells nothing.
func empty(action string) any {
	type answer struct {
		XMLName   xml.Name
		Namespace string `xml:"xmlns,attr"`
		RequestID string `xml:"ResponseMetadata>RequestId"`
	}
	return answer{XMLName: xml.Name{Local: action + "Response"}, Namespace: iamNamespace, RequestID: requestID}
}
