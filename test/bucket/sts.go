package bucket

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/versity/versitygw/iamapi/policy"
)

const stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

type stsError struct {
	code, message string
	status        int
}

func (e stsError) Error() string { return e.code + ": " + e.message }

// queryAPI is a service of AWS that takes its calls as forms.
type queryAPI struct {
	name      string   // as signatures name it
	regions   []string // that a signature may name
	namespace string
	version   string
	answer    func(p principal, form url.Values, now time.Time) (any, error)
}

// serveSTS answers STS, AssumeRole and GetCallerIdentity, at the time that clock tells.
func (s *Server) serveSTS(clock func() time.Time) http.HandlerFunc {
	return s.serveQuery(queryAPI{"sts", []string{s.region}, stsNamespace, "2011-06-15", s.answerSTS}, clock)
}

func (s *Server) serveQuery(api queryAPI, clock func() time.Time) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		now := clock()
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		s.respondQuery(api, w, q, now)
	}
}

func (s *Server) respondQuery(api queryAPI, w http.ResponseWriter, q *http.Request, now time.Time) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 1<<20))
	if err != nil {
		http.Error(w, "body too large", http.StatusRequestEntityTooLarge)
		return
	}
	form, _ := url.ParseQuery(string(body)) // a broken form has no Action, and is refused for that
	call := Call{
		Time: time.Now(), Service: api.name, Operation: form.Get("Action"), Query: form,
		Header: visible(q.Header.Clone()), Bytes: q.ContentLength,
	}
	if p, ok := s.iam.principal(accessKey(q.Header.Get("Authorization"), "")); ok {
		call.Principal, call.SessionPolicy, call.Policy = p.arn, p.sessionPolicy != "", p.sessionPolicy
	}
	answer := func() (int, []byte) {
		p, err := s.iam.authenticate(q, body, api, now)
		if err != nil {
			return queryRefusal(api, err)
		}
		return answerQuery(api, p, form, now)
	}
	fault := s.faults.take(call)
	call.Faulted = fault != nil
	var status int
	var reply []byte
	switch {
	case fault == nil:
		status, reply = answer()
	case fault.fault.Apply:
		status, reply = answer()
		fault.pause()
	default:
		fault.pause()
		if !fault.fault.Reply.replaces() {
			status, reply = answer()
		}
	}
	if fault != nil && fault.fault.Reply.replaces() {
		r := fault.fault.Reply
		status, reply = r.Status, nil
		if !r.Lost {
			status, reply = queryRefusal(api, stsError{r.Code, r.message(), r.Status})
			for k, v := range r.Header {
				w.Header().Set(k, v)
			}
		}
	}
	call.Status = status
	s.journal.add(call)
	if status == 0 {
		resetHTTP(w)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	w.Write(reply) // the client is gone: nobody to tell
}

func answerQuery(api queryAPI, p principal, form url.Values, now time.Time) (int, []byte) {
	if form.Get("Version") != api.version {
		return queryRefusal(api, unknownAction(form))
	}
	result, err := api.answer(p, form, now)
	if err != nil {
		return queryRefusal(api, err)
	}
	reply, err := xml.Marshal(result)
	if err != nil {
		return queryRefusal(api, err)
	}
	return http.StatusOK, reply
}

func unknownAction(form url.Values) error {
	return stsError{"InvalidAction", fmt.Sprintf("Could not find operation %s for version %s", form.Get("Action"), form.Get("Version")), http.StatusBadRequest}
}

// only refuses a form with other fields than these, or with one of them twice.
func only(form url.Values, fields ...string) error {
	for field, values := range form {
		if len(values) > 1 || field != "Action" && field != "Version" && !slices.Contains(fields, field) {
			return invalid(field, strings.Join(values, ", "), "be a parameter of "+form.Get("Action")+", once")
		}
	}
	return nil
}

func (s *Server) answerSTS(p principal, form url.Values, now time.Time) (any, error) {
	switch form.Get("Action") {
	case "AssumeRole":
		return s.iam.assumeRole(p, form, now)
	case "GetCallerIdentity": // needs no right
		if err := only(form); err != nil {
			return nil, err
		}
		id := "AIDA" + account(p.arn)
		if p.role != "" {
			id = "AROA" + account(p.arn) + p.arn[strings.LastIndex(p.arn, "/"):]
			id = strings.Replace(id, "/", ":", 1)
		}
		return callerIdentity{UserID: id, Account: account(p.arn), ARN: p.arn, RequestID: requestID}, nil
	}
	return nil, unknownAction(form)
}

const requestID = "00000000-0000-0000-0000-000000000000"

type callerIdentity struct {
	XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
	ARN       string   `xml:"GetCallerIdentityResult>Arn"`
	UserID    string   `xml:"GetCallerIdentityResult>UserId"`
	Account   string   `xml:"GetCallerIdentityResult>Account"`
	RequestID string   `xml:"ResponseMetadata>RequestId"`
}

