package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/conveyor-etl/conveyor/internal/atomicfile"
)

const (
	// DefaultValidity is how long the certificate of a part is valid.
	DefaultValidity = 365 * 24 * time.Hour
	authorityYears  = 10
	// backdated allows for clocks that differ.
	backdated = 10 * time.Minute

	dirMode = 0o700
)

// Authority makes the certificates of one cluster.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a new one; name is for people.
func NewAuthority(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of the authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdated), NotAfter: now.AddDate(authorityYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of the authority: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	return new(big.Int).SetBytes(b)
}

// Save writes certificate and key of the authority. It fails with an error that wraps os.ErrExist, and changes nothing, when one of the files is there.
func (a *Authority) Save(certFile, keyFile string) error {
	for _, f := range []string{certFile, keyFile} {
		if _, err := os.Lstat(f); err == nil {
			return fmt.Errorf("%s: %w", f, os.ErrExist)
		}
	}
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	// The key first: an authority without it is of no use, and looks like one.
	if err := writeFile(keyFile, key); err != nil {
		return err
	}
	return writeFile(certFile, certPEM(a.cert.Raw))
}

// LoadAuthority reads what Save wrote.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	certText, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	keyText, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the key of the authority: %w", err)
	}
	block, _ := pem.Decode(certText)
	if block == nil {
		return nil, fmt.Errorf("read the authority: %s holds no PEM", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the authority %s: %w", certFile, err)
	}
	if block, _ = pem.Decode(keyText); block == nil {
		return nil, fmt.Errorf("read the key of the authority: %s holds no PEM", keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the key of the authority %s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return &Authority{cert: cert, key: key}, nil
}

// Holds reports why a certificate that is valid for so long cannot be made: it would outlive the authority.
func (a *Authority) Holds(validity time.Duration) error {
	if time.Now().Add(validity).After(a.cert.NotAfter) {
		return fmt.Errorf("it would outlive the authority, which ends on %s", a.cert.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// ReadIssued returns for whom and for which hosts a certificate was issued.
func ReadIssued(certFile string) (Identity, []string, error) {
	text, err := os.ReadFile(certFile)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("read a certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return Identity{}, nil, fmt.Errorf("read a certificate: %s holds no PEM", certFile)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("read the certificate %s: %w", certFile, err)
	}
	hosts := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	id, err := IdentityOf(c)
	return id, hosts, err
}

// Issue makes a certificate of an identity for these host names and addresses, and writes it, its key and that of the authority into dir as tls.crt, tls.key and ca.crt,
// each as a whole, in place of what is there. A part that runs takes them over by itself.
func (a *Authority) Issue(id Identity, hosts []string, validity time.Duration, dir string) (Files, error) {
	files := Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	if err := id.Validate(); err != nil {
		return files, fmt.Errorf("make a certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, fmt.Errorf("make the key of %s: %w", id, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: id.String()}, URIs: []*url.URL{id.uri()},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(validity), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if err := a.Holds(validity); err != nil {
		return files, fmt.Errorf("make the certificate of %s: %w", id, err)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return files, fmt.Errorf("make the certificate of %s: %w", id, err)
	}
	text, err := keyPEM(key)
	if err != nil {
		return files, err
	}
	// A part that looks in between finds a certificate that does not fit its key, and looks again.
	return files, errors.Join(writeFile(files.Key, text), writeFile(files.Cert, certPEM(der)), writeFile(files.CA, certPEM(a.cert.Raw)))
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writeFile replaces a file as a whole, readable by its owner only, in a folder that it makes if needed.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	return atomicfile.Write(path, content)
}
