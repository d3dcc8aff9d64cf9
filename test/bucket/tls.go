package bucket

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// identity is a certificate for this machine's loopback, and the authority that signed it. Both are made
// afresh at each start and live for a day: nothing that trusts them outlives the server by much. Where they are kept,
// they live for a year.
type identity struct {
	ca       []byte // PEM
	caFile   string
	certFile string
	keyFile  string
	leaf     tls.Certificate
}

// provideIdentity finds the one of an earlier server, if it is to be kept and will do, or makes one.
func provideIdentity(dir string, names []string, keep bool) (*identity, error) {
	if !keep {
		return newIdentity(dir, names, 25*time.Hour)
	}
	id := filesOf(dir)
	var err error
	if id.ca, err = os.ReadFile(id.caFile); err == nil {
		id.leaf, err = tls.LoadX509KeyPair(id.certFile, id.keyFile)
	}
	if err == nil && time.Until(id.leaf.Leaf.NotAfter) > 30*24*time.Hour && slices.Equal(id.leaf.Leaf.DNSNames, allNames(names)) {
		return id, nil
	}
	return newIdentity(dir, names, 366*24*time.Hour)
}

func filesOf(dir string) *identity {
	return &identity{caFile: filepath.Join(dir, "ca.pem"), certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
}

func allNames(names []string) []string { return append([]string{"localhost"}, names...) }

func newIdentity(dir string, names []string, life time.Duration) (*identity, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the server's key: %w", err)
	}
	from := time.Now().Add(-time.Hour) // the clocks of containers differ
	until := from.Add(life)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(from.UnixNano()), Subject: pkix.Name{CommonName: "snapfleet test authority"},
		NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(from.UnixNano() + 1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: from, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    allNames(names), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, server, authority, &key.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign the server's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the server's key: %w", err)
	}
	id := filesOf(dir)
	id.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if id.leaf, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("pair certificate and key: %w", err)
	}
	for file, data := range map[string][]byte{id.caFile: id.ca, id.certFile: certPEM, id.keyFile: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return nil, fmt.Errorf("write certificate: %w", err)
		}
	}
	return id, nil
}

func (id *identity) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(id.ca)
	return p
}