type assumedRole struct {
	XMLName    xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
	AccessKey  string   `xml:"AssumeRoleResult>Credentials>AccessKeyId"`
	SecretKey  string   `xml:"AssumeRoleResult>Credentials>SecretAccessKey"`
	Token      string   `xml:"AssumeRoleResult>Credentials>SessionToken"`
	Expiration string   `xml:"AssumeRoleResult>Credentials>Expiration"`
	ID         string   `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
	ARN        string   `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
	PackedSize int      `xml:"AssumeRoleResult>PackedPolicySize,omitempty"`
	RequestID  string   `xml:"ResponseMetadata>RequestId"`
}

var (
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	externalID  = regexp.MustCompile(`^[\w+=,.@:/-]{2,}$`) // and at most 1224, which is more than regexp counts
)

func invalid(field, value, want string) error {
	return stsError{"ValidationError", fmt.Sprintf("1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: Member must %s", value, field, want), http.StatusBadRequest}
}

// assumeRole checks the form, then the right, then the role's limits, and opens a session.
func (r *registry) assumeRole(caller principal, form url.Values, now time.Time) (any, error) {
	arn, name, external, doc := form.Get("RoleArn"), form.Get("RoleSessionName"), form.Get("ExternalId"), form.Get("Policy")
	life := time.Hour
	if v := form.Get("DurationSeconds"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 900 || n > 43200 {
			return nil, invalid("durationSeconds", v, "have value between 900 and 43200")
		}
		life = time.Duration(n) * time.Second
	}
	switch {
	case len(arn) < 20 || len(arn) > 2048:
		return nil, invalid("roleArn", arn, "have length between 20 and 2048")
	case !sessionName.MatchString(name):
		return nil, invalid("roleSessionName", name, `satisfy regular expression pattern: [\w+=,.@-]{2,64}`)
	case form.Has("ExternalId") && (len(external) > 1224 || !externalID.MatchString(external)):
		return nil, invalid("externalId", "", `satisfy regular expression pattern: [\w+=,.@:\/-]{2,1224}`)
	case utf8.RuneCountInString(doc) > policy.MaxSessionPolicyBytes:
		return nil, invalid("policy", "", "have length less than or equal to 2048")
	}
	if err := parsePolicy(doc); err != nil {
		return nil, stsError{"MalformedPolicyDocument", err.Error(), http.StatusBadRequest}
	}

	// One refusal for every reason: a caller must not learn which roles exist or what they ask for.
	refused := stsError{"AccessDenied", fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", caller.arn, arn), http.StatusForbidden}
	r.mu.RLock()
	role, exists := r.roles[arn]
	r.mu.RUnlock()
	cond := map[string][]string{
		"aws:PrincipalArn": {caller.arn}, "aws:PrincipalAccount": {account(caller.arn)}, "sts:RoleSessionName": {name},
	}
	if external != "" { // absent, not empty: StringEquals must not match
		cond["sts:ExternalId"] = []string{external}
	}
	allows := func(doc string) bool { return decide(doc, "sts:AssumeRole", arn, cond) == policy.DecisionAllow }
	if !exists || !trusts(role.Trust, caller, cond) || !allows(caller.policy) || caller.sessionPolicy != "" && !allows(caller.sessionPolicy) {
		return nil, refused
	}
	switch {
	case caller.role != "" && life > time.Hour:
		return nil, stsError{"ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.", http.StatusBadRequest}
	case life > role.MaxSession:
		return nil, stsError{"ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", http.StatusBadRequest}
	}
	s, told := r.open(arn, name, doc, life)
	return assumedRole{
		AccessKey: s.access, SecretKey: s.secret, Token: s.token, Expiration: now.Add(told).UTC().Format(time.RFC3339),
		ID: "AROA" + account(arn) + ":" + name, ARN: s.arn(), PackedSize: len(doc) * 100 / policy.MaxSessionPolicyBytes, RequestID: requestID,
	}, nil
}

func queryRefusal(api queryAPI, err error) (int, []byte) {
	var e stsError
	if !errors.As(err, &e) {
		e = stsError{"InternalFailure", err.Error(), http.StatusInternalServerError}
	}
	type body struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		Namespace string   `xml:"xmlns,attr"`
		Type      string   `xml:"Error>Type"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}
	b := body{Namespace: api.namespace, Type: "Sender", Code: e.code, Message: e.message, RequestID: requestID}
	if e.status >= 500 {
		b.Type = "Receiver"
	}
	reply, err := xml.Marshal(b)
	if err != nil {
		panic("bucket: strings always marshal: " + err.Error())
	}
	return e.status, reply
}

// visible drops what must not be kept: it works on its argument.
func visible(h http.Header) http.Header {
	h.Del("Authorization")
	h.Del("X-Amz-Security-Token")
	return h
}

// resetHTTP ends the connection without an answer.
func resetHTTP(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	reset(conn)
}

// reset closes a connection so that the peer sees "connection reset by peer".
func reset(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS: no close_notify
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		t.SetLinger(0) // closed either way
	}
	conn.Close() // closed either way
}
