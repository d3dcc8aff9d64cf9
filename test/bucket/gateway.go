package bucket

import (
	"bytes"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gofiber/fiber/v3"
	"github.com/versity/versitygw/s3api/utils"
)

// disturb stands before the S3 gateway's own routes: it records, injects faults and adds what of AWS the
// gateway does not do. Undisturbed requests pass without a copy.
func (s *Server) disturb(c fiber.Ctx) error {
	defer readToItsEnd(c)()
	call := s.describe(c)
	fault := s.faults.take(call)
	if fault == nil {
		err := s.carryOut(c, call)
		call.Status = status(c, err)
		s.journal.add(call)
		return err
	}
	call.Faulted = true
	err := s.carryOutDisturbed(c, call, fault)
	if !fault.fault.Reply.Lost {
		call.Status = status(c, err)
	}
	s.journal.add(call)
	if fault.fault.Reply.Lost {
		reset(c.RequestCtx().Conn())
		c.RequestCtx().SetConnectionClose()
	}
	return err
}

// readToItsEnd is to be deferred: it reads what the gateway leaves of a body in HTTP's chunks, at least the last one,
// which is empty. AWS's own framing ends before it, and there the gateway stops; what is left would be read as the next
// request, and answered with 400. The aws command sends its parts so, on connections that it keeps. A stream that has
// told its end must not be asked again, because it would wait for one more chunk; so the gateway reads through us.
func readToItsEnd(c fiber.Ctx) func() {
	stream := c.Request().BodyStream()
	if stream == nil || c.Request().Header.ContentLength() >= 0 {
		return func() {}
	}
	body := &endingReader{Reader: stream}
	utils.ContextKeyBodyReader.Set(c, body)
	return func() {
		if body.ended || c.Request().BodyStream() != stream { // what was read into memory was read to its end
			return
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			c.Response().Header.SetConnectionClose()
		}
	}
}

// endingReader knows whether it has told its end, or an error.
type endingReader struct {
	io.Reader
	ended bool
}

func (r *endingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.ended = r.ended || err != nil
	return n, err
}

func (s *Server) carryOutDisturbed(c fiber.Ctx, call Call, i *Injected) error {
	f := i.fault
	if f.Flip {
		if err := flipRequest(c); err != nil {
			return err
		}
	}
	var err error
	if f.Apply {
		if err = s.carryOut(c, call); err != nil {
			return err
		}
		i.pause()
	} else {
		i.pause()
		if !f.Reply.replaces() {
			return s.carryOut(c, call)
		}
		if !f.Reply.Lost {
			// An answer before the whole body was read reaches a busy client as a reset only.
			if body := c.Request().BodyStream(); body != nil {
				io.Copy(io.Discard, body) // the client gave up: nobody to tell
			}
		}
	}
	switch {
	case f.Reply.Status != 0:
		c.Response().Reset()
		c.Status(f.Reply.Status)
		c.Set(fiber.HeaderContentType, fiber.MIMEApplicationXML)
		for k, v := range f.Reply.Header {
			c.Set(k, v)
		}
		return c.Send(s3Error(f.Reply.Code, f.Reply.message(), c.Path()))
	case f.Reply.Lost:
		c.Response().Reset() // closes the file behind a GetObject
	case f.Reply.Cut > 0:
		return cut(c, f.Reply.Cut)
	case f.Reply.Flip:
		return flipResponse(c)
	}
	return nil
}

// carryOut lets the gateway answer, within the rules that are only ours.
func (s *Server) carryOut(c fiber.Ctx, call Call) error {
	if call.Operation == "CompleteMultipartUpload" && !consecutive(c.Body()) {
		return refuseS3(c, http.StatusBadRequest, "InvalidPartOrder", "The list of parts was not in ascending order. Parts must be ordered by part number.")
	}
	if call.Operation == "CreateBucket" && s.region != "us-east-1" && len(c.Body()) == 0 {
		return refuseS3(c, http.StatusBadRequest, "IllegalLocationConstraintException",
			"The unspecified location constraint is incompatible for the region specific endpoint this request was sent to.")
	}
	if lacks := s.mayUseKey(c, call); lacks != "" {
		if body := c.Request().BodyStream(); body != nil {
			io.Copy(io.Discard, body) // the client gave up: nobody to tell
		}
		return refuseS3(c, http.StatusForbidden, "AccessDenied", lacks)
	}
	if err := c.Next(); err != nil {
		return err
	}
	switch code := c.Response().StatusCode(); {
	case code == http.StatusOK && call.Operation == "CreateBucket":
		return s.adopt(c, call)
	case code == http.StatusOK && encrypts[call.Operation]:
		s.keys.remember(call, s.keyFor(call))
	case code == http.StatusNotImplemented:
		return s.configure(c, call)
	case call.Operation == "HeadBucket" && (code == http.StatusBadRequest || code == http.StatusForbidden):
		c.Set("X-Amz-Bucket-Region", s.region) // it has no body to say it in
	case code == http.StatusNotFound && (call.Operation == "HeadObject" || call.Operation == "GetObject"):
		return s.hide(c, call)
	}
	return nil
}

