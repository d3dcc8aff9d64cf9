package bucket

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/iamapi/policy"
	"github.com/versity/versitygw/s3err"
)

// User is a principal with permanent keys.
type User struct {
	ARN       string // arn:aws:iam::<account>:user/<name>
	AccessKey string
	SecretKey string
	// Policy is the user's own: what it may do in its account, and sts:AssumeRole on which roles. Empty:
	// nothing but GetCallerIdentity.
	Policy string
}

// Role is what a session is opened on.
type Role struct {
	ARN    string // arn:aws:iam::<account>:role/<name>
	Trust  string // who may assume it, under which conditions
	Policy string // what its sessions may do. Empty: nothing.
	// MaxSession is the longest session, 1 h to 12 h. 0: 1 h, as at AWS.
	MaxSession time.Duration
	// PolicyName is what PutRolePolicy called Policy. Empty: nobody called it anything.
	PolicyName string
}

// session is what AssumeRole hands out.
type session struct {
	access, secret, token string
	role, name, policy    string
	expires               time.Time
}

// arn is the session as a principal.
func (s *session) arn() string {
	return "arn:aws:sts::" + account(s.role) + ":assumed-role/" + s.role[strings.LastIndex(s.role, "/")+1:] + "/" + s.name
}

// account is the account in an ARN.
func account(arn string) string {
	if parts := strings.SplitN(arn, ":", 6); len(parts) == 6 {
		return parts[4]
	}
	return ""
}

// registry knows every principal. It is the S3 gateway's IAM service, its source of signing keys and its
// judge of policies, and the STS asks it, too.
type registry struct {
	auth.IAMService // root, and refusals for the management that nobody uses

	mu         sync.RWMutex
	users      map[string]User // by access key
	roles      map[string]Role // by ARN
	sessions   map[string]*session
	owners     map[string]string // bucket: account
	file       string            // where roles and owners are kept, if they are
	told, real time.Duration     // see SetSessionLife
}

func newRegistry(root auth.Account) *registry {
	return &registry{
		IAMService: auth.NewIAMServiceSingle(root),
		users:      map[string]User{}, roles: map[string]Role{}, sessions: map[string]*session{}, owners: map[string]string{},
	}
}

// AddUser adds a user, or replaces the one with the same access key.
func (s *Server) AddUser(u User) error {
	switch {
	case !strings.HasPrefix(u.ARN, "arn:aws:iam::") || !strings.Contains(u.ARN, ":user/"):
		return fmt.Errorf("bucket: user ARN %q is not arn:aws:iam::<account>:user/<name>", u.ARN)
	case u.AccessKey == "" || u.SecretKey == "":
		return fmt.Errorf("bucket: user %s has no keys", u.ARN)
	}
	if err := parsePolicy(u.Policy); err != nil {
		return fmt.Errorf("bucket: policy of %s: %w", u.ARN, err)
	}
	s.iam.mu.Lock()
	defer s.iam.mu.Unlock()
	s.iam.users[u.AccessKey] = u
	return nil
}

// SetRole adds a role, or replaces it: from here on the new trust decides who may assume it, and the new
// policy what sessions may do, those that are open included.
func (s *Server) SetRole(r Role) error {
	if !strings.HasPrefix(r.ARN, "arn:aws:iam::") || !strings.Contains(r.ARN, ":role/") {
		return fmt.Errorf("bucket: role ARN %q is not arn:aws:iam::<account>:role/<name>", r.ARN)
	}
	if r.MaxSession == 0 {
		r.MaxSession = time.Hour
	}
	if r.MaxSession < time.Hour || r.MaxSession > 12*time.Hour {
		return fmt.Errorf("bucket: role %s: MaxSession %s is not 1h to 12h", r.ARN, r.MaxSession)
	}
	if err := policy.ParseTrust(r.Trust); err != nil {
		return fmt.Errorf("bucket: trust policy of %s: %w", r.ARN, err)
	}
	if err := parsePolicy(r.Policy); err != nil {
		return fmt.Errorf("bucket: policy of %s: %w", r.ARN, err)
	}
	s.iam.mu.Lock()
	defer s.iam.mu.Unlock()
	s.iam.roles[r.ARN] = r
	return s.iam.save()
}

// Role is a role as it is now.
func (s *Server) Role(arn string) (r Role, exists bool) {
	s.iam.mu.RLock()
	defer s.iam.mu.RUnlock()
	r, exists = s.iam.roles[arn]
	return r, exists
}

// AddRole adds a role that must not exist yet.
func (s *Server) AddRole(r Role) error {
	if _, exists := s.Role(r.ARN); exists {
		return fmt.Errorf("bucket: role %s exists", r.ARN)
	}
	return s.SetRole(r)
}

// RemoveRole removes the role. Sessions that are open on it may do nothing any more.
func (s *Server) RemoveRole(arn string) {
	s.iam.mu.Lock()
	defer s.iam.mu.Unlock()
	delete(s.iam.roles, arn)
	_ = s.iam.save() // the next one that is set keeps this, too
}

