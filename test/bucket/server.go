package bucket

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
	"go.uber.org/goleak"
)

// Config is what a server is made of.
type Config struct {
	// Dir is where objects, their versions and the certificates live. Required; made if it is not there.
	// A tmpfs will do. It is not removed.
	Dir string
	// Region is the one region there is. Default us-east-1.
	Region string
	// Versioning lets buckets be versioned (PutBucketVersioning). Default off: the gateway prints a line
	// on standard output where it is on.
	Versioning bool
	// S3, STS and IAM are where they listen, host:port. Default: a free port of 127.0.0.1 each.
	S3, STS, IAM string
	// Names are hosts' names that the certificate is for, too, besides those of the loopback.
	Names []string
	// Keep lets a later server with the same Dir go on: with the same certificates, which live for a year, with every
	// role, and with buckets that belong to whom they belonged. Users and what was said of buckets it does not know.
	Keep bool
}

// Server is a running S3, STS and IAM.
type Server struct {
	dir      string
	region   string
	endpoint string
	sts      *door
	roles    *door // IAM
	id       *identity
	iam      *registry
	backend  backend.Backend
	journal  journal
	settings settings
	keys     keys
	faults   faults
	client   *http.Client

	rootSecret string
	stop       context.CancelCauseFunc
	gateway    chan error // what the gateway returned, once
	closing    sync.Once
	closed     error
}

const rootAccess = "snapfleetroot"

// running: the gateway keeps globals, so a process has one server at a time.
var running atomic.Bool

// ErrRunning is returned by [Start] while another server of this process is running.
var ErrRunning = errors.New("bucket: a server is running in this process already, and the gateway beneath allows one at a time: share it, or Close it first")

// Start starts a server on three free ports of 127.0.0.1. It runs until [Server.Close], or until ctx ends.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("bucket: Config.Dir is required")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if !running.CompareAndSwap(false, true) {
		return nil, ErrRunning
	}
	s, err := start(ctx, cfg)
	if err != nil {
		running.Store(false)
		return nil, fmt.Errorf("bucket: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (_ *Server, err error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"objects", "versions", "meta", "tls"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	id, err := provideIdentity(filepath.Join(dir, "tls"), cfg.Names, cfg.Keep)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, region: cfg.Region, id: id, rootSecret: rand.Text()}
	s.iam = newRegistry(auth.Account{Access: rootAccess, Secret: s.rootSecret, Role: auth.RoleAdmin})
	if cfg.Keep {
		if err := s.iam.keepIn(filepath.Join(dir, "iam.json")); err != nil {
			return nil, err
		}
	}
	s.client = &http.Client{Transport: s.transport()}
	if err := s.startSTS(cfg); err != nil {
		return nil, err
	}
	ctx, s.stop = context.WithCancelCause(ctx)
	if err := s.startGateway(ctx, dir, cfg); err != nil {
		s.sts.close()
		s.roles.close()
		s.stop(err)
		return nil, err
	}
	context.AfterFunc(ctx, func() { s.Close() }) // Close keeps its error for the one who asks
	return s, nil
}

// transport is AWS's own, trusting our authority.
func (s *Server) transport() *http.Transport {
	t := awshttp.NewBuildableClient().GetTransport()
	t.TLSClientConfig = &tls.Config{RootCAs: s.id.pool(), MinVersion: tls.VersionTLS12}
	t.MaxIdleConnsPerHost = 64
	return t
}

func (s *Server) startSTS(cfg Config) (err error) {
	if s.sts, err = s.open(cfg.STS, s.serveSTS(time.Now)); err != nil {
		return err
	}
	if s.roles, err = s.open(cfg.IAM, s.serveIAM(time.Now)); err != nil {
		s.sts.close()
	}
	return err
}

// door is an HTTP server of ours.
type door struct {
	url    string
	server *http.Server
	done   chan struct{}
}

func (s *Server) open(address string, h http.Handler) (*door, error) {
	l, err := net.Listen("tcp", cmp.Or(address, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	d := &door{url: "https://" + fromHere(l.Addr().String()), done: make(chan struct{}), server: &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{s.id.leaf}, MinVersion: tls.VersionTLS12},
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1: a connection can be reset
		ErrorLog:          log.New(io.Discard, "", 0),
	}}
	go func() {
		defer close(d.done)
		d.server.ServeTLS(l, "", "") // ErrServerClosed, from close
	}()
	return d, nil
}

func (d *door) close() {
	d.server.Close() // nothing to lose
	<-d.done
}

// fromHere is an address that this machine reaches a server at that listens on all of its own.
func fromHere(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// startGateway starts versitygw. It takes no listener and names no port that it chose, so we look for a
// free port and, where somebody was faster, for another one.
func (s *Server) startGateway(ctx context.Context, dir string, cfg Config) error {
	tries := 10
	if cfg.S3 != "" {
		tries = 1
	}
	var last error
	for range tries {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		if cfg.S3 != "" {
			address = cfg.S3
		}
		if s.backend, err = newBackend(dir, cfg.Versioning); err != nil {
			return err
		}
		ready := make(chan struct{})
		s.gateway = make(chan error, 1)
		gatewayConfig := &embedgw.Config{
			RootUserAccess: rootAccess, RootUserSecret: s.rootSecret, IAMService: s.iam,
			Region: s.region, Ports: []string{address}, CertFile: s.id.certFile, KeyFile: s.id.keyFile,
			MaxConnections: 4096, MaxRequests: 4096, MultipartMaxParts: 10_000, KeepAlive: true, Quiet: true,
			S3Options: []s3api.Option{
				s3api.WithOnListen(func() { close(ready) }),
				s3api.WithMiddleware("/", s.disturb),
			},
		}
		gateway := s.gateway
		go func() { gateway <- embedgw.RunVersityGW(ctx, s.backend, gatewayConfig) }()
		select {
		case <-ready:
			s.endpoint = "https://" + fromHere(address)
			return nil
		case last = <-gateway:
		}
	}
	return fmt.Errorf("start the gateway: %w", last)
}

func newBackend(dir string, versioning bool) (backend.Backend, error) {
	root := filepath.Join(dir, "objects")
	opts := posix.PosixOpts{NewDirPerm: 0o700, Concurrency: 5000}
	if versioning {
		opts.VersioningDir = filepath.Join(dir, "versions")
	}
	var store meta.MetadataStorer = meta.XattrMeta{}
	if err := (meta.XattrMeta{}).Test(root); err != nil { // a file system without extended attributes
		opts.SideCarDir = filepath.Join(dir, "meta")
		if store, err = meta.NewSideCar(opts.SideCarDir); err != nil {
			return nil, fmt.Errorf("keep metadata in %s: %w", opts.SideCarDir, err)
		}
	}
	b, err := posix.New(root, store, opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	return b, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Close lets go of every held call, stops the servers and waits for them. Objects stay in Config.Dir.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.faults.clear()
		s.client.CloseIdleConnections()
		s.stop(errors.New("bucket: closed"))
		s.sts.close()
		s.roles.close()
		if err := <-s.gateway; err != nil {
			s.closed = fmt.Errorf("bucket: stop the gateway: %w", err)
		}
		s.client.CloseIdleConnections()
		running.Store(false)
	})
	return s.closed
}

// LeftBehind is for goleak: what the gateway's HTTP library leaves running for ever, or for up to ten
// seconds, after [Server.Close].
func LeftBehind() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	}
}