// hide turns "no such key" into "access denied" for those who may not know which keys there are.
func (s *Server) hide(c fiber.Ctx, call Call) error {
	p, known := s.iam.principal(accessKey(c.Get("Authorization"), c.Query("X-Amz-Credential")))
	if !known || s.iam.mayList(p, call.Bucket, call.Key) || bytes.Contains(c.Response().Body(), []byte("NoSuchBucket")) {
		return nil
	}
	return refuseS3(c, http.StatusForbidden, "AccessDenied", "Access Denied")
}

// refuseS3 answers with an error, in place of what was answered so far.
func refuseS3(c fiber.Ctx, status int, code, message string) error {
	c.Response().Reset()
	c.Status(status)
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationXML)
	return c.Send(s3Error(code, message, c.Path()))
}

// consecutive checks the rule that AWS has for parts with checksums: numbered 1, 2, 3 ... A body that is
// no XML is the gateway's to refuse.
func consecutive(body []byte) bool {
	var list struct {
		Part []struct {
			PartNumber                                                                     int
			ChecksumCRC32, ChecksumCRC32C, ChecksumCRC64NVME, ChecksumSHA1, ChecksumSHA256 string
		}
	}
	if xml.Unmarshal(body, &list) != nil {
		return true
	}
	for i, p := range list.Part {
		if p.ChecksumCRC32+p.ChecksumCRC32C+p.ChecksumCRC64NVME+p.ChecksumSHA1+p.ChecksumSHA256 != "" && p.PartNumber != i+1 {
			return false
		}
	}
	return true
}

// cut keeps the header of the answer and the first n bytes of its body, and breaks off there.
func cut(c fiber.Ctx, n int64) error {
	response := c.Response()
	length := response.Header.ContentLength()
	body := response.BodyStream()
	if body == nil {
		body, length = bytes.NewReader(response.Body()), len(response.Body())
	}
	head, err := io.ReadAll(io.LimitReader(body, n))
	if err != nil {
		return err
	}
	response.SetBodyStream(io.MultiReader(bytes.NewReader(head), brokenReader{}), length)
	return nil
}

// flipRequest turns over one bit of a request's body, as a bad cable or memory does that no checksum guards.
func flipRequest(c fiber.Ctx) error {
	body := c.Request().BodyStream()
	if body == nil {
		body = bytes.NewReader(c.Request().Body())
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	flip(data)
	c.Request().SetBodyStream(bytes.NewReader(data), len(data))
	utils.ContextKeyBodyReader.Set(c, nil) // the gateway would go on with what was read just now
	return nil
}

// flipResponse does so to an answer's.
func flipResponse(c fiber.Ctx) error {
	body := c.Response().BodyStream()
	if body == nil {
		body = bytes.NewReader(c.Response().Body())
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	flip(data)
	c.Response().SetBody(data)
	return nil
}

func flip(data []byte) {
	if len(data) > 0 {
		data[len(data)/2] ^= 1
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (s *Server) describe(c fiber.Ctx) Call {
	request := c.Request()
	header := http.Header{}
	for k, v := range request.Header.All() {
		header.Add(string(k), string(v))
	}
	query, _ := url.ParseQuery(string(request.URI().QueryString())) // what cannot be read, the gateway refuses
	call := s3Call(c.Method(), string(request.URI().PathOriginal()), query, visible(header))
	call.Bytes = int64(request.Header.ContentLength())
	if n, err := strconv.ParseInt(header.Get("X-Amz-Decoded-Content-Length"), 10, 64); err == nil {
		call.Bytes = n
	}
	switch access := accessKey(c.Get("Authorization"), query.Get("X-Amz-Credential")); {
	case access == rootAccess:
		call.Principal = "root"
	default:
		if p, ok := s.iam.principal(access); ok {
			call.Principal, call.SessionPolicy, call.Policy = p.arn, p.sessionPolicy != "", p.sessionPolicy
		}
	}
	return call
}

func status(c fiber.Ctx, err error) int {
	if err != nil {
		return http.StatusInternalServerError
	}
	return c.Response().StatusCode()
}