// SetSessionLife makes the sessions that are opened from now on last for real, whatever was asked, while
// the client is told that they last for told: a client that trusts what it was told meets ExpiredToken.
// 0: as asked.
func (s *Server) SetSessionLife(told, real time.Duration) {
	s.iam.mu.Lock()
	defer s.iam.mu.Unlock()
	s.iam.told, s.iam.real = told, real
}

// ExpireSessions ends every open session of these roles now, or of all if none is named: the next request of each is
// answered with ExpiredToken.
func (s *Server) ExpireSessions(roles ...string) {
	s.iam.mu.Lock()
	defer s.iam.mu.Unlock()
	for _, open := range s.iam.sessions {
		if len(roles) == 0 || slices.Contains(roles, open.role) {
			open.expires = time.Time{}
		}
	}
}

func parsePolicy(doc string) error {
	if doc == "" {
		return nil
	}
	return policy.Parse(doc)
}

// principal is who an access key belongs to, and what limits it.
type principal struct {
	arn, role     string // role: of a session
	policy        string
	sessionPolicy string
}

func (r *registry) principal(access string) (principal, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if u, ok := r.users[access]; ok {
		return principal{arn: u.ARN, policy: u.Policy}, true
	}
	if s, ok := r.sessions[access]; ok {
		return principal{arn: s.arn(), role: s.role, policy: r.roles[s.role].Policy, sessionPolicy: s.policy}, true
	}
	return principal{}, false
}

var (
	errUnknownKey   = errors.New("unknown access key")
	errWrongToken   = errors.New("wrong session token")
	errExpiredToken = errors.New("expired session token")
)

// secret returns what signs for an access key, if the session token that came along is right.
func (r *registry) secret(access, token string) (string, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if s, ok := r.sessions[access]; ok {
		switch {
		case !hmac.Equal([]byte(token), []byte(s.token)):
			return "", errWrongToken
		case !time.Now().Before(s.expires):
			return "", errExpiredToken
		}
		return s.secret, nil
	}
	if token != "" {
		return "", errWrongToken
	}
	if u, ok := r.users[access]; ok {
		return u.SecretKey, nil
	}
	return "", errUnknownKey
}

// open opens a session, and says for how long the client may believe in it.
func (r *registry) open(role, name, doc string, life time.Duration) (*session, time.Duration) {
	raw := make([]byte, 128)
	rand.Read(raw) // never fails: it ends the program instead
	s := &session{
		access: "ASIA" + base32.StdEncoding.EncodeToString(raw[:10]),
		secret: base64.StdEncoding.EncodeToString(raw[10:40]),
		token:  base64.StdEncoding.EncodeToString(raw[40:]),
		role:   role, name: name, policy: doc,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	told, real := life, life
	if r.told != 0 {
		told = r.told
	}
	if r.real != 0 {
		real = r.real
	}
	s.expires = time.Now().Add(real)
	r.sessions[s.access] = s
	return s, told
}

// GetUserAccount implements auth.IAMService.
func (r *registry) GetUserAccount(access string) (auth.Account, error) {
	if p, ok := r.principal(access); ok {
		return auth.Account{Access: access, Role: auth.RoleUser, Arn: p.arn, RoleArn: p.role, IsSession: p.role != ""}, nil
	}
	return r.IAMService.GetUserAccount(access)
}

// ResolvePrincipals implements auth.PrincipalResolver: which names of a bucket policy name nobody.
func (r *registry) ResolvePrincipals(names []string) ([]string, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	known := map[string]bool{}
	for _, u := range r.users {
		known[u.ARN], known[account(u.ARN)], known["arn:aws:iam::"+account(u.ARN)+":root"] = true, true, true
	}
	for arn := range r.roles {
		known[arn], known[account(arn)], known["arn:aws:iam::"+account(arn)+":root"] = true, true, true
	}
	for _, s := range r.sessions {
		known[s.arn()] = true
	}
	var unknown []string
	for _, n := range names {
		if !known[n] {
			unknown = append(unknown, n)
		}
	}
	return unknown, nil
}

// DeriveSigningKey implements auth.SigningKeyProvider: the gateway's SigV4 check asks it, with the token.
func (r *registry) DeriveSigningKey(access, token, date, region, service string) ([]byte, auth.Account, error) {
	secret, err := r.secret(access, token)
	switch {
	case errors.Is(err, errExpiredToken):
		return nil, auth.Account{}, s3err.APIError{Code: "ExpiredToken", Description: "The provided token has expired.", HTTPStatusCode: 400}
	case errors.Is(err, errWrongToken):
		return nil, auth.Account{}, auth.ErrInvalidSessionToken
	case err != nil:
		return nil, auth.Account{}, auth.ErrNoSuchUser
	}
	acc, err := r.GetUserAccount(access)
	acc.SessionToken = token
	return signingKey(secret, date, region, service), acc, err
}

func signingKey(secret, date, region, service string) []byte {
	key := []byte("AWS4" + secret)
	for _, s := range []string{date, region, service, "aws4_request"} {
		key = mac(key, s)
	}
	return key
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}
