package certs

import (
	"crypto/x509"
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
	// Name within the role: the number of a router; for others what people chose, or AnyName.
	Name string
}

// AnyName is the name in a certificate that is shared by several parts of a role. Routers do not share theirs.
const AnyName = "any"

const uriScheme = "conveyor"

var identityName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Validate reports a role that is not known, or a name that cannot be.
func (i Identity) Validate() error {
	if !slices.Contains(roles, i.Role) {
		return fmt.Errorf("role %q is not one of %v", i.Role, roles)
	}
	if !identityName.MatchString(i.Name) {
		return fmt.Errorf("name %.80q is not 1 to 128 letters, digits and . _ -", i.Name)
	}
	return nil
}

// String is role and name with a slash between.
func (i Identity) String() string { return string(i.Role) + "/" + i.Name }

// MayBe reports whether a part with this identity may go by a name.
func (i Identity) MayBe(name string) bool {
	return i.Name == name || i.Name == AnyName && i.Role != RoleRouter
}

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
