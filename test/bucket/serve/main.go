// Command serve is the strict S3, STS and IAM of package bucket as a server of its own, for deploy/compose.yaml: who tries
// snapfleet meets the same refusals there as at AWS. It is no store for anything that matters.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/snapfleet/snapfleet/test/bucket"
)

type cli struct {
	Serve serveCmd `cmd:"" default:"withargs" help:"Serve S3, STS and IAM over TLS until SIGTERM."`
	Check checkCmd `cmd:"" help:"Ask a server whether it answers, for health checks."`
}

func main() {
	var c cli
	k := kong.Parse(&c, kong.Name("serve"), kong.Description("A strict S3, STS and IAM, to try snapfleet with."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	k.BindTo(ctx, (*context.Context)(nil))
	err := k.Run()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

type serveCmd struct {
	Dir    string   `required:"" type:"path" help:"Folder for objects, roles and certificates, which a later server goes on with."`
	Region string   `default:"us-west-2" help:"The one region there is."`
	S3     string   `name:"s3" default:"127.0.0.1:9000" help:"Where S3 listens."`
	STS    string   `name:"sts" default:"127.0.0.1:9001" help:"Where STS listens."`
	IAM    string   `name:"iam" default:"127.0.0.1:9002" help:"Where IAM listens."`
	Name   []string `help:"Host's name that the certificate is for, besides those of the loopback."`
	CA     string   `name:"ca" type:"path" placeholder:"FILE" help:"Where to write the certificate of the authority, for those who are to trust it."`
	Users  string   `required:"" type:"existingfile" placeholder:"FILE" help:"JSON with the users: arn, access_key, secret_key and policy of each."`
}

// user is one of the file.
type user struct {
	ARN       string          `json:"arn"`
	AccessKey string          `json:"access_key"`
	SecretKey string          `json:"secret_key"`
	Policy    json.RawMessage `json:"policy"`
}

// Run serves until it is told to stop.
func (s *serveCmd) Run(ctx context.Context) error {
	users, err := readUsers(s.Users)
	if err != nil {
		return err
	}
	// Not under ctx: what is told to stop is stopped in order.
	server, err := bucket.Start(context.WithoutCancel(ctx), bucket.Config{
		Dir: s.Dir, Region: s.Region, Versioning: true, S3: s.S3, STS: s.STS, IAM: s.IAM, Names: s.Name, Keep: true,
	})
	if err != nil {
		return err
	}
	for _, u := range users {
		err = errors.Join(err, server.AddUser(bucket.User{ARN: u.ARN, AccessKey: u.AccessKey, SecretKey: u.SecretKey, Policy: string(u.Policy)}))
	}
	if err == nil && s.CA != "" { // last: who has it finds everything there
		err = writeWhole(s.CA, server.CA())
	}
	if err == nil {
		fmt.Printf("S3 at %s, STS at %s, IAM at %s\n", server.Endpoint(), server.STSEndpoint(), server.IAMEndpoint())
		<-ctx.Done()
	}
	return errors.Join(err, server.Close())
}

func readUsers(file string) (users []user, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &users); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return users, nil
}

// writeWhole writes a file that others read, who see all of it or none.
func writeWhole(file string, text []byte) error {
	w, err := os.CreateTemp(filepath.Dir(file), ".ca-")
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return errors.Join(err, w.Chmod(0o644), w.Close(), os.Rename(w.Name(), file))
}

type checkCmd struct {
	URL string `arg:"" help:"Where it is, https://127.0.0.1:9000."`
	CA  string `name:"ca" required:"" type:"path" placeholder:"FILE" help:"Certificate of the authority."`
}

// Run is content with any answer: whoever asks has no keys.
func (c *checkCmd) Run(ctx context.Context) error {
	text, err := os.ReadFile(c.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s has no certificate in PEM", c.CA)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodHead, c.URL, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	r, err := client.Do(q)
	if err != nil {
		return err
	}
	return r.Body.Close()
}
