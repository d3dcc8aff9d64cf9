package bucket

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v3"
	"github.com/minio/crc64nvme"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/iamapi/policy"
)

// settings are what customers say of their buckets, as they said it, by bucket and kind. The gateway has no place for
// it, and answers with 501 once it has found the signature in order.
type settings struct {
	mu   sync.Mutex
	said map[[2]string][]byte
}

// setting is one kind of it.
type setting struct {
	right  string             // s3:Put<right> and s3:Get<right>
	absent string             // the code where nothing was said
	check  func([]byte) error // refuses what AWS would refuse
}

var settingKinds = map[string]setting{
	"BucketEncryption":             {"EncryptionConfiguration", "ServerSideEncryptionConfigurationNotFoundError", checkEncryption},
	"BucketLifecycleConfiguration": {"LifecycleConfiguration", "NoSuchLifecycleConfiguration", checkLifecycle},
	"PublicAccessBlock":            {"BucketPublicAccessBlock", "NoSuchPublicAccessBlockConfiguration", checkPublicAccess},
}

// configure answers what the gateway has left, for those who may.
func (s *Server) configure(c fiber.Ctx, call Call) error {
	verb, noun := call.Operation, ""
	if len(verb) > 3 {
		verb, noun = verb[:3], verb[3:]
	}
	kind, known := settingKinds[noun]
	if !known || verb != "Put" && verb != "Get" {
		return nil
	}
	body := slices.Clone(c.Body())
	if !s.mayConfigure(c, call, "s3:"+verb+kind.right) {
		return refuseS3(c, http.StatusForbidden, "AccessDenied", "Access Denied")
	}
	if verb == "Get" {
		said := s.settings.get(call.Bucket, noun)
		if said == nil {
			return refuseS3(c, http.StatusNotFound, kind.absent, "Nothing was configured.")
		}
		c.Response().Reset()
		c.Set(fiber.HeaderContentType, fiber.MIMEApplicationXML)
		return c.Send(said)
	}
	if err := intact(c, body); err != nil {
		return refuseS3(c, http.StatusBadRequest, "BadDigest", err.Error())
	}
	if err := kind.check(body); err != nil {
		return refuseS3(c, http.StatusBadRequest, "MalformedXML", err.Error())
	}
	s.settings.keep(call.Bucket, noun, body)
	c.Response().Reset()
	return nil
}

// get is what was said, or nil.
func (s *settings) get(bucket, kind string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said[[2]string{bucket, kind}]
}

func (s *settings) keep(bucket, kind string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said == nil {
		s.said = map[[2]string][]byte{}
	}
	s.said[[2]string{bucket, kind}] = body
}

// mayConfigure: only the bucket's own account, and there only whoever has the right.
func (s *Server) mayConfigure(c fiber.Ctx, call Call, action string) bool {
	access := accessKey(c.Get("Authorization"), "")
	p, known := s.iam.principal(access)
	resource := "arn:aws:s3:::" + call.Bucket
	switch {
	case access == rootAccess:
		return true
	case !known || s.iam.foreign(p.arn, resource):
		return false
	}
	return s.iam.allows(p, action, resource, nil)
}

// allows: the principal's own policies say so.
func (r *registry) allows(p principal, action, resource string, cond map[string][]string) bool {
	return decide(p.policy, action, resource, cond) == policy.DecisionAllow &&
		(p.sessionPolicy == "" || decide(p.sessionPolicy, action, resource, cond) == policy.DecisionAllow)
}

// adopt gives a new bucket to the account of whoever made it.
func (s *Server) adopt(c fiber.Ctx, call Call) error {
	owner := account(call.Principal)
	if owner == "" { // the administrator, who says afterwards whose it is
		return nil
	}
	if err := auth.UpdateBucketACLOwner(c, s.backend, call.Bucket, owner); err != nil {
		return fmt.Errorf("give %s to %s: %w", call.Bucket, owner, err)
	}
	return s.iam.give(call.Bucket, owner)
}

// intact holds a body against the digests that came along: the signature's, and at least one more, as AWS demands it
// for these calls.
func intact(c fiber.Ctx, body []byte) error {
	if sum := sha256.Sum256(body); c.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the body is not what was signed")
	}
	given := 0
	for header, sum := range map[string]func() []byte{
		"Content-Md5":           func() []byte { s := md5.Sum(body); return s[:] },
		"X-Amz-Checksum-Sha1":   func() []byte { s := sha1.Sum(body); return s[:] },
		"X-Amz-Checksum-Sha256": func() []byte { s := sha256.Sum256(body); return s[:] },
		"X-Amz-Checksum-Crc32":  func() []byte { return binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(body)) },
		"X-Amz-Checksum-Crc32c": func() []byte {
			return binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
		},
		"X-Amz-Checksum-Crc64nvme": func() []byte { return binary.BigEndian.AppendUint64(nil, crc64nvme.Checksum(body)) },
	} {
		if want := c.Get(header); want != "" {
			given++
			if base64.StdEncoding.EncodeToString(sum()) != want {
				return fmt.Errorf("the body is not what %s says", header)
			}
		}
	}
	if given == 0 {
		return fmt.Errorf("neither Content-MD5 nor a checksum came along")
	}
	return nil
}

