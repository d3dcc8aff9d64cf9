package bucket_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// TestChunkedUploadsKeepTheConnection: the aws command sends parts in HTTP's chunks around AWS's own, and the next one
// on the same connection.
func TestChunkedUploadsKeepTheConnection(t *testing.T) {
	name, role := customer(t)
	s3 := within(t, role, "")
	credentials, err := s3.Options().Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(server.CA())
	conn, err := tls.Dial("tcp", strings.TrimPrefix(server.Endpoint(), "https://"), &tls.Config{RootCAs: authority, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for _, tc := range []struct {
		bucket string
		body   string
		want   int
	}{
		{name, "hello", http.StatusOK},
		{name, strings.Repeat("0123456789", 500_000), http.StatusOK},
		{"not-" + name, strings.Repeat("0123456789", 500_000), http.StatusNotFound}, // refused before it is read
		{name, "once more", http.StatusOK},
	} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.Endpoint()+"/"+tc.bucket+"/file", nil)
		if err != nil {
			t.Fatal(err)
		}
		const unsigned = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
		for key, value := range map[string]string{
			"X-Amz-Content-Sha256": unsigned, "X-Amz-Trailer": "x-amz-checksum-crc32", "Content-Encoding": "aws-chunked",
			"X-Amz-Decoded-Content-Length": fmt.Sprint(len(tc.body)),
		} {
			q.Header.Set(key, value)
		}
		if err := v4.NewSigner().SignHTTP(t.Context(), credentials, q, unsigned, "s3", server.Region(), time.Now()); err != nil {
			t.Fatal(err)
		}
		sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(tc.body))))
		q.TransferEncoding = []string{"chunked"}
		q.Body = io.NopCloser(io.MultiReader( // each of them is a chunk of HTTP's
			strings.NewReader(fmt.Sprintf("%x\r\n%s\r\n", len(tc.body), tc.body)),
			strings.NewReader("0\r\nx-amz-checksum-crc32:"+sum+"\r\n\r\n"),
		))
		if err := q.Write(conn); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // a server that takes what is left for a request answers it now
		r, err := http.ReadResponse(answers, q)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != tc.want || r.Close {
			t.Fatalf("%d bytes to %s: %d, want %d, closing: %t: %s", len(tc.body), tc.bucket, r.StatusCode, tc.want, r.Close, answer)
		}
	}
}