// Endpoint is where S3 is, https://127.0.0.1:port.
func (s *Server) Endpoint() string { return s.endpoint }

// STSEndpoint is where STS is, https://127.0.0.1:port.
func (s *Server) STSEndpoint() string { return s.sts.url }

// IAMEndpoint is where IAM is, https://127.0.0.1:port: as much of it as a customer needs who sets up a role.
func (s *Server) IAMEndpoint() string { return s.roles.url }

// Region is the one region there is.
func (s *Server) Region() string { return s.region }

// CA is the certificate of the authority that both servers are signed by, in PEM.
func (s *Server) CA() []byte { return append([]byte(nil), s.id.ca...) }

// CAFile is the same as a file, for AWS_CA_BUNDLE.
func (s *Server) CAFile() string { return s.id.caFile }

// HTTPClient trusts the authority. It is shared: its idle connections end with the server.
func (s *Server) HTTPClient() *http.Client { return s.client }

// Environ is the AWS SDK's standard environment by which another process reaches the server as the user.
// It names no region for requests to other endpoints, and keeps the machine's own AWS settings out.
func (s *Server) Environ(u User) []string {
	return []string{
		"AWS_ENDPOINT_URL_S3=" + s.endpoint,
		"AWS_ENDPOINT_URL_STS=" + s.sts.url,
		"AWS_ENDPOINT_URL_IAM=" + s.roles.url,
		"AWS_CA_BUNDLE=" + s.id.caFile,
		"AWS_REGION=" + s.region,
		"AWS_ACCESS_KEY_ID=" + u.AccessKey,
		"AWS_SECRET_ACCESS_KEY=" + u.SecretKey,
		"AWS_SESSION_TOKEN=",
		"AWS_PROFILE=",
		"AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"AWS_EC2_METADATA_DISABLED=true",
	}
}

// AWSConfig is what config.LoadDefaultConfig makes of [Server.Environ]: s3.NewFromConfig and
// sts.NewFromConfig reach this server with it.
func (s *Server) AWSConfig(u User) aws.Config {
	return s.awsConfig(u.AccessKey, u.SecretKey)
}

func (s *Server) awsConfig(access, secret string) aws.Config {
	return aws.Config{
		Region:                     s.region,
		Credentials:                credentials.NewStaticCredentialsProvider(access, secret, ""),
		HTTPClient:                 s.client,
		ConfigSources:              []any{endpoints{s3: s.endpoint, sts: s.sts.url}},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
	}
}

// endpoints is a source of configuration as the SDK asks for it, like AWS_ENDPOINT_URL_S3 and _STS.
type endpoints struct{ s3, sts string }

// GetServiceBaseEndpoint tells the SDK where a service is.
func (e endpoints) GetServiceBaseEndpoint(_ context.Context, sdkID string) (string, bool, error) {
	switch sdkID {
	case "S3":
		return e.s3, true, nil
	case "STS":
		return e.sts, true, nil
	}
	return "", false, nil
}

// Admin is a client that every bucket obeys.
func (s *Server) Admin() *s3.Client {
	return s3.NewFromConfig(s.awsConfig(rootAccess, s.rootSecret))
}

// CreateBucket makes a bucket that belongs to a 12-digit account: x-amz-expected-bucket-owner and the
// policies across accounts go by it.
func (s *Server) CreateBucket(ctx context.Context, name, owner string) error {
	input := &s3.CreateBucketInput{Bucket: &name}
	if s.region != "us-east-1" {
		input.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(s.region)}
	}
	if _, err := s.Admin().CreateBucket(ctx, input); err != nil {
		return fmt.Errorf("bucket: create %s: %w", name, err)
	}
	if err := auth.UpdateBucketACLOwner(ctx, s.backend, name, owner); err != nil {
		return fmt.Errorf("bucket: give %s to %s: %w", name, owner, err)
	}
	return s.iam.give(name, owner)
}
