package bucket

import (
	"encoding/xml"
	"fmt"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v3"
)

// keys remembers which KMS key an object, or an upload of it, is encrypted with. Nothing is encrypted; but whoever may not
// use the key may not do what needs it, as at AWS.
type keys struct {
	mu sync.Mutex
	of map[[2]string]string // by bucket and object
}

// kmsRights are what S3 does with the key on behalf of whoever calls.
var kmsRights = map[string][]string{
	"PutObject":               {"kms:GenerateDataKey"},
	"CreateMultipartUpload":   {"kms:GenerateDataKey"},
	"UploadPart":              {"kms:GenerateDataKey", "kms:Decrypt"},
	"CompleteMultipartUpload": {"kms:Decrypt"},
	"GetObject":               {"kms:Decrypt"},
}

// encrypts are the calls that choose a key.
var encrypts = map[string]bool{"PutObject": true, "CreateMultipartUpload": true}

// mayUseKey says what a principal lacks for a call, by its own policies, or "". The key's policy is taken to be the
// default one, which leaves it to them.
func (s *Server) mayUseKey(c fiber.Ctx, call Call) (lacks string) {
	rights := kmsRights[call.Operation]
	access := accessKey(c.Get("Authorization"), c.Query("X-Amz-Credential"))
	p, known := s.iam.principal(access)
	if len(rights) == 0 || !known || access == rootAccess {
		return ""
	}
	key := s.keys.get(call)
	if encrypts[call.Operation] {
		key = s.keyFor(call)
	}
	cond := map[string][]string{"kms:ViaService": {"s3." + s.region + ".amazonaws.com"}}
	for _, right := range rights {
		if key != "" && !s.iam.allows(p, right, key, cond) {
			return fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %[2]s action", p.arn, right, key)
		}
	}
	return ""
}

// keyFor is the key that a new object is encrypted with: the request's, or the bucket's default. An alias stands for a key
// that this double does not know.
func (s *Server) keyFor(call Call) string {
	algorithm, key := call.Header.Get("X-Amz-Server-Side-Encryption"), call.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")
	if algorithm == "" {
		var doc struct {
			Algorithm string `xml:"Rule>ApplyServerSideEncryptionByDefault>SSEAlgorithm"`
			Key       string `xml:"Rule>ApplyServerSideEncryptionByDefault>KMSMasterKeyID"`
		}
		if said := s.settings.get(call.Bucket, "BucketEncryption"); said != nil && xml.Unmarshal(said, &doc) == nil {
			algorithm, key = doc.Algorithm, doc.Key
		}
	}
	if !strings.HasPrefix(algorithm, "aws:kms") || !strings.Contains(key, ":key/") {
		return ""
	}
	return key
}

func (k *keys) get(call Call) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.of[[2]string{call.Bucket, call.Key}]
}

func (k *keys) remember(call Call, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = map[[2]string]string{}
	}
	k.of[[2]string{call.Bucket, call.Key}] = key
}
