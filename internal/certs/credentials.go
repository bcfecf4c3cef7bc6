package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
)

// ClientCredentials returns gRPC credentials for clients that follow renewals; each new connection
// uses the files of its time. Servers must be signed by the CA, and their certificates carry the
// name or address dialled and one of the roles; no roles mean any.
func (s *Store) ClientCredentials(roles ...Role) credentials.TransportCredentials {
	roles = slices.Clone(roles)
	return &clientCreds{config: func() *tls.Config {
		cfg := s.ClientConfig("")
		if len(roles) > 0 {
			cfg.VerifyConnection = func(state tls.ConnectionState) error { return hasRole(&state, roles) }
		}
		return cfg
	}}
}

// HostCredentials is like [Store.ClientCredentials] for a server of which is known both where and who
// it is: several of a role may share a machine, and then the certificate of each carries its name.
func (s *Store) HostCredentials(role Role, name string) credentials.TransportCredentials {
	return &clientCreds{config: func() *tls.Config {
		cfg := s.ClientConfig("")
		cfg.VerifyConnection = func(state tls.ConnectionState) error { return isIdentity(&state, role, name) }
		return cfg
	}}
}

// IdentityCredentials is like [Store.ClientCredentials] for servers that are known by who they are
// and not by where they are: they come and go at addresses that nobody could know when their
// certificates were made. The server must be signed by the CA, and may be who the name says.
func (s *Store) IdentityCredentials(role Role, name string) credentials.TransportCredentials {
	return &clientCreds{config: func() *tls.Config {
		cfg := s.ClientConfig("")
		roots := cfg.RootCAs
		cfg.InsecureSkipVerify = true //nolint:gosec // the check of the host cannot be left out alone, so VerifyConnection does the rest
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			if err := isSigned(&state, roots, x509.ExtKeyUsageServerAuth); err != nil {
				return err
			}
			return isIdentity(&state, role, name)
		}
		return cfg
	}}
}

// PeerTLS returns a TLS configuration for both directions between parts of one role, which follows
// renewals, of the CA too. The host is not looked at.
func (s *Store) PeerTLS(role Role) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.pair(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.pair(), nil },
		// VerifyConnection does it in both directions, against the CA of the time.
		InsecureSkipVerify:     true, //nolint:gosec // see above
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := isSigned(&state, s.current().ca, x509.ExtKeyUsageAny); err != nil {
				return err
			}
			return hasRole(&state, []Role{role})
		},
	}
}

func (s *Store) pair() *tls.Certificate {
	pair := s.current().cert
	return &pair
}

// An IdentityError says that the other side is somebody else than was to be talked to.
type IdentityError struct {
	Got Identity
	// Want says who was expected, for people.
	Want string
}

// Error names both.
func (e *IdentityError) Error() string {
	return fmt.Sprintf("the other side is %s, and %s was expected there", e.Got, e.Want)
}

var errNoCertificate = errors.New("the other side shows no certificate")

// isSigned checks what the other side of a connection shows against a CA, but for its host.
func isSigned(state *tls.ConnectionState, roots *x509.CertPool, usage x509.ExtKeyUsage) error {
	if len(state.PeerCertificates) == 0 {
		return errNoCertificate
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := state.PeerCertificates[0].Verify(opts); err != nil {
		return fmt.Errorf("certificate of the other side: %w", err)
	}
	return nil
}

// otherSide is whom the certificate of the other side speaks for.
func otherSide(state *tls.ConnectionState) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, errNoCertificate
	}
	return IdentityOf(state.PeerCertificates[0])
}

func hasRole(state *tls.ConnectionState, want []Role) error {
	got, err := otherSide(state)
	if err != nil || slices.Contains(want, got.Role) {
		return err
	}
	var names []string
	for _, r := range want {
		names = append(names, string(r))
	}
	return &IdentityError{Got: got, Want: "a " + strings.Join(names, " or ")}
}

func isIdentity(state *tls.ConnectionState, role Role, name string) error {
	got, err := otherSide(state)
	if err != nil || got.Role == role && got.MayBe(name) {
		return err
	}
	return &IdentityError{Got: got, Want: Identity{role, name}.String()}
}

// clientCreds makes fresh TLS credentials for every handshake. A tls.Config has no hook for changing
// the roots that servers are checked against, and one that checks by itself does not learn the
// address that is dialled: what TLS calls the name of the server is empty then.
type clientCreds struct{ config func() *tls.Config }

func (c *clientCreds) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.now().ClientHandshake(ctx, authority, conn)
}

func (c *clientCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials used by a server")
}

func (c *clientCreds) Info() credentials.ProtocolInfo { return c.now().Info() }

func (c *clientCreds) Clone() credentials.TransportCredentials {
	return &clientCreds{config: c.config}
}

// OverrideServerName is part of the interface; gRPC calls it no more.
func (c *clientCreds) OverrideServerName(string) error {
	return errors.New("use grpc.WithAuthority to change the name of the server")
}

func (c *clientCreds) now() credentials.TransportCredentials { return credentials.NewTLS(c.config()) }
