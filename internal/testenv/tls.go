package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Certs are certificates that nobody else trusts: of an authority, and one by it for 127.0.0.1, which
// servers and clients use.
type Certs struct {
	CA, Cert, Key string // files in PEM
}

// NewCerts makes certificates for a test.
func NewCerts(t testing.TB) *Certs {
	t.Helper()
	dir := t.TempDir()
	c := &Certs{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	must := func(err error) {
		if err != nil {
			t.Fatalf("testenv: %v", err)
		}
	}
	template := func(n int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: "freshet test " + strconv.FormatInt(n, 10)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := template(1)
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := template(2)
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	for file, block := range map[string]*pem.Block{
		c.CA:   {Type: "CERTIFICATE", Bytes: caDER},
		c.Cert: {Type: "CERTIFICATE", Bytes: leafDER},
		c.Key:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		must(os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	return c
}

// TLS makes a server speak nothing else, to clients and to other servers, and want a certificate of them.
func TLS(c *Certs) Option {
	return func(s *RedisServer) { s.certs = c }
}

func (c *Certs) args(port int) []string {
	return []string{
		"--port", "0", "--tls-port", strconv.Itoa(port), "--tls-ca-cert-file", c.CA, "--tls-cert-file", c.Cert, "--tls-key-file", c.Key,
		"--tls-replication", "yes", "--tls-cluster", "yes",
	}
}

// url puts a URL together, of a scheme without TLS; c may be nil.
func (c *Certs) url(scheme, hosts, query string) string {
	if c != nil {
		scheme = strings.Replace(scheme, "redis", "rediss", 1)
		tls := "tls_ca=" + c.CA + "&tls_cert=" + c.Cert + "&tls_key=" + c.Key
		query = strings.TrimPrefix(query+"&"+tls, "&")
	}
	if query != "" {
		query = "?" + query
	}
	return scheme + "://" + hosts + query
}
