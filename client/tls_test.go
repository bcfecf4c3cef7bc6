package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// certificate is one for a name, and who trusts it.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestDial_ARouterIsWhomTheConfigurationNames(t *testing.T) {
	cert, trusted := certificate(t, "routers.test")
	r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) { return &controlv1.ListResourcesResponse{}, nil }}
	address := r.serve(t, "127.0.0.1:0", grpc.Creds(credentials.NewServerTLSFromCert(&cert)))

	named := dial(t, []string{address}, client.WithTLS(&tls.Config{RootCAs: trusted, ServerName: "routers.test", MinVersion: tls.VersionTLS13}))
	if _, _, err := named.List(t.Context(), "Source", ""); err != nil {
		t.Errorf("by the name in its certificate: %v", err)
	}
	for _, name := range []string{"", "others.test"} {
		c := dial(t, []string{address}, client.WithRetryFor(0), client.WithTLS(&tls.Config{RootCAs: trusted, ServerName: name, MinVersion: tls.VersionTLS13}))
		if _, _, err := c.List(t.Context(), "Source", ""); err == nil {
			t.Errorf("a router with another name than %q was believed", name)
		}
	}
}
