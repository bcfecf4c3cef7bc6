package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Role says what a part is, and so what it may do.
type Role string

// The roles.
const (
	RoleRouter   Role = "router"
	RoleSidecar  Role = "sidecar"
	RoleAdmin    Role = "admin"
	RoleOperator Role = "operator"
)

var roles = []Role{RoleRouter, RoleSidecar, RoleAdmin, RoleOperator}

// Identity is who a certificate speaks for. It stands in the certificate as its only URI of the scheme conveyor: conveyor://router/1.
type Identity struct {
	Role Role
	// Name within the role: the number of a router; for others what people chose.
	Name string
}

const uriScheme = "conveyor"

var identityName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Validate reports a role that is not known, or a name that cannot be.
func (i Identity) Validate() error {
	if !slices.Contains(roles, i.Role) {
		return fmt.Errorf("role %q is not one of %v", i.Role, roles)
	}
	if !identityName.MatchString(i.Name) {
		return fmt.Errorf("name %.80q is not 1 to 64 letters, digits and . _ -", i.Name)
	}
	return nil
}

// String is role and name with a slash between.
func (i Identity) String() string { return string(i.Role) + "/" + i.Name }

// uri is how the identity stands in a certificate.
func (i Identity) uri() *url.URL {
	return &url.URL{Scheme: uriScheme, Host: string(i.Role), Path: "/" + i.Name}
}

// ParseIdentity reads what String writes.
func ParseIdentity(s string) (Identity, error) {
	role, name, _ := strings.Cut(s, "/")
	i := Identity{Role: Role(role), Name: name}
	return i, i.Validate()
}

// IdentityOf returns the identity that a certificate speaks for. It is an error when it has none, or several.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	var found []Identity
	for _, u := range c.URIs {
		if u.Scheme != uriScheme {
			continue
		}
		i := Identity{Role: Role(u.Host), Name: strings.TrimPrefix(u.Path, "/")}
		if err := i.Validate(); err != nil || u.String() != i.uri().String() {
			return Identity{}, fmt.Errorf("certificate of %q names an identity that cannot be: %s", c.Subject.CommonName, u)
		}
		found = append(found, i)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Identity{}, fmt.Errorf("certificate of %q names no identity of Conveyor's: make certificates with 'conveyor cluster init'", c.Subject.CommonName)
	}
	return Identity{}, fmt.Errorf("certificate of %q names %d identities", c.Subject.CommonName, len(found))
}

// RoleError says that the other side is somebody else than was to be talked to.
type RoleError struct {
	Got  Identity
	Want []Role
}

// Error names both.
func (e *RoleError) Error() string {
	var want []string
	for _, r := range e.Want {
		want = append(want, string(r))
	}
	return fmt.Sprintf("the other side is %s, and a %s was expected there", e.Got, strings.Join(want, " or "))
}

// verify checks what the other side of a connection shows against the CA of now, and that it has one of the roles. usage is what its certificate must be for; host is
// checked unless it is empty.
func (s *Store) verify(state *tls.ConnectionState, usage x509.ExtKeyUsage, host string, want []Role) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the other side shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	opts := x509.VerifyOptions{Roots: s.current().ca, Intermediates: x509.NewCertPool(), DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return fmt.Errorf("certificate of the other side: %w", err)
	}
	if len(want) == 0 {
		return nil
	}
	got, err := IdentityOf(leaf)
	if err != nil {
		return err
	}
	if !slices.Contains(want, got.Role) {
		return &RoleError{Got: got, Want: want}
	}
	return nil
}

// ClientTLS returns a TLS configuration for clients that follows renewals, of the CA too. It shows the certificate of this part, and accepts servers whose certificate
// carries the name that is dialled and one of the roles; no roles mean any.
func (s *Store) ClientTLS(roles ...Role) *tls.Config {
	cfg := s.clientTLS()
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		return s.verify(&state, x509.ExtKeyUsageServerAuth, state.ServerName, roles)
	}
	return cfg
}

// AnyHostTLS is ClientTLS for servers that are known by their role alone, at whatever address they are.
func (s *Store) AnyHostTLS(roles ...Role) *tls.Config {
	cfg := s.clientTLS()
	cfg.VerifyConnection = func(state tls.ConnectionState) error { return s.verify(&state, x509.ExtKeyUsageServerAuth, "", roles) }
	return cfg
}

func (s *Store) clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := s.current().cert
			return &cert, nil
		},
		// VerifyConnection does it, against the CA of the time.
		InsecureSkipVerify: true, //nolint:gosec // see above
	}
}

// PeerTLS returns a TLS configuration for both directions between parts of one role, which follows renewals.
func (s *Store) PeerTLS(role Role) *tls.Config {
	cfg := s.clientTLS()
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert := s.current().cert
		return &cert, nil
	}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.SessionTicketsDisabled = true
	cfg.VerifyConnection = func(state tls.ConnectionState) error { return s.verify(&state, x509.ExtKeyUsageAny, "", []Role{role}) }
	return cfg
}