// unknown holds the elements that nobody asked for: a document with one of them is refused.
type unknown struct {
	XMLName xml.Name
}

func refuseUnknown(lists ...[]unknown) error {
	for _, list := range lists {
		for _, e := range list {
			return fmt.Errorf("unexpected element %s", e.XMLName.Local)
		}
	}
	return nil
}

// decodeXML reads one document and nothing behind it.
func decodeXML(body []byte, v any) error {
	d := xml.NewDecoder(strings.NewReader(string(body)))
	if err := d.Decode(v); err != nil {
		return err
	}
	for {
		switch token, err := d.Token(); t := token.(type) {
		case xml.CharData:
			if strings.TrimSpace(string(t)) != "" {
				return fmt.Errorf("text behind the document")
			}
		case nil:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		default:
			return fmt.Errorf("more than one document")
		}
	}
}

func checkEncryption(body []byte) error {
	var doc struct {
		XMLName xml.Name `xml:"ServerSideEncryptionConfiguration"`
		Rule    []struct {
			Default []struct {
				Algorithm string    `xml:"SSEAlgorithm"`
				Key       string    `xml:"KMSMasterKeyID"`
				Other     []unknown `xml:",any"`
			} `xml:"ApplyServerSideEncryptionByDefault"`
			BucketKey *bool     `xml:"BucketKeyEnabled"`
			Other     []unknown `xml:",any"`
		}
		Other []unknown `xml:",any"`
	}
	if err := decodeXML(body, &doc); err != nil {
		return err
	}
	if len(doc.Rule) != 1 || len(doc.Rule[0].Default) != 1 {
		return fmt.Errorf("there must be exactly one rule with a default")
	}
	rule := doc.Rule[0]
	by := rule.Default[0]
	if err := refuseUnknown(doc.Other, rule.Other, by.Other); err != nil {
		return err
	}
	switch {
	case by.Algorithm == "AES256" && by.Key == "", by.Algorithm == "aws:kms", by.Algorithm == "aws:kms:dsse":
		return nil
	}
	return fmt.Errorf("SSEAlgorithm %q with key %q", by.Algorithm, by.Key)
}

// waiting is an action of a lifecycle rule, and when it is taken. The actions that move objects elsewhere this double
// does not know.
type waiting struct {
	Days       *int      // of Expiration
	Noncurrent *int      `xml:"NoncurrentDays"`      // of NoncurrentVersionExpiration
	After      *int      `xml:"DaysAfterInitiation"` // of AbortIncompleteMultipartUpload
	Other      []unknown `xml:",any"`
}

func checkLifecycle(body []byte) error {
	var doc struct {
		XMLName xml.Name `xml:"LifecycleConfiguration"`
		Rule    []struct {
			ID     string
			Status string
			Filter *struct {
				Prefix *string
				Other  []unknown `xml:",any"`
			}
			Expiration *waiting
			Noncurrent *waiting  `xml:"NoncurrentVersionExpiration"`
			Abort      *waiting  `xml:"AbortIncompleteMultipartUpload"`
			Other      []unknown `xml:",any"`
		}
		Other []unknown `xml:",any"`
	}
	if err := decodeXML(body, &doc); err != nil {
		return err
	}
	if len(doc.Rule) == 0 || len(doc.Rule) > 1000 {
		return fmt.Errorf("%d rules", len(doc.Rule))
	}
	seen := map[string]bool{}
	for _, r := range doc.Rule {
		switch {
		case len(r.ID) > 255 || r.ID != "" && seen[r.ID]:
			return fmt.Errorf("rule %.80q is too long a name, or there twice", r.ID)
		case r.Status != "Enabled" && r.Status != "Disabled":
			return fmt.Errorf("rule %q: status %q", r.ID, r.Status)
		case r.Filter == nil:
			return fmt.Errorf("rule %q has no filter", r.ID)
		case r.Expiration == nil && r.Noncurrent == nil && r.Abort == nil:
			return fmt.Errorf("rule %q does nothing", r.ID)
		}
		if err := refuseUnknown(doc.Other, r.Other, r.Filter.Other); err != nil {
			return err
		}
		if err := errors.Join(r.Expiration.check("Days"), r.Noncurrent.check("NoncurrentDays"), r.Abort.check("DaysAfterInitiation")); err != nil {
			return fmt.Errorf("rule %q: %w", r.ID, err)
		}
		seen[r.ID] = true
	}
	return nil
}

// check wants the one number, a day or more, that belongs to the action.
func (w *waiting) check(name string) error {
	if w == nil {
		return nil
	}
	for field, days := range map[string]*int{"Days": w.Days, "NoncurrentDays": w.Noncurrent, "DaysAfterInitiation": w.After} {
		if (field == name) != (days != nil) || days != nil && *days < 1 {
			return fmt.Errorf("%s must be there alone, and one or more", name)
		}
	}
	return refuseUnknown(w.Other)
}

func checkPublicAccess(body []byte) error {
	var doc struct {
		XMLName                                                                     xml.Name `xml:"PublicAccessBlockConfiguration"`
		BlockPublicAcls, IgnorePublicAcls, BlockPublicPolicy, RestrictPublicBuckets bool
		Other                                                                       []unknown `xml:",any"`
	}
	if err := decodeXML(body, &doc); err != nil {
		return err
	}
	return refuseUnknown(doc.Other)
}
